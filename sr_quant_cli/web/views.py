"""Pictures as the page shows them: PNG files of bounded size, in sRGB with 8 bits."""

from pathlib import Path

from sr_quant_cli.errors import FailedError
from sr_quant_cli.imaging.failures import readable
from sr_quant_cli.imaging.io import open_picture

LONGEST = 4096
"""Longest side of a picture in the comparison, in pixels."""

THUMBNAIL = 192
"""Longest side of a picture in the list, in pixels."""


def draw_view(source: Path, target: Path, longest: int) -> None:
    """Draw the first frame of a picture, shrunk if a side is longer than ``longest`` pixels.

    Raises
    ------
    UsageError
        The picture is damaged.
    FailedError
        There is no room for the file.
    """
    picture = open_picture(source).in_srgb().in_eight_bits()
    image = picture.rgb.copy(interpretation="srgb")
    if picture.alpha is not None:
        image = image.bandjoin(picture.alpha)
    with readable(source):
        shown = image.thumbnail_image(longest, height=longest, size="down")
        content = shown.write_to_buffer(".png", compression=1, keep="none")
    try:
        target.write_bytes(content)
    except OSError as error:
        raise FailedError(f"cannot write {target}: {error.strerror}") from error
