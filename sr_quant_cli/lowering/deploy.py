"""Conversion of a float or quantized network to a graph for runtimes."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import onnx
from torch import Tensor, nn

from sr_quant_cli.errors import FailedError
from sr_quant_cli.lowering.lower import (
    absorb_norms,
    absorb_shifts,
    avoid_unit_steps,
    lower,
    quantize_early,
    simplify_activations,
)
from sr_quant_cli.lowering.onnx import Io, least_side, to_onnx
from sr_quant_cli.lowering.spec import QuantSpec, freeze, reduce_range, snap
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import fold_exactly
from sr_quant_cli.networks.layers import MatMul
from sr_quant_cli.passes.fix_ranges import fix_ranges
from sr_quant_cli.quant.dynamic import dynamic_quantizers
from sr_quant_cli.quant.sites import TENSORS
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.runtimes.torch import traits_of_network

Offsets = Literal["exact", "snap"]

_FLOAT_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, MatMul)


@dataclass(frozen=True)
class Deployed:
    """A graph, and a description of the network in it."""

    model: onnx.ModelProto
    traits: ModelTraits
    integer_layers: int
    """number of layers and products whose operands are integers, at any depth"""
    all_integer: bool
    """True if every layer can run as an integer kernel"""
    notes: tuple[str, ...]
    """one line for each reason why operands stay float, and for each change of the network"""
    changed: Network | None
    """network in torch with these changes; None if there are none"""


def deploy(
    network: Network,
    name: str,
    io: Io,
    *,
    offsets: Offsets = "exact",
    full_range: bool = False,
    calibration: Iterable[Tensor] | None = None,
    folded: bool = True,
) -> Deployed:
    """Make the graph of a network; the network stays unchanged.

    A float network is folded exactly. In a quantized one everything runs on integers that can.

    Parameters
    ----------
    offsets
        Real-valued zero points: ``exact`` keeps them by window sums and biases at the border,
        ``snap`` rounds them to integers.
    full_range
        Keep 8-bit weights with which kernels of older processors saturate.
    calibration
        LR pictures ``[N, 3, h, w]``, 0..1, on which dynamic ranges are fixed. None: they stay
        dynamic, in floating point.
    folded
        False: do not fold a float network.

    Raises
    ------
    FailedError
        The network has operations that ONNX does not have, or its bits depend on the picture in a
        way that a graph cannot follow.
    """
    chosen = dynamic_quantizers(network).values()
    if calibration is None and not all(quantizer.symmetric_grids() for quantizer in chosen):
        raise FailedError(
            f"the bits of {name} follow the picture, and not only steps follow them: choose a "
            "`row`, or fix bits and ranges by `calibrate`"
        )
    notes: list[str] = []
    layers, all_integer, changed = 0, False, None
    if network.quantization is None:
        lowered = fold_exactly(network) if folded else deepcopy(network)
    else:
        network, fixed = deepcopy(network), 0
        if calibration is not None and (fixed := fix_ranges(network, calibration)):
            notes.append(f"{fixed} dynamic or non-uniform ranges fixed to their means")
        spec = frozen = freeze(network)
        notes += _in_float(spec)
        if offsets == "snap":
            spec = _told(spec, snap(spec), "moved to a multiple of its step", notes)
        if not full_range:
            what = "8-bit weights reduced to 7 bits, for processors without VNNI,"
            spec = _told(spec, reduce_range(spec), what, notes)
        lowered = lower(network, spec)
        absorb_norms(lowered)
        absorb_shifts(lowered)
        quantize_early(lowered)
        avoid_unit_steps(lowered)
        products = [site for site in spec.sites if site.site.kind not in TENSORS]
        layers = sum(site.on_integers for site in products)
        all_integer = (
            layers == len(products)
            and network.on_codes
            and not any(isinstance(module, _FLOAT_LAYERS) for module in lowered.modules())
            and spec.passes_codes
            and network.depth == "full"
            and network.bit_provider is None
            and not any(site.needs_float for site in spec.sites)
        )
        if fixed or _changed(frozen, spec):
            changed = deepcopy(lowered)
    simplify_activations(lowered)
    traits = traits_of_network(lowered, name, least_side(lowered))
    model = to_onnx(lowered, io)
    return Deployed(model, traits, layers, all_integer, tuple(notes), changed)


def _in_float(spec: QuantSpec) -> Iterator[str]:
    """Yield a line for each reason why operands stay float."""
    for why in dict.fromkeys(why for _, why in spec.obstacles):
        paths = [path for path, other in spec.obstacles if other == why]
        shown = ", ".join(paths if len(paths) <= 3 else [paths[0], paths[1], "...", paths[-1]])
        yield f"{len(paths)} operands stay in float ({shown}): {why}"


def _changed(before: QuantSpec, after: QuantSpec) -> int:
    """Count the sites that differ."""
    return sum(a is not b for a, b in zip(before.sites, after.sites, strict=True))


def _told(before: QuantSpec, after: QuantSpec, what: str, notes: list[str]) -> QuantSpec:
    if changed := _changed(before, after):
        notes.append(f"{what} at {changed} of {len(after.sites)} sites")
    return after
