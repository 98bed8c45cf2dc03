"""Quantizers: modules that put one tensor on a grid.

A quantizer combines a grid, a range and a gradient rule. Methods differ in where the range comes
from: they derive their own quantizers from these and define ``grid``.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_quant_cli.quant.fake import Rule, fake_quantize
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, above, affine_zero, sym_narrow
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.ranges import Bounds, max_abs, range_shape
from sr_quant_cli.quant.widths import check_bits

Mode = Literal["quantize", "observe", "off"]


class Quantizer(nn.Module):
    """Fake-quantizes its input: any floating type -> float32 of the same shape.

    Mode ``observe`` looks at the input and returns it unchanged; mode ``off`` only returns it. The
    mode is set from outside and is not part of the state.

    Raises
    ------
    ValueError
        ``bits`` is not between 2 and 8.
    """

    obstacle: ClassVar[str] = "its range follows from the picture at run time"
    """reason why there is no static grid, where there is none"""

    def __init__(self, bits: int, rule: Rule) -> None:
        super().__init__()
        self.bits = check_bits(bits)
        self.rule = rule
        self.mode: Mode = "quantize"

    @abstractmethod
    def grid(self, x: Tensor) -> Grid:
        """Grid for a float32 tensor; for a static quantizer it is independent of ``x``."""

    def static_grid(self) -> Grid | None:
        """Grid for any input; None if it depends on the input, or levels are not uniform."""
        return None

    def shift_before(self) -> Tensor | None:
        """Shift added to the input before quantization; None: no shift."""
        return None

    def require_zero_level(self) -> None:
        """Use a grid with zero as a level: integer kernels pad with zero."""

    def observe(self, x: Tensor) -> None:
        """Update the range from a calibration batch; nothing if the range follows from ``x``."""

    def clamp_range(self) -> None:
        """Keep a learned range valid, after a training step."""

    def auxiliary(self) -> list[nn.Parameter]:
        """Parameters that are not ranges: those of gates and selectors."""
        return []

    def bake_constants(self) -> None:
        """Turn state that decides the control flow into constants, so that tracing works."""
        for name, value in list(self.named_buffers(recurse=False)):
            if value.ndim == 0 and not value.is_floating_point():
                delattr(self, name)
                setattr(self, name, value.item())

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``; return it unchanged if the mode is not ``quantize``."""
        if self.mode == "quantize":
            return fake_quantize(x, self.grid(x), self.rule)
        if self.mode == "observe":
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self.observe(x.float())
        return x

    def extra_repr(self) -> str:
        """Bits and rule, for printing."""
        return f"bits={self.bits}, rule={self.rule}"


