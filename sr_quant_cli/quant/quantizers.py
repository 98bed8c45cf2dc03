"""Quantizers: modules that put one tensor on a grid.

A quantizer is a grid with a range and a rule for its gradient. Where the range comes from is what
methods differ in: they derive their own quantizers from these and state ``grid``.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, distributed, nn

from sr_quant_cli.quant.fake import Rule, fake_quantize
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, above, affine_zero, check_bits, sym_narrow
from sr_quant_cli.quant.ranges import Bounds, max_abs, range_shape

Mode = Literal["quantize", "observe", "off"]

BEYOND = 2**16
"""Factor on a range that clips nothing then. A power of two: a bound's gradient stays as it is."""


class Quantizer(nn.Module):
    """Fake-quantizes its input: any floating type -> float32 of the same shape.

    In mode ``observe`` the input is looked at and given back as it is, ``off``: given back.
    The mode is set from outside and is no part of the state.

    Raises
    ------
    ValueError
        The bits are not between 2 and 8.
    """

    def __init__(self, bits: int, rule: Rule) -> None:
        super().__init__()
        self.bits = check_bits(bits)
        self.rule = rule
        self.mode: Mode = "quantize"

    @abstractmethod
    def grid(self, x: Tensor) -> Grid:
        """Grid for a float32 tensor; of a static quantizer it does not depend on ``x``."""

    def static_grid(self) -> Grid | None:
        """The grid of whatever comes; None where it depends on the input."""
        return None

    def shift_before(self) -> Tensor | None:
        """What is added to the input before it is put on the grid; None: nothing."""
        return None

    def put_zero_on_level(self) -> None:
        """Take a grid that has zero, which integer kernels pad with, where another is usual."""

    def observe(self, x: Tensor) -> None:
        """Take a calibration batch into account; nothing where the range follows from ``x``."""

    def keep_valid(self) -> None:
        """Keep a learned range valid, after a training step."""

    def auxiliary(self) -> list[nn.Parameter]:
        """Parameters that are no range: of a gate, a selector."""
        return []

    def settle(self) -> None:
        """Make constants of the state that decides what is computed, so that it can be traced."""
        for name, value in list(self.named_buffers(recurse=False)):
            if value.ndim == 0 and not value.is_floating_point():
                delattr(self, name)
                setattr(self, name, value.item())

    def forward(self, x: Tensor) -> Tensor:
        """Values on the grid, or ``x`` itself while the mode is not ``quantize``."""
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
    """A static range ``[lower, upper]``, found from data and possibly learned.

    Whether the range was found is part of the state: a fresh model never takes a test picture for
    calibration data.

    Parameters
    ----------
    to_grid
        ``affine_real`` or ``affine_int``.
    estimate
        Bounds of one observed tensor.
    shape
        Shape of each bound: ``()``, or ``(C, 1, 1, 1)`` for one per output channel.
    average
        Bounds of several batches: their mean, or (False) the widest.
    """

    lower: nn.Parameter
    upper: nn.Parameter
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

    def put_zero_on_level(self) -> None:
        """Take ``affine_zero`` in the place of another grid, and ranges that have zero in them."""
        estimate = self._estimate

        def with_zero(x: Tensor) -> Bounds:
            lower, upper = estimate(x)
            return lower.clamp(max=0), upper.clamp(min=0)

        self._to_grid, self._estimate = affine_zero, with_zero

    def observe(self, x: Tensor) -> None:
        """Take the bounds of one batch, or of a weight, into the range."""
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
        """The range on its grid.

        Raises
        ------
        RuntimeError
            No range was found yet.
        """
        if not self.batches:
            raise RuntimeError("the range of a quantizer was never found: calibrate first")
        return self._to_grid(self.lower, self.upper, self.bits)

    def static_grid(self) -> Grid | None:
        """The range on its grid."""
        return self.grid(self.lower)

    @torch.no_grad()
    def keep_valid(self) -> None:
        """Keep the upper bound above the lower one, after a training step."""
        self.upper.copy_(above(self.lower, self.upper))


