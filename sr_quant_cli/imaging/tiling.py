"""Cutting a picture into tiles whose results join without a seam, or into the papers' patches."""

from collections.abc import Iterator

from sr_quant_cli.errors import UsageError
from sr_quant_cli.records import record


@record
class Span:
    """A tile along one axis, in LR pixels: it reads ``[start, stop)``, keeps ``[first, last)``."""

    start: int
    stop: int
    first: int
    last: int


@record
class Region:
    """A rectangle of a picture, in LR pixels."""

    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.width},{self.height}"

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """First column to its right."""
        return self.left + self.width

    def check(self, height: int, width: int, field: str = "region") -> None:
        """Refuse a rectangle that is empty, or not within a ``height`` x ``width`` picture.

        Parameters
        ----------
        field
            Name of the parameter that gave it.

        Raises
        ------
        UsageError
            With the size of the picture.
        """
        if min(self.height, self.width) < 1 or min(self.top, self.left) < 0:
            problem = "must be X,Y,W,H with X and Y from 0 and W and H from 1"
            raise UsageError(problem, field=field, value=self)
        if self.bottom > height or self.right > width:
            raise UsageError(
                f"goes beyond the picture, which has {width}x{height} pixels",
                field=field,
                value=self,
            )


def spans(
    length: int,
    core: int,
    halo: int,
    alignment: int = 1,
    begin: int = 0,
    end: int | None = None,
) -> Iterator[Span]:
    """Cut ``length`` pixels into equal tiles that keep at most ``core`` and see ``halo`` more.

    With ``halo`` at least the radius of the receptive field, every kept pixel has seen all it
    depends on; at the border of the picture the tile ends where the picture ends, so that the
    network's own padding acts there as it does on the whole picture. Tiles begin at multiples of
    ``alignment``, and end there or where the picture ends: core and halo are made larger for that.

    Parameters
    ----------
    begin, end
        Keep only the pixels ``[begin, end)``; None: to the last one.

    >>> list(spans(10, core=4, halo=3))[1]
    Span(start=1, stop=10, first=4, last=8)
    >>> list(spans(30, core=5, halo=3, alignment=8))[1]
    Span(start=0, stop=24, first=8, last=16)
    >>> list(spans(30, core=20, halo=3, begin=4, end=11))
    [Span(start=1, stop=14, first=4, last=11)]
    """
    end = length if end is None else end
    core, origin = aligned(core, alignment), begin // alignment * alignment
    # A narrow last tile would be nearly all overlap.
    core = aligned(-(-(end - origin) // -(-(end - origin) // core)), alignment)
    for first in range(origin, end, core):
        yield tile_of(max(first, begin), min(first + core, end), length, halo, alignment)


def tile_of(first: int, last: int, length: int, halo: int, alignment: int = 1) -> Span:
    """Return the tile of ``length`` pixels that keeps ``[first, last)`` and sees ``halo`` more.

    >>> tile_of(9, 12, 40, halo=3, alignment=8)
    Span(start=0, stop=24, first=9, last=12)
    """
    halo = aligned(halo, alignment)
    start = first // alignment * alignment - halo
    return Span(max(start, 0), min(aligned(last, alignment) + halo, length), first, last)


@record
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