class BoundsQuantizer(Quantizer):
    """Quantizer with a static range ``[lower, upper]``, calibrated and possibly learned.

    The state records whether the range was calibrated, so a fresh model never calibrates on a test
    picture.

    Parameters
    ----------
    to_grid
        ``affine_real`` or ``affine_int``.
    estimate
        Bounds of one observed tensor.
    shape
        Shape of each bound: ``()``, or ``(C, 1, 1, 1)`` for one per output channel.
    average
        Combine batches by the mean of their bounds; False: by the widest bounds.
    """

    lower: Tensor
    upper: Tensor
    batches: Tensor

    def __init__(
        self,
        bits: int,
        rule: Rule,
        to_grid: Callable[[Tensor, Tensor, int], Grid],
        estimate: Callable[[Tensor], Bounds],
        shape: tuple[int, ...] = (),
        *,
        average: bool = True,
    ) -> None:
        super().__init__(bits, rule)
        self._to_grid = to_grid
        self._estimate = estimate
        self._average = average
        self.lower = nn.Parameter(torch.zeros(shape))
        self.upper = nn.Parameter(torch.zeros(shape))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def require_zero_level(self) -> None:
        """Use ``affine_zero`` instead of another grid, and ranges that include zero."""
        estimate = self._estimate

        def with_zero(x: Tensor) -> Bounds:
            lower, upper = estimate(x)
            return lower.clamp(max=0), upper.clamp(min=0)

        self._to_grid, self._estimate = affine_zero, with_zero

    def observe(self, x: Tensor) -> None:
        """Update the range with the bounds of one batch, or of a weight."""
        lower, upper = self._estimate(x)
        seen = int(self.batches)
        if seen and self._average:
            lower, upper = (
                old + (new - old) / (seen + 1)
                for old, new in ((self.lower, lower), (self.upper, upper))
            )
        elif seen:
            lower, upper = torch.minimum(self.lower, lower), torch.maximum(self.upper, upper)
        self.lower.data.copy_(lower)
        self.upper.data.copy_(upper)
        self.batches.add_(1)

    def grid(self, x: Tensor) -> Grid:
        """Grid of the range.

        Raises
        ------
        RuntimeError
            The range was not calibrated.
        """
        if not self.batches:
            raise RuntimeError("the range of a quantizer is missing: calibrate first")
        return self._to_grid(*self.bounds(), self.bits)

    def bounds(self) -> Bounds:
        """Lower and upper bound of the grid."""
        return self.lower, self.upper

    def static_grid(self) -> Grid | None:
        """Grid of the range."""
        return self.grid(self.lower)

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep the upper bound above the lower one, after a training step."""
        self.upper.copy_(above(self.lower, self.upper))


class ScaleQuantizer(Quantizer):
    """Quantizer with a static range given by one positive value: a bound ``alpha``, or a step.

    Parameters
    ----------
    to_grid
        ``sym_narrow`` (of alpha), ``sym_full`` or ``unsigned`` (of a step).
    estimate
        Value for one observed tensor; batches are averaged.
    """

    value: Tensor
    batches: Tensor

    def __init__(
        self,
        bits: int,
        rule: Rule,
        to_grid: Callable[[Tensor, int], Grid],
        estimate: Callable[[Tensor], Tensor],
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, rule)
        self._to_grid = to_grid
        self._estimate = estimate
        self.value = nn.Parameter(torch.zeros(shape))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def observe(self, x: Tensor) -> None:
        """Update the average with the value of one batch, or of a weight."""
        new = self._estimate(x)
        self.value.data.add_((new - self.value) / (int(self.batches) + 1))
        self.batches.add_(1)

    def grid(self, x: Tensor) -> Grid:
        """Grid of the range.

        Raises
        ------
        RuntimeError
            The range was not calibrated.
        """
        if not self.batches:
            raise RuntimeError("the range of a quantizer is missing: calibrate first")
        return self._to_grid(self.scale(), self.bits)

    def scale(self) -> Tensor:
        """Value that gives the grid."""
        return self.value

    def static_grid(self) -> Grid | None:
        """Grid of the range."""
        return self.grid(self.value)

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep the value positive, after a training step."""
        self.value.clamp_(min=MIN_WIDTH)


def channel_scale(
    bits: int, rule: Rule, estimate: Callable[[Tensor], Tensor], weight: Tensor
) -> ScaleQuantizer:
    """Quantizer of a weight with a symmetric bound for each output channel.

    ``estimate`` gives the bounds ``[C, 1, 1, 1]`` of a weight ``[C, Cin, kh, kw]``.
    """
    return ScaleQuantizer(bits, rule, sym_narrow, estimate, range_shape(weight, dim=0))


class WeightRangeQuantizer(Quantizer):
    """Quantizer of a weight whose range is computed from the weight in every pass.

    Parameters
    ----------
    grid_of
        Grid of a tensor; no gradient goes through the range.
    """

    def __init__(self, bits: int, rule: Rule, grid_of: Callable[[Tensor, int], Grid]) -> None:
        super().__init__(bits, rule)
        self._grid_of = grid_of

    def grid(self, x: Tensor) -> Grid:
        """Grid of this tensor."""
        with torch.no_grad():
            return self._grid_of(x.float(), self.bits)


def largest_weight(bits: int, *, per_channel: bool = False) -> WeightRangeQuantizer:
    """Quantizer on ``sym_narrow`` up to the largest magnitude, of the weight or of each channel."""
    dim = 0 if per_channel else None
    return WeightRangeQuantizer(
        bits, "ste", lambda w, b: sym_narrow(max_abs(w, dim) + MIN_WIDTH, b)
    )


def quantizers(network: nn.Module) -> Iterator[Quantizer]:
    """All quantizers of a network, in the order of its modules."""
    return (module for module in network.modules() if isinstance(module, Quantizer))


def set_mode(network: nn.Module, mode: Mode) -> None:
    """Set the mode of all quantizers."""
    for quantizer in quantizers(network):
        quantizer.mode = mode


@torch.no_grad()
def observe(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Calibrate all quantizers on weights and LR batches, with every operand in float.

    Parameters
    ----------
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.
    """
    network.eval()
    set_mode(network, "observe")
    for batch in batches:
        network(batch)
        # Weights do not change from batch to batch.
        for module in network.modules():
            if isinstance(module, QuantConv2d | QuantLinear):
                set_mode(module.weight_quantizer, "off")
    set_mode(network, "quantize")