class ScaleQuantizer(Quantizer):
    """A static range given by one positive value: a bound ``alpha``, or a step.

    Parameters
    ----------
    to_grid
        ``sym_narrow`` (of alpha), ``sym_full`` or ``unsigned`` (of a step).
    estimate
        The value for one observed tensor; several batches are averaged.
    """

    value: nn.Parameter
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
        """Take the value of one batch, or of a weight, into the average."""
        new = self._estimate(x)
        self.value.data.add_((new - self.value) / (int(self.batches) + 1))
        self.batches.add_(1)

    def grid(self, x: Tensor) -> Grid:
        """The range on its grid.

        Raises
        ------
        RuntimeError
            No range was found yet.
        """
        if not self.batches:
            raise RuntimeError("the range of a quantizer was never found: calibrate first")
        return self._to_grid(self.value, self.bits)

    def static_grid(self) -> Grid | None:
        """The range on its grid."""
        return self.grid(self.value)

    @torch.no_grad()
    def keep_valid(self) -> None:
        """Keep the value positive, after a training step."""
        self.value.clamp_(min=MIN_WIDTH)


class MaxScale(Quantizer):
    """A trainable bound of both signs (PAMS).

    While it follows the data, ``alpha`` is the mean over the samples of a batch of their largest
    absolute values, and nothing is clipped: codes go on beyond ``q``.

    Examples
    --------
    >>> quantizer = MaxScale(3)
    >>> quantizer.alpha.data.fill_(6.0).item()
    6.0
    >>> x = torch.tensor([[-1.0, 0.9, 5.0], [1.1, -7.0, 3.2]])
    >>> quantizer(x).tolist()
    [[0.0, 0.0, 4.0], [2.0, -6.0, 4.0]]

    The largest values of the two samples are 5 and 7, their mean is 6 and the step 2:

    >>> quantizer.follows = True
    >>> quantizer(x).tolist()
    [[0.0, 0.0, 4.0], [2.0, -8.0, 4.0]]
    """

    alpha: nn.Parameter

    def __init__(self, bits: int, shape: tuple[int, ...] = ()) -> None:
        super().__init__(bits, "half")
        self.alpha = nn.Parameter(torch.full(shape, 10.0))
        self.follows = False

    @property
    def following(self) -> bool:
        """Whether alpha follows the data in the present forward pass."""
        return self.follows and self.training and self.mode == "quantize"

    def observe(self, x: Tensor) -> None:
        """Take the mean over the samples of the largest absolute value."""
        self.alpha.data.copy_(x.abs().amax(tuple(range(1, x.ndim))).mean())

    def reach(self, grid: Grid) -> Grid:
        """The grid, which goes on beyond its bounds while alpha follows the data."""
        if not self.following:
            return grid
        wide = {name: BEYOND * getattr(grid, name) for name in ("lower", "upper", "first", "last")}
        return replace(grid, **wide)

    def grid(self, x: Tensor) -> Grid:
        """The symmetric grid up to ``alpha``."""
        return self.reach(sym_narrow(self.alpha, self.bits))

    def static_grid(self) -> Grid | None:
        """The grid up to ``alpha``."""
        return sym_narrow(self.alpha, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32."""
        if self.following:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self.observe(x.float())
                average_processes(self.alpha)
        return self.quantized(x)

    def quantized(self, x: Tensor) -> Tensor:
        """Values on the present grid."""
        return super().forward(x)

    @torch.no_grad()
    def keep_valid(self) -> None:
        """Keep alpha positive."""
        self.alpha.clamp_(min=MIN_WIDTH)


def channel_scale(
    bits: int, rule: Rule, estimate: Callable[[Tensor], Tensor], weight: Tensor
) -> ScaleQuantizer:
    """Quantizer of a weight with one bound for both sides of zero of each output channel.

    ``estimate`` gives the bounds ``[C, 1, 1, 1]`` of a weight ``[C, Cin, kh, kw]``.
    """
    return ScaleQuantizer(bits, rule, sym_narrow, estimate, range_shape(weight, dim=0))


class WeightRangeQuantizer(Quantizer):
    """A range that is computed from the tensor itself each time: for weights.

    Parameters
    ----------
    grid_of
        Grid of a tensor; no gradient goes through the range.
    """

    def __init__(self, bits: int, rule: Rule, grid_of: Callable[[Tensor, int], Grid]) -> None:
        super().__init__(bits, rule)
        self._grid_of = grid_of

    def grid(self, x: Tensor) -> Grid:
        """The grid of this tensor."""
        with torch.no_grad():
            return self._grid_of(x.float(), self.bits)


def largest_weight(bits: int, *, per_channel: bool = False) -> WeightRangeQuantizer:
    """``sym_narrow`` of a weight up to its largest absolute value now, of each output channel."""
    dim = 0 if per_channel else None
    return WeightRangeQuantizer(
        bits, "ste", lambda w, b: sym_narrow(max_abs(w, dim) + MIN_WIDTH, b)
    )


class FrozenWeight(Quantizer):
    """Stands in for a weight's quantizer where the weight already lies on its grid.

    It knows the grid, so that codes can be read off again, and changes nothing.

    Parameters
    ----------
    levels
        First code, origin and step, float32, one after the other: one of each, or a step, or an
        origin and a step, for every output channel of the weight.
    weight
        ``[C, ...]``
    """

    levels: Tensor

    def __init__(self, bits: int, levels: Tensor, weight: Tensor) -> None:
        super().__init__(bits, "ste")
        self.register_buffer("levels", levels)
        self._shape = range_shape(weight, dim=0)

    @staticmethod
    def of(grid: Grid, weight: Tensor) -> "FrozenWeight":
        """Keep the grid of a weight."""
        origin = grid.origin.flatten()
        if (origin == origin[0]).all():
            origin = origin[:1]
        first = torch.full_like(origin[:1], grid.first)
        return FrozenWeight(grid.bits, torch.cat([first, origin, grid.step.flatten()]), weight)

    def grid(self, x: Tensor) -> Grid:
        """The grid that the weight lies on, whatever ``x`` is."""
        first, last = int(self.levels[0]), int(self.levels[0]) + 2**self.bits - 1
        values = self.levels[1:]
        steps = self._shape[0] if len(values) > 2 else 1
        origin, step = values[:-steps], values[-steps:]
        origin, step = (v.view(self._shape if len(v) > 1 else ()) for v in (origin, step))
        return Grid(
            step, origin, step * first + origin, step * last + origin, first, last, self.bits
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x`` itself."""
        return x


class FrozenInput(Quantizer):
    """A range of an activation that changes no more.

    Parameters
    ----------
    levels
        First code, lower and upper bound, origin and step, float32 ``[SIZE]``.
    """

    SIZE = 5
    levels: Tensor

    def __init__(self, bits: int, levels: Tensor) -> None:
        super().__init__(bits, "clip")
        self.register_buffer("levels", levels)

    @staticmethod
    def of(grid: Grid) -> "FrozenInput":
        """Keep a grid that has one range."""
        first = torch.full_like(grid.step, grid.first)
        values = torch.stack([first, grid.lower, grid.upper, grid.origin, grid.step])
        return FrozenInput(grid.bits, values)

    def grid(self, x: Tensor) -> Grid:
        """The grid, whatever ``x`` is."""
        _, lower, upper, origin, step = self.levels
        first = int(self.levels[0])
        return Grid(step, origin, lower, upper, first, first + 2**self.bits - 1, self.bits)

    def static_grid(self) -> Grid:
        """The grid."""
        return self.grid(self.levels)


def process_count() -> int:
    """Processes that train together."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def average_processes(value: Tensor) -> None:
    """Replace a value by its mean over the processes that train together, for ranges from data."""
    if process_count() > 1:
        distributed.all_reduce(value.data)
        value.data /= process_count()
