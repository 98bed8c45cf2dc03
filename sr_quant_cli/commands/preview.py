"""A picture before and after its enlargement, drawn beside the output."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.commands.enlarge import EnlargedPicture
from sr_quant_cli.imaging.io import Picture, open_picture, thumbnail
from sr_quant_cli.imaging.sheet import Panel, before_after, largest_sum, usual_crop
from sr_quant_cli.imaging.tiling import Region


def draw_preview(enlarged: EnlargedPicture, result: Path, model: str, path: Path) -> None:
    """Draw the part with most detail of a picture, in its pixels and in those of its result.

    Parameters
    ----------
    result
        File of the result, already written.
    model
        Name of the model, for the label.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    opened = enlarged.opened
    whole = opened.options.region or Region(0, 0, opened.height, opened.width)
    after = open_picture(result).in_eight_bits()
    down, across = after.height / whole.height, after.width / whole.width
    height, width = usual_crop(after.height, after.width)
    height = min(max(1, round(height / down)), whole.height)
    width = min(max(1, round(width / across)), whole.width)
    box = _most_detailed(opened.picture, whole, height, width)
    large = Region(
        round((box.top - whole.top) * down),
        round((box.left - whole.left) * across),
        max(1, round(height * down)),
        max(1, round(width * across)),
    )
    shown = thumbnail(after)
    ratio = shown.shape[0] / after.height
    sizes = f"{whole.width}x{whole.height}", f"{after.width}x{after.height}"
    before_after(
        Panel("before", _read(opened.picture.in_eight_bits(), box), sizes[0]),
        Panel("after", _read(after, large), f"{sizes[1]}, {model}"),
        shown,
        Region(
            *(round(side * ratio) for side in (large.top, large.left, large.height, large.width))
        ),
        path,
    )


def _most_detailed(picture: Picture, whole: Region, height: int, width: int) -> Region:
    """Find the rectangle of a size with the largest differences of neighbouring pixels."""
    small = thumbnail(picture).mean(axis=2, dtype=np.float32)
    ratio = small.shape[0] / picture.height
    top, left = int(whole.top * ratio), int(whole.left * ratio)
    small = small[top : max(top + 1, round(whole.bottom * ratio)), left:]
    small = small[:, : max(1, round(whole.width * ratio))]
    detail = (
        np.diff(small, axis=0, append=small[-1:]) ** 2
        + np.diff(small, axis=1, append=small[:, -1:]) ** 2
    )
    found = largest_sum(
        detail,
        min(max(1, round(height * ratio)), small.shape[0]),
        min(max(1, round(width * ratio)), small.shape[1]),
    )
    return Region(
        whole.top + min(round(found.top / ratio), whole.height - height),
        whole.left + min(round(found.left / ratio), whole.width - width),
        height,
        width,
    )


def _read(picture: Picture, box: Region) -> NDArray[np.uint8]:
    pixels = picture.read(box.top, box.bottom, box.left, box.right)
    return pixels.astype(np.uint8, copy=False)
