"""Figures that show crops of several results side by side, as in papers."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import thumbnail
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.records import record
from sr_quant_cli.system.files import SOFTWARE, replacing
from sr_quant_cli.system.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels = NDArray[np.uint8]

FORMATS = (".png", ".svg", ".pdf")
"""Suffixes of the files that a figure is written to."""
MAX_CROP = 1024
"""Largest side of a crop in pixels."""

# In pixels of the PNG file.
_CELL = 320
_MARGIN = 24
_GAP = 16
_LINE = 30
_WIDEST = 1.5
"""largest width of the whole picture, as a multiple of the height of the crops"""

_DPI = 144
_TEXT = 9.0
_SMALLEST = 5.0
"""points of labels, and of labels that would be too wide"""
_MARK = "#e6194b"
_ONE_ROW, _BESIDE = 3, 5
"""most crops in a single row, and in each of several rows"""


@record
class Panel:
    """A crop with its label, and a line below it.

    Attributes
    ----------
    crop
        uint8 ``[h, w, 3]``, of one shape in all panels of a sheet.
    """

    label: str
    crop: Pixels
    caption: str = ""


def most_different(results: Sequence[Pixels], height: int, width: int) -> Region:
    """Find the rectangle where pictures differ most from each other.

    It has the largest sum of the variance between the pictures, of the mean of their colours. Where
    they are all equal, it is the middle.

    Parameters
    ----------
    results
        uint8 ``[H, W, 3]`` each, of one shape.
    height, width
        Size of the rectangle in pixels.

    Examples
    --------
    >>> plain = np.zeros((8, 8, 3), np.uint8)
    >>> dotted = plain.copy()
    >>> dotted[5, 6] = 255
    >>> str(most_different([plain, dotted], 2, 2))
    '5,4,2,2'
    """
    first = results[0].mean(axis=2, dtype=np.float32)
    total, squares = np.zeros_like(first), np.zeros_like(first)
    for other in results[1:]:
        difference = other.mean(axis=2, dtype=np.float32) - first
        total += difference
        squares += difference**2
    return largest_sum(squares / len(results) - (total / len(results)) ** 2, height, width)


def largest_sum(values: NDArray[np.float32], height: int, width: int) -> Region:
    """Find the rectangle of a size with the largest sum of values, ``[H, W]``; equal: the middle.

    Raises
    ------
    ValueError
        The rectangle is larger than the array.
    """
    if height > values.shape[0] or width > values.shape[1]:
        raise ValueError(f"{width}x{height} is larger than the picture")
    corners = np.pad(values, ((1, 0), (1, 0))).cumsum(0, dtype=np.float64).cumsum(1)
    rows = corners[height:] - corners[:-height]
    sums = rows[:, width:] - rows[:, :-width]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    if np.ptp(sums) < 1e-6 * max(float(np.abs(sums).max()), 1.0):
        top, left = sums.shape[0] // 2, sums.shape[1] // 2
    return Region(int(top), int(left), height, width)


def usual_crop(height: int, width: int) -> tuple[int, int]:
    """Height and width of a crop that shows pixels and is still recognized.

    >>> usual_crop(512, 512), usual_crop(20, 2000)
    ((58, 77), (20, 27))
    """
    side = min(max(float(height * width) ** 0.5 / 7.6, 24.0), 112.0)
    side = min(side, 1.2 * min(height, width))
    return min(height, round(0.86 * side)), min(width, round(1.14 * side))


def check_sheet(path: Path, kind: str = "figure") -> None:
    """Refuse a figure of another format.

    Parameters
    ----------
    kind
        Word for it in the error.

    Raises
    ------
    UsageError
        With the formats.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: a {kind} ends in {', '.join(FORMATS)}")


def before_after(before: Panel, after: Panel, whole: Pixels, box: Region, path: Path) -> None:
    """Draw the same part of a picture before and after its enlargement, beside the whole.

    Parameters
    ----------
    before, after
        Crops; the smaller one is enlarged to the size of the other one by nearest neighbour.
    whole
        Result, or its thumbnail: uint8 ``[H, W, 3]``.
    box
        Place of the crops in ``whole``.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    height, width, _ = after.crop.shape
    rows = np.arange(height) * before.crop.shape[0] // height
    columns = np.arange(width) * before.crop.shape[1] // width
    seen = Panel(before.label, before.crop[rows][:, columns], before.caption)
    draw_sheet([seen, after], whole, box, path)


def draw_sheet(
    panels: Sequence[Panel],
    whole: Pixels,
    box: Region,
    path: Path,
    *,
    title: str = "",
    footer: str = "",
) -> None:
    """Draw the whole picture with a box, the crops beside it, and what they are below them.

    Crops are enlarged by nearest neighbour, by a whole factor, so that every pixel is seen.

    Parameters
    ----------
    whole
        uint8 ``[H, W, 3]``, in any size.
    box
        Place of the crops in ``whole``.
    path
        PNG, SVG or PDF file.
    title, footer
        Lines below the whole picture and below everything.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    layout = _Layout.of(panels, whole, footer=bool(footer))
    page = _Page(layout.width, layout.height)
    shown = thumbnail(whole)
    left, top, width, height = layout.whole
    axes = page.picture(shown, layout.whole, smooth=True)
    _mark(axes, box, shown.shape[0] / whole.shape[0])
    page.text(title, left + width / 2, top + height, layout.room, bold=True)
    for panel, (left, top) in zip(panels, layout.cells, strict=True):
        large = panel.crop.repeat(layout.zoom, 0).repeat(layout.zoom, 1)
        height, width, _ = large.shape
        indent = (layout.column - width) // 2
        page.picture(large, (left + indent, top, width, height))
        middle = left + layout.column / 2
        page.text(panel.label, middle, top + height, layout.column, bold=True)
        page.text(panel.caption, middle, top + height + _LINE, layout.column)
    page.text(footer, layout.width / 2, layout.height - _MARGIN - _LINE, layout.width - 2 * _MARGIN)
    page.save(path)


