"""Uniform grids: from a range and a number of bits to levels.

Every grid of the literature is ``step * k + origin`` with an integer code ``k`` between two limits.
They differ in whether zero is a level, and in what the range means.

==============  ==============================================  ============  ==================
function        codes ``k``                                     origin        zero is a level
==============  ==============================================  ============  ==================
sym_narrow      -(2^(b-1) - 1) .. 2^(b-1) - 1                   0             yes
sym_full        -2^(b-1) .. 2^(b-1) - 1                         0             yes
unsigned        0 .. 2^b - 1                                    0             yes
affine_int      2^b codes around an integer zero point          step * z      if it is in range
affine_real     0 .. 2^b - 1                                    lower bound   no, in general
midrise         -2^(b-1) .. 2^(b-1) - 1                         step / 2      never
==============  ==============================================  ============  ==================

Bounds are tensors that broadcast against what is quantized: a scalar for one range per tensor,
``[C, 1, 1, 1]`` for one per output channel. Gradients reach them through ``Grid``'s tensors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_BITS, MAX_BITS = 2, 8
MIN_WIDTH = 1e-8
"""Smallest range: a dead channel has none, and its constant is kept."""
MIN_RELATIVE_WIDTH = 2.0**-16
"""Smallest range over its lower bound: below, float32 has no room for 2^8 levels."""


@dataclass(frozen=True)
class Grid:
    """Levels ``step * k + origin`` for ``first <= k <= last``; values are clipped to the bounds.

    ``lower`` and ``upper`` are the bounds of clipping, which need not be levels.
    """

    step: Tensor
    origin: Tensor
    lower: Tensor
    upper: Tensor
    first: int
    last: int
    bits: int


def check_bits(bits: int) -> int:
    """Give back ``bits``.

    Raises
    ------
    ValueError
        It is not between 2 and 8.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits: must be {MIN_BITS} to {MAX_BITS}")
    return bits


def sym_narrow(alpha: Tensor, bits: int) -> Grid:
    """Symmetric without the lowest code: ``[-alpha, alpha]`` in ``2^b - 1`` levels (PAMS).

    >>> levels(sym_narrow(torch.tensor(6.0), 3)).tolist()
    [-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0]
    """
    q = 2 ** (check_bits(bits) - 1) - 1
    alpha = alpha.clamp_min(MIN_WIDTH)
    step = alpha / q
    return Grid(step, torch.zeros_like(step), -alpha, alpha, -q, q, bits)


def sym_full(step: Tensor, bits: int) -> Grid:
    """Symmetric with all codes, by its step (LSQ, QuantSR).

    >>> levels(sym_full(torch.tensor(0.5), 3)).tolist()
    [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    """
    half = int(2 ** (check_bits(bits) - 1))
    step = step.clamp_min(MIN_WIDTH)
    return Grid(
        step, torch.zeros_like(step), -half * step, (half - 1) * step, -half, half - 1, bits
    )


def unsigned(step: Tensor, bits: int) -> Grid:
    """From zero upwards, by its step: for values after ReLU.

    >>> levels(unsigned(torch.tensor(0.5), 2)).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    last = 2 ** check_bits(bits) - 1
    step = step.clamp_min(MIN_WIDTH)
    zero = torch.zeros_like(step)
    return Grid(step, zero, zero, last * step, 0, last, bits)


def above(lower: Tensor, upper: Tensor) -> Tensor:
    """``upper``, but so far above ``lower`` that there is a grid between them."""
    width = (lower.abs() * MIN_RELATIVE_WIDTH).clamp_min(MIN_WIDTH)
    return torch.maximum(upper, lower + width)


def affine_int(lower: Tensor, upper: Tensor, bits: int) -> Grid:
    """A range with an integer zero point ``z = R(lower / step)`` (DDTB).

    Codes of values in the range are ``z .. z + 2^b - 1``; they are counted from ``z`` here, so that
    the origin is ``step * z``: a multiple of the step, and zero a level wherever it is in range.

    >>> levels(affine_int(torch.tensor(-1.0), torch.tensor(5.0), 2)).tolist()
    [0.0, 2.0, 4.0, 6.0]
    >>> levels(affine_int(torch.tensor(-2.0), torch.tensor(4.0), 2)).tolist()
    [-2.0, 0.0, 2.0, 4.0]
    """
    last = 2 ** check_bits(bits) - 1
    upper = above(lower, upper)
    step = (upper - lower) / last
    origin = step * (lower / step).round().detach()
    return Grid(step, origin, lower, upper, 0, last, bits)


def affine_zero(lower: Tensor, upper: Tensor, bits: int) -> Grid:
    """A range with an integer zero point that is widened to zero where that lies outside.

    >>> levels(affine_zero(torch.tensor(1.0), torch.tensor(6.0), 2)).tolist()
    [0.0, 2.0, 4.0, 6.0]
    """
    return affine_int(lower.clamp(max=0), upper.clamp(min=0), bits)


def affine_real(lower: Tensor, upper: Tensor, bits: int) -> Grid:
    """A range with its lower bound as the first level (2DQuant, DBDC+PaC, MinMax).

    >>> levels(affine_real(torch.tensor(-1.0), torch.tensor(5.0), 2)).tolist()
    [-1.0, 1.0, 3.0, 5.0]
    """
    last = 2 ** check_bits(bits) - 1
    upper = above(lower, upper)
    return Grid((upper - lower) / last, lower, lower, upper, 0, last, bits)


def midrise(step: Tensor, bits: int) -> Grid:
    """Odd multiples of half a step, around zero (DAQ).

    >>> levels(midrise(torch.tensor(2.0), 2)).tolist()
    [-3.0, -1.0, 1.0, 3.0]
    """
    half = int(2 ** (check_bits(bits) - 1))
    step = step.clamp_min(0.0)
    bound = (half - 0.5) * step
    return Grid(step.clamp_min(MIN_WIDTH), step / 2, -bound, bound, -half, half - 1, bits)


def levels(grid: Grid) -> Tensor:
    """All levels, along a new last dimension."""
    codes = torch.arange(grid.first, grid.last + 1, dtype=grid.step.dtype, device=grid.step.device)
    return grid.step[..., None] * codes + grid.origin[..., None]


def encode(x: Tensor, grid: Grid) -> Tensor:
    """Integer codes of the nearest levels, halves to even: float32 ``x`` -> int16."""
    return _rounded(x, grid).to(torch.int16)


def decode(codes: Tensor, grid: Grid) -> Tensor:
    """Levels of integer codes, bit for bit those of ``quantize``."""
    return codes.to(grid.step.dtype).mul_(grid.step).add_(grid.origin)


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """Round to the nearest level: ``step * k + origin``, float32, without a gradient.

    >>> x = torch.tensor([-9.0, -0.9, 0.0, 1.0, 2.9])
    >>> quantize(x, sym_narrow(torch.tensor(3.0), 3)).tolist()
    [-3.0, -1.0, 0.0, 1.0, 3.0]
    """
    return _rounded(x, grid).mul_(grid.step).add_(grid.origin)


def _rounded(x: Tensor, grid: Grid) -> Tensor:
    # In place after the first copy: a pass over a feature map costs as much as the arithmetic.
    codes = torch.clamp(x, grid.lower, grid.upper).sub_(grid.origin).div_(grid.step).round_()
    return codes.clamp_(grid.first, grid.last)
