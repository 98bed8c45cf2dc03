"""Cutting a picture into tiles whose results join without a seam."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in LR pixels: it reads ``[start, stop)``, keeps ``[first, last)``."""

    start: int
    stop: int
    first: int
    last: int


def spans(length: int, core: int, halo: int, alignment: int = 1) -> Iterator[Span]:
    """Cut ``length`` pixels into equal tiles that keep at most ``core`` and see ``halo`` more.

    With ``halo`` at least the radius of the receptive field, every kept pixel has seen all it
    depends on; at the border of the picture the tile ends where the picture ends, so that the
    network's own padding acts there as it does on the whole picture. Tiles begin at multiples of
    ``alignment``, and end there or where the picture ends: core and halo are made larger for that.

    >>> list(spans(10, core=4, halo=3))[1]
    Span(start=1, stop=10, first=4, last=8)
    >>> list(spans(30, core=5, halo=3, alignment=8))[1]
    Span(start=0, stop=24, first=8, last=16)
    """
    core, halo = aligned(core, alignment), aligned(halo, alignment)
    # A narrow last tile would be nearly all overlap.
    core = aligned(-(-length // -(-length // core)), alignment)
    for first in range(0, length, core):
        last = min(first + core, length)
        yield Span(max(first - halo, 0), min(last + halo, length), first, last)


def aligned(pixels: int, alignment: int) -> int:
    """The next multiple of ``alignment``.

    >>> aligned(9, 8), aligned(16, 8)
    (16, 16)
    """
    return -(-pixels // alignment) * alignment


def core_size(height: int, width: int, halo: int, budget: int) -> int:
    """Side of the kept square so that tile plus halo has at most ``budget`` LR pixels.

    A picture within the budget is one tile. The core is never less than half the halo, where
    nearly all work would be overlap.
    """
    if height * width <= budget:
        return max(height, width)
    return max(int(budget**0.5) - 2 * halo, halo // 2, 1)
