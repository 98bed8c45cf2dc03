"""Cutting a picture into tiles whose results join without a seam, or into the papers' patches."""

from collections.abc import Iterator
from dataclasses import dataclass

from sr_quant_cli.errors import UsageError


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


@dataclass(frozen=True)
class Patches:
    """The patches by which dynamic methods are measured, each enlarged as a picture of its own.

    Attributes
    ----------
    patch
        LR pixels per side.
    step
        LR pixels from one to the next. Half of what they overlap by is discarded of each.

    Raises
    ------
    UsageError
        There are no such patches.
    """

    patch: int = 96
    step: int = 90

    def __post_init__(self) -> None:
        given = f"patches of {self.patch} at a step of {self.step}"
        if not 1 <= self.step <= self.patch:
            raise UsageError(f"{given}: the step must be from 1 to the size of a patch")
        if (self.patch - self.step) % 2:
            raise UsageError(f"{given}: the overlap of {self.patch - self.step} must be even")

    def __str__(self) -> str:
        return f"patches of {self.patch} LR pixels at a step of {self.step}"

    def spans(self, length: int) -> list[Span]:
        """Cut ``length`` pixels; the last patch is extended to the picture's edge.

        >>> Patches(10, 8).spans(21)
        [Span(start=0, stop=10, first=0, last=9), Span(start=8, stop=21, first=9, last=21)]
        >>> Patches(10, 10).spans(7)
        [Span(start=0, stop=7, first=0, last=7)]
        """
        margin = (self.patch - self.step) // 2
        starts = range(0, max(length - self.patch, 0) + 1, self.step)
        return [
            Span(
                start,
                length if start == starts[-1] else start + self.patch,
                start + margin if start else 0,
                length if start == starts[-1] else start + margin + self.step,
            )
            for start in starts
        ]


def patches_of(patchwise: bool, patch: int | None, step: int | None) -> Patches | None:
    """Patches of the given size and step; None without ``patchwise``.

    Parameters
    ----------
    patch, step
        LR pixels; None: the default of :class:`Patches`.

    Raises
    ------
    UsageError
        The sizes do not fit together, or are given without ``patchwise``.
    """
    given = {name: size for name, size in (("patch", patch), ("step", step)) if size is not None}
    if patchwise:
        return Patches(**given)
    if given:
        names = ", ".join(f"`{name}` {size}" for name, size in given.items())
        raise UsageError(f"{names}: only with `patchwise`")
    return None


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
