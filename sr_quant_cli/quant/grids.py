"""Uniform grids: from a range and a bit width to levels.

Every grid of the literature is ``step * k + origin`` with an integer code ``k`` between two limits.
They differ in the meaning of the range, and in whether zero is a level.

==============  ==============================================  ============  ==================
function        codes ``k``                                     origin        zero is a level
==============  ==============================================  ============  ==================
sym_narrow      -(2^(b-1) - 1) .. 2^(b-1) - 1                   0             yes
sym_full        -2^(b-1) .. 2^(b-1) - 1                         0             yes
unsigned        0 .. 2^b - 1                                    0             yes
affine_int      2^b codes around an integer zero point          step * z      if it is in range
affine_zero     the same, the range widened to include zero     step * z      yes
affine_real     0 .. 2^b - 1                                    lower bound   no, in general
midrise         -2^(b-1) .. 2^(b-1) - 1                         step / 2      never
==============  ==============================================  ============  ==================

Widths that state a number of levels ``n`` (``NarrowBits``) have ``n`` in the place of ``2^b``, and
halves are rounded down: ``sym_narrow`` at 29 levels has the codes -14 .. 14, ``unsigned`` 0 .. 28.

Bounds are tensors that broadcast against the quantized tensor: a scalar for a per-tensor range,
``[C, 1, 1, 1]`` for a per-channel one. Gradients reach them through the tensors of ``Grid``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sr_quant_cli.quant.widths import check_bits, level_count

MIN_WIDTH = 1e-8
"""Smallest width of a range: dead channels have none, and keep their constant."""
MIN_RELATIVE_WIDTH = 2.0**-16
"""Smallest width relative to the lower bound: below it, float32 cannot hold 2^8 levels."""


@dataclass(frozen=True)
class Grid:
    """Levels ``step * k + origin`` for ``first <= k <= last``; values are clipped to the bounds.

    ``lower`` and ``upper`` are the clipping bounds, which need not be levels.
    """

    step: Tensor
    origin: Tensor
    lower: Tensor
    upper: Tensor
    first: int
    last: int
    bits: int


def sym_narrow(alpha: Tensor, bits: int) -> Grid:
    """Symmetric grid without the lowest code: ``2^b - 1`` levels in ``[-alpha, alpha]`` (PAMS).

    >>> levels(sym_narrow(torch.tensor(6.0), 3)).tolist()
    [-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0]
    """
    q = (level_count(check_bits(bits)) - 1) // 2
    alpha = alpha.clamp_min(MIN_WIDTH)
    step = alpha / q
    return Grid(step, torch.zeros_like(step), -alpha, alpha, -q, q, bits)


def sym_full(step: Tensor, bits: int) -> Grid:
    """Symmetric grid with all codes, given by its step (LSQ, QuantSR).

    >>> levels(sym_full(torch.tensor(0.5), 3)).tolist()
    [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    """
    count = level_count(check_bits(bits))
    first, last = -(count // 2), (count - 1) // 2
    step = step.clamp_min(MIN_WIDTH)
    return Grid(step, torch.zeros_like(step), first * step, last * step, first, last, bits)


def unsigned(step: Tensor, bits: int) -> Grid:
    """Grid from zero upwards, given by its step: for values after a ReLU.

    >>> levels(unsigned(torch.tensor(0.5), 2)).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    last = level_count(check_bits(bits)) - 1
    step = step.clamp_min(MIN_WIDTH)
    zero = torch.zeros_like(step)
    return Grid(step, zero, zero, last * step, 0, last, bits)


def above(lower: Tensor, upper: Tensor) -> Tensor:
    """Raise ``upper`` where it is too close to ``lower`` for a grid to fit between them."""
    width = (lower.abs() * MIN_RELATIVE_WIDTH).clamp_min(MIN_WIDTH)
    return torch.maximum(upper, lower + width)


def affine_int(lower: Tensor, upper: Tensor, bits: int) -> Grid:
    """Grid of a range, with an integer zero point ``z = R(lower / step)`` (DDTB).

    Codes in the paper are ``z .. z + 2^b - 1``. They are counted from ``z`` here, so the origin is
    ``step * z``, a multiple of the step, and zero is a level if it lies in the range.

    >>> levels(affine_int(torch.tensor(-1.0), torch.tensor(5.0), 2)).tolist()
    [0.0, 2.0, 4.0, 6.0]
    >>> levels(affine_int(torch.tensor(-2.0), torch.tensor(4.0), 2)).tolist()
    [-2.0, 0.0, 2.0, 4.0]
    """
    last = level_count(check_bits(bits)) - 1
    upper = above(lower, upper)
    step = (upper - lower) / last
    origin = step * (lower / step).round().detach()
    return Grid(step, origin, lower, upper, 0, last, bits)


def affine_zero(lower: Tensor, upper: Tensor, bits: int) -> Grid:
    """Grid with an integer zero point of a range that is widened to include zero.

    >>> levels(affine_zero(torch.tensor(1.0), torch.tensor(6.0), 2)).tolist()
    [0.0, 2.0, 4.0, 6.0]
    """
    return affine_int(lower.clamp(max=0), upper.clamp(min=0), bits)


def affine_real(lower: Tensor, upper: Tensor, bits: int) -> Grid:
    """Grid of a range whose lower bound is the first level (2DQuant, DBDC+PaC, MinMax).

    >>> levels(affine_real(torch.tensor(-1.0), torch.tensor(5.0), 2)).tolist()
    [-1.0, 1.0, 3.0, 5.0]
    """
    last = level_count(check_bits(bits)) - 1
    upper = above(lower, upper)
    return Grid((upper - lower) / last, lower, lower, upper, 0, last, bits)


def midrise(step: Tensor, bits: int) -> Grid:
    """Grid of the odd multiples of half a step, around zero (DAQ).

    >>> levels(midrise(torch.tensor(2.0), 2)).tolist()
    [-3.0, -1.0, 1.0, 3.0]
    """
    half = level_count(check_bits(bits)) // 2
    step = step.clamp_min(0.0)
    bound = (half - 0.5) * step
    return Grid(step.clamp_min(MIN_WIDTH), step / 2, -bound, bound, -half, half - 1, bits)


def levels(grid: Grid) -> Tensor:
    """All levels, along a new last dimension."""
    codes = torch.arange(grid.first, grid.last + 1, dtype=grid.step.dtype, device=grid.step.device)
    return grid.step[..., None] * codes + grid.origin[..., None]


def encode(x: Tensor, grid: Grid) -> Tensor:
    """Integer codes of the nearest levels, ties to even: float32 ``x`` -> int16."""
    return _rounded(x, grid).to(torch.int16)


def decode(codes: Tensor, grid: Grid) -> Tensor:
    """Levels of integer codes, bit for bit as ``quantize`` gives them."""
    return codes.to(grid.step.dtype).mul_(grid.step).add_(grid.origin)


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """Round to the nearest level, ``step * k + origin``: float32, without a gradient.

    >>> x = torch.tensor([-9.0, -0.9, 0.0, 1.0, 2.9])
    >>> quantize(x, sym_narrow(torch.tensor(3.0), 3)).tolist()
    [-3.0, -1.0, 0.0, 1.0, 3.0]
    """
    return _rounded(x, grid).mul_(grid.step).add_(grid.origin)


def _rounded(x: Tensor, grid: Grid) -> Tensor:
    # In place after the first copy: memory traffic costs as much as the arithmetic.
    codes = torch.clamp(x, grid.lower, grid.upper).sub_(grid.origin).div_(grid.step).round_()
    return codes.clamp_(grid.first, grid.last)