def _mark(axes: "Axes", box: Region, ratio: float) -> None:
    """Draw a box that is seen on any colour."""
    from matplotlib.patches import Rectangle

    for colour, thickness in (("white", 3.0), (_MARK, 1.6)):
        axes.add_patch(
            Rectangle(
                (box.left * ratio - 0.5, box.top * ratio - 0.5),
                box.width * ratio,
                box.height * ratio,
                fill=False,
                edgecolor=colour,
                linewidth=thickness,
            )
        )


@record
class _Layout:
    """Places in pixels from the left and the top.

    ``column`` and ``room`` are the widths that a panel and the whole picture have with their text.
    """

    width: int
    height: int
    zoom: int
    column: int
    room: int
    whole: tuple[int, int, int, int]
    cells: list[tuple[int, int]]

    @classmethod
    def of(cls, panels: Sequence[Panel], whole: Pixels, *, footer: bool) -> "_Layout":
        """Arrange crops in rows right of the whole picture, which is as high as they are."""
        height, width, _ = panels[0].crop.shape
        zoom = max(1, round(_CELL / max(height, width)))
        height, column = height * zoom, max(width * zoom, _CELL // 2)
        rows = 1 if len(panels) <= _ONE_ROW else max(2, -(-len(panels) // _BESIDE))
        across = -(-len(panels) // rows)
        lines = _LINE * (2 if any(panel.caption for panel in panels) else 1)
        down = height + lines + _GAP
        crops = rows * down - lines - _GAP
        ratio = whole.shape[1] / whole.shape[0]
        shown = max(1, min(crops, round(_WIDEST * crops / ratio)))
        beside = max(1, round(shown * ratio))
        room = max(beside, column // 2)
        start = _MARGIN + room + 2 * _GAP
        return cls(
            start + across * (column + _GAP) - _GAP + _MARGIN,
            2 * _MARGIN + crops + lines + (_LINE + _GAP) * footer,
            zoom,
            column,
            room,
            (_MARGIN + (room - beside) // 2, _MARGIN, beside, shown),
            [
                (start + index % across * (column + _GAP), _MARGIN + index // across * down)
                for index in range(len(panels))
            ],
        )


class _Page:
    """A figure whose places are pixels from its left and top."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._width, self._height = width, height
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        FigureCanvasAgg(self._figure)

    def picture(
        self, pixels: Pixels, place: tuple[float, float, float, float], *, smooth: bool = False
    ) -> "Axes":
        """Draw a picture: left, top, width, height; unless smooth, its pixels stay as they are."""
        left, top, width, height = place
        bottom = self._height - top - height
        axes = self._figure.add_axes(
            (
                left / self._width,
                bottom / self._height,
                width / self._width,
                height / self._height,
            )
        )
        axes.imshow(pixels, interpolation="lanczos" if smooth else "nearest", aspect="auto")
        axes.set_axis_off()
        return axes

    def text(
        self, text: str, centre: float, top: float, room: float, *, bold: bool = False
    ) -> None:
        """Write a line, smaller or shortened in its middle where it is wider than its room."""
        weight = "bold" if bold else "normal"
        shown, size = _fitting(printable(text), room * 72 / _DPI, weight)
        self._figure.text(
            centre / self._width,
            1 - (top + 0.55 * _LINE) / self._height,
            shown,
            fontsize=size,
            fontweight=weight,
            ha="center",
            va="center",
            parse_math=False,  # a name may hold a dollar sign
        )

    def save(self, path: Path) -> None:
        """Write the figure in the format of the suffix."""
        form = path.suffix.lower().removeprefix(".")
        metadata = {
            "png": SOFTWARE,
            "svg": {"Creator": "srq", "Date": None},
            "pdf": {"Creator": "srq", "CreationDate": None},
        }[form]
        with replacing(path) as temporary, _missing_glyphs():
            self._figure.savefig(temporary, format=form, metadata=metadata)


def _fitting(text: str, points: float, weight: str) -> tuple[str, float]:
    """Text and font size that fit into a width."""
    with _missing_glyphs():
        width = _width(text, weight)
        most = points * _TEXT / _SMALLEST
        shown, kept = text, len(text)
        while width > most and kept > 2:
            kept = min(kept - 1, int(kept * most / width))
            shown = f"{text[: -(-kept // 2)]}…{text[len(text) - kept // 2 :]}"
            width = _width(shown, weight)
    return shown, min(_TEXT, _TEXT * points / max(width, 1.0))


def _width(text: str, weight: str) -> float:
    """Width in points at the usual size."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text.replace("$", "S"), size=_TEXT, prop=FontProperties(weight=weight))
    return float(path.get_extents().width)


@contextmanager
def _missing_glyphs() -> Iterator[None]:
    """Draw signs that the font lacks as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
