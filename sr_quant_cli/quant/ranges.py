"""Ranges of tensors, found from the data.

=================  ====================  ==================================================
function           gives                 used by
=================  ====================  ==================================================
max_abs            symmetric bound       PAMS (ECCV 2020)
min_max            bounds                MinMax; DDTB (ECCV 2022) for the weights of RDN
percentile         bounds                Percentile; DDTB; ODM (ECCV 2024); OAPTQ (ICCV 2025)
histogram_clip     bounds                DBDC+PaC (CVPR 2023)
search_two_sided   bounds                2DQuant (NeurIPS 2024)
search_one_sided   bounds                2DQuant, for values after softmax and GELU
search_both        bounds                LSQ+ (CVPRW 2020)
search_scale       bound or step         any grid that is given by one positive value
lsq_step           step                  LSQ (ICLR 2020), QuantSR (NeurIPS 2023)
gaussian_step      step                  DAQ (WACV 2022)
=================  ====================  ==================================================

Tensors are float32, and no gradient passes through. ``dim`` is the dimension with a range for each
index; ``None`` gives a single range. The result has the size of ``x`` in ``dim`` and 1 elsewhere:
``dim=0`` gives ``[C, 1, 1, 1]`` for a weight ``[C, Cin, kh, kw]``.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from sr_quant_cli.quant.grids import Grid, affine_real, levels
from sr_quant_cli.quant.widths import check_bits

Bounds = tuple[Tensor, Tensor]
"""Lower and upper bound."""

_GAUSSIAN_STEP = (1.596, 0.996, 0.586, 0.335, 0.188, 0.104, 0.057, 0.031)
"""Steps of the mid-rise grids with the least squared error on N(0, 1), for 1 to 8 bits."""

_PIECE = 2**20
"""Levels compared at once in a search: limits its memory to about 100 MB."""


@torch.no_grad()
def max_abs(x: Tensor, dim: int | None = None) -> Tensor:
    """Largest magnitude.

    >>> max_abs(torch.tensor([[-3.0, 1.0], [0.5, 2.0]]), dim=0).tolist()
    [[3.0], [2.0]]
    """
    lower, upper = min_max(x, dim)
    return torch.maximum(lower.abs(), upper.abs())


@torch.no_grad()
def min_max(x: Tensor, dim: int | None = None) -> Bounds:
    """Smallest and largest value.

    >>> lower, upper = min_max(torch.tensor([-3.0, 1.0, 0.5, 2.0]))
    >>> lower.item(), upper.item()
    (-3.0, 2.0)
    """
    rows, shape = _rows(x, dim)
    lower, upper = rows.aminmax(dim=1)
    return lower.reshape(shape), upper.reshape(shape)


@torch.no_grad()
def percentile(x: Tensor, percent: float, dim: int | None = None) -> Bounds:
    """Percentiles ``100 - percent`` and ``percent``, interpolated linearly as numpy does.

    DDTB takes 99 for the weights of EDSR and SRResNet, 99 or 95 for its first activations.

    >>> lower, upper = percentile(torch.tensor([0.0, 1.0, 2.0, 3.0, 8.0]), 90)
    >>> round(lower.item(), 4), round(upper.item(), 4)
    (0.4, 6.0)

    Parameters
    ----------
    percent
        50 to 100: 99, not 0.99.

    Raises
    ------
    ValueError
        ``percent`` is out of its range.
    """
    if not 50 <= percent <= 100:
        raise ValueError(f"percentile {percent}: must be 50 to 100")
    rows, shape = _rows(x, dim)
    ordered = _sorted(rows)
    last = rows.shape[1] - 1

    def value(percent: float) -> Tensor:
        position = percent / 100 * last
        below = int(position)
        above = min(below + 1, last)
        return torch.lerp(ordered[:, below], ordered[:, above], position - below).reshape(shape)

    return value(100 - percent), value(percent)


@torch.no_grad()
def histogram_clip(x: Tensor, dropped: float, bins: int = 2048) -> Bounds:
    """Bounds without the thin ends of the histogram (DBDC).

    The outermost bin with fewer values is dropped, repeatedly, as long as no more than ``dropped``
    of all values are lost. If both have as many, the upper one is dropped, since the lower bound is
    exact after a ReLU. The paper does not say how it breaks ties.

    >>> x = torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 8.0])
    >>> [bound.item() for bound in histogram_clip(x, 0.2, bins=8)]
    [1.0, 4.0]

    Parameters
    ----------
    x
        Any shape; all of it has one range.
    dropped
        Share of the values, 0 or more and below 1; the released code has 5e-4 at 4 bits, 1e-5 at 8.

    Raises
    ------
    ValueError
        ``dropped`` is out of its range.
    """
    if not 0 <= dropped < 1:
        raise ValueError(f"share {dropped} of dropped values: must be at least 0 and below 1")
    lower, upper = min_max(x)
    edges = torch.lerp(lower, upper, torch.linspace(0, 1, bins + 1, device=x.device))
    below = torch.searchsorted(_sorted(x.reshape(-1)), edges[1:-1])
    counts = pad(pad(below, (1, 0)), (0, 1), value=x.numel()).diff().tolist()
    first, last, left = 0, bins - 1, dropped * x.numel()
    while (left := left - min(counts[first], counts[last])) >= 0:
        if counts[last] <= counts[first]:
            last -= 1
        else:
            first += 1
    return edges[first], edges[last + 1]


@torch.no_grad()
def search_two_sided(x: Tensor, bits: int, candidates: int = 100, dim: int | None = None) -> Bounds:
    """Bounds with the least squared error on ``affine_real``, for bell-shaped values (DOBI).

    Candidate ``i`` of ``K`` is ``[min + i d, max - i d]`` with ``d = (max - min) / 2K``: both
    bounds move together. The widest range wins a tie.

    >>> x = torch.tensor([-4.0] + [-1.0, 1.0] * 50 + [4.0])
    >>> lower, upper = search_two_sided(x, 2, candidates=8)
    >>> lower.item(), upper.item()
    (-3.0, 3.0)
    """
    return _search_bounds(x, bits, candidates, dim, (0.5, 0.5))


@torch.no_grad()
def search_one_sided(
    x: Tensor, bits: int, candidates: int = 100, dim: int | None = None, reach: float = 1.0
) -> Bounds:
    """Bounds with the least squared error on ``affine_real``, with the minimum as the lower one.

    For values that cluster at the lower end, after softmax and GELU (DOBI). Candidate ``i`` of
    ``K`` is ``[min, max - i d]`` with ``d = reach (max - min) / K``. The widest range wins a tie.

    >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0] * 10 + [4.0])
    >>> lower, upper = search_one_sided(x, 2, candidates=8)
    >>> lower.item(), upper.item()
    (0.0, 3.0)

    Parameters
    ----------
    reach
        Share of the range over which upper bounds are tried: 1 for all of it, as in the released
        code (which never calls this); 0.5 for the upper half, as in the paper.
    """
    return _search_bounds(x, bits, candidates, dim, (0.0, reach))


@torch.no_grad()
def search_both(x: Tensor, bits: int, candidates: int = 32) -> Bounds:
    """Bounds with the least squared error on ``affine_real``, each searched by itself.

    All pairs of ``candidates + 1`` lower and upper bounds are tried between the smallest and the
    largest value, and then around the best pair at steps ``candidates / 2`` times finer.

    >>> x = torch.tensor([-9.0] + [1.0, 2.0, 3.0, 4.0] * 500 + [5.0])
    >>> lower, upper = search_both(x, 2, candidates=14)
    >>> round(lower.item(), 4), round(upper.item(), 4)
    (1.0, 4.0)
    """
    rows = x.reshape(1, -1)
    smallest, largest = min_max(x)
    parts = torch.linspace(0, 1, candidates + 1, device=x.device)
    lowers = uppers = torch.lerp(smallest, largest, parts)
    for _ in range(2):
        pairs = torch.cartesian_prod(lowers, uppers)
        lower, upper = pairs[pairs[:, 0] < pairs[:, 1]].T[:, None]
        if not lower.numel():
            return smallest, largest
        best = _best(rows, affine_real(lower, upper, bits))
        lower, upper = lower[:, best[0]].squeeze(), upper[:, best[0]].squeeze()
        around = (2 * parts - 1) * ((largest - smallest) / candidates)
        lowers, uppers = lower + around, upper + around
    return lower, upper


@torch.no_grad()
def search_scale(
    x: Tensor,
    grid_of: Callable[[Tensor, int], Grid],
    bits: int,
    start: Tensor,
    candidates: int = 100,
    dim: int | None = None,
) -> Tensor:
    """Scale with the least squared error, among ``start i / K`` for ``i = 1 .. K``.

    The largest scale wins a tie.

    >>> from sr_quant_cli.quant.grids import sym_narrow
    >>> x = torch.tensor([-1.0, 0.0, 1.0] * 10 + [2.0])
    >>> search_scale(x, sym_narrow, 2, max_abs(x), candidates=4).item()
    1.0

    Parameters
    ----------
    grid_of
        ``sym_narrow`` (takes a bound), ``sym_full``, ``unsigned`` or ``midrise`` (take a step);
        called once, with all candidates ``[R, K]`` of all ranges.
    start
        Largest scale, in the shape of the result: ``max_abs(x, dim)`` for ``sym_narrow``.
    """
    rows, shape = _rows(x, dim)
    parts = torch.arange(candidates, 0, -1, device=x.device)
    scales = start.reshape(-1, 1) * parts / candidates
    return scales.gather(1, _best(rows, grid_of(scales, bits))).reshape(shape)


@torch.no_grad()
def lsq_step(x: Tensor, last: int, dim: int | None = None) -> Tensor:
    """Initial step of LSQ: ``2 mean|x| / sqrt(last)``, where ``last`` is the largest code.

    >>> lsq_step(torch.tensor([-3.0, 1.0, 0.0, 4.0]), last=16).item()
    1.0
    """
    rows, shape = _rows(x, dim)
    return (rows.abs().mean(dim=1) * (2 / math.sqrt(last))).reshape(shape)


@torch.no_grad()
def gaussian_step(deviation: Tensor, bits: int, table: Literal["optimal", "daq"]) -> Tensor:
    """Step of a mid-rise grid for Gaussian values of a given standard deviation (DAQ's table).

    ``optimal`` is the step of least squared error, within 0.1% of that error. DAQ's released code
    looks up one entry too early, and takes the optimum of one bit less (``daq``): at 2, 3 and 4
    bits its squared error is 1.8, 2.2 and 2.5 times the least one.

    >>> deviation = torch.tensor(2.0)
    >>> [round(gaussian_step(deviation, 4, table).item(), 3) for table in ("optimal", "daq")]
    [0.67, 1.172]

    Parameters
    ----------
    deviation
        Any shape, which the result shares.
    """
    return deviation * _GAUSSIAN_STEP[check_bits(bits) - (1 if table == "optimal" else 2)]


def range_shape(x: Tensor, dim: int | None) -> tuple[int, ...]:
    """Shape of the ranges of ``x``.

    >>> range_shape(torch.zeros(8, 4, 3, 3), dim=0), range_shape(torch.zeros(8, 4), dim=None)
    ((8, 1, 1, 1), ())
    """
    if dim is None:
        return ()
    shape = [1] * x.ndim
    shape[dim] = x.shape[dim]
    return tuple(shape)


def _rows(x: Tensor, dim: int | None) -> tuple[Tensor, tuple[int, ...]]:
    """Values of each range as rows ``[R, n]``, and the shape of the result for these rows."""
    shape = range_shape(x, dim)
    if dim is None:
        return x.reshape(1, -1), shape
    return x.movedim(dim, 0).reshape(x.shape[dim], -1).contiguous(), shape


def _sorted(x: Tensor) -> Tensor:
    """Values in ascending order along the last dimension."""
    if x.device.type == "cpu":
        # Many times faster than torch, which sorts indices, too.
        return torch.from_numpy(np.sort(x.detach().numpy()))
    return x.sort().values


def _search_bounds(
    x: Tensor, bits: int, candidates: int, dim: int | None, moves: tuple[float, float]
) -> Bounds:
    """Best of ``candidates`` ranges; ``moves`` are the shares of the width that bounds move by."""
    rows, shape = _rows(x, dim)
    lower, upper = rows.aminmax(dim=1, keepdim=True)
    steps = torch.arange(candidates, device=x.device) * ((upper - lower) / candidates)
    lower, upper = lower + moves[0] * steps, upper - moves[1] * steps
    best = _best(rows, affine_real(lower, upper, bits))
    return lower.gather(1, best).reshape(shape), upper.gather(1, best).reshape(shape)


def _best(rows: Tensor, grids: Grid) -> Tensor:
    """Index ``[R, 1]`` of the first of the best grids, for rows ``[R, n]`` and grids ``[R, K]``."""
    level = levels(grids)
    size = max(1, _PIECE // level[0].numel())
    pieces = zip(torch.split(rows, size), torch.split(level, size), strict=True)
    return torch.cat([_gain(*piece) for piece in pieces]).argmax(dim=1, keepdim=True)


def _gain(rows: Tensor, level: Tensor) -> Tensor:
    """Reduction of the sum of squares ``[R, K]`` for rows ``[R, n]`` and levels ``[R, K, L]``.

    In sorted order, the values nearest to a level are contiguous. With their number ``n`` and sum
    ``s``, from cumulative sums, the error of a level ``m`` is
    ``sum (x - m)^2 = sum x^2 - m (2 s - m n)``. This is exact, and a grid costs a binary search
    instead of a pass over the values.
    """
    ordered = _sorted(rows)
    # Around the mean and in float64: grids differ by a small part of the sums.
    mean = rows.mean(dim=1, keepdim=True, dtype=torch.float64)
    sums = pad(ordered.sub(mean), (1, 0)).cumsum_(dim=1)
    middle = (level[..., 1:] + level[..., :-1]) / 2
    ends = torch.searchsorted(ordered, middle.flatten(1)).reshape(middle.shape)
    ends = pad(pad(ends, (1, 0)), (0, 1), value=rows.shape[1])
    number, total = ends.diff(), sums.gather(1, ends.flatten(1)).reshape(ends.shape).diff()
    level = level - mean[..., None]
    return (level * (2 * total - level * number)).sum(dim=2)
