"""Statistics of quantized operands: bounds, share of values clipped, signal-to-noise ratio."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, log10

import numpy as np
import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.widths import level_count

OPERANDS = {
    "input_quantizer": "input",
    "weight_quantizer": "weight",
    "left_quantizer": "left",
    "right_quantizer": "right",
}
"""Names of the operands by those of their quantizers."""
_BINS = 64
_SAMPLE = 4096
"""most values of a tensor that are counted"""


@dataclass(frozen=True)
class Histogram:
    """Counts of a sample of values, in equal bins from the smallest to the largest one."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class OperandStatistics:
    """A quantized operand of a site.

    Attributes
    ----------
    bits, levels
        Width; where it follows the picture, the widest one.
    lower, upper
        Clipping bounds, over all channels and pictures.
    clipped
        Share of the values outside of them.
    sqnr
        Signal-to-quantization-noise ratio, dB; inf: the values are levels already.
    """

    operand: str
    bits: int
    levels: int
    lower: float
    upper: float
    clipped: float
    sqnr: float
    histogram: Histogram


@dataclass
class _Sums:
    """Sums over all values that a quantizer has seen."""

    lower: float = inf
    upper: float = -inf
    signal: float = 0.0
    noise: float = 0.0
    outside: int = 0
    values: int = 0
    bits: list[int] = field(default_factory=list)
    sample: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def operand_statistics(
    network: Network, lr: Sequence[Tensor]
) -> dict[str, tuple[OperandStatistics, ...]]:
    """Run a quantized network, and look at the operands of its sites.

    Parameters
    ----------
    lr
        LR pictures ``[N, 3, h, w]``, 0..1.

    Returns
    -------
    dict
        By the path of the site; sites that quantize nothing are left out.
    """
    assert network.quantization is not None
    found: dict[str, dict[str, _Sums]] = {}
    hooks = []
    for entry in network.quantization.sites:
        for name, module in network.get_submodule(entry.site.path).named_children():
            if isinstance(module, Quantizer) and module.mode == "quantize":
                sums = found.setdefault(entry.site.path, {}).setdefault(OPERANDS[name], _Sums())
                hooks.append(module.register_forward_hook(partial(_add, sums)))
    try:
        network.eval()
        for pictures in lr:
            network(pictures)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        path: tuple(_finished(operand, sums) for operand, sums in operands.items() if sums.values)
        for path, operands in found.items()
    }


def _add(sums: _Sums, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    assert isinstance(module, Quantizer)
    x = inputs[0].float()
    shift = module.shift_before()
    if shift is not None:
        x = x + shift
    grid = module.grid(x)
    sums.lower = min(sums.lower, float(grid.lower.min()))
    sums.upper = max(sums.upper, float(grid.upper.max()))
    sums.signal += float(x.double().square().sum())
    sums.noise += float((x - output).double().square().sum())
    sums.outside += int(((x < grid.lower) | (x > grid.upper)).sum())
    sums.values += x.numel()
    sums.bits.append(grid.bits)
    sums.sample.append(_drawn(x))


def _finished(operand: str, sums: _Sums) -> OperandStatistics:
    bits = max(sums.bits)
    return OperandStatistics(
        operand=operand,
        bits=bits,
        levels=level_count(bits),
        lower=sums.lower,
        upper=sums.upper,
        clipped=sums.outside / sums.values,
        sqnr=10 * log10(sums.signal / sums.noise) if sums.noise and sums.signal else inf,
        histogram=_histogram(torch.cat(sums.sample)),
    )


def _drawn(x: Tensor) -> Tensor:
    """All values of a small tensor, randomly drawn ones of a large one."""
    if x.numel() <= _SAMPLE:
        return x.flatten().clone()
    # No regular stride, which could meet the same place of every kernel.
    random = torch.Generator().manual_seed(0)
    return x.flatten()[torch.randint(x.numel(), (_SAMPLE,), generator=random)]


def _histogram(values: Tensor) -> Histogram:
    counts, edges = np.histogram(values.numpy(), _BINS)
    return Histogram(float(edges[0]), float(edges[-1]), tuple(counts.tolist()))
