"""Pictures that Pillow reads, because libvips has no loader for them."""

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import PIL
import pyvips
from numpy.typing import NDArray

from sr_quant_cli.imaging.failures import UnreadableError, one_line
from sr_quant_cli.imaging.formats import READABLE
from sr_quant_cli.imaging.metadata import set_blobs, with_resolution

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_FORMATS = ("BMP", "PPM", "JPEG2000")
_BY_SUFFIX = {".tga": ("TGA",)}
"""Formats that Pillow reads; TGA can only be recognized by its suffix."""

_MODES = {"1": "L", "I": "I;16", "PA": "RGBA", "YCbCr": "RGB"}
"""Modes to convert; the other modes of these formats become arrays directly."""

_COMMENT = re.compile(rb"#[^\r\n]*")
"""Comment in a plain PPM file."""

_STANDARD_LUMA = 3688
"""Sum of the standard's quantization table for luma (ITU-T T.81, table K.1), of quality 50."""


@contextlib.contextmanager
def opened(file: BinaryIO, suffix: str) -> "Iterator[ImageFile]":
    """Open a picture without decoding it.

    Parameters
    ----------
    suffix
        Suffix of the file's name in lower case.

    Raises
    ------
    UnreadableError
        The file is damaged, or in none of the formats that Pillow reads here.
    """
    formats = (*_FORMATS, *_BY_SUFFIX.get(suffix, ()))
    with _damage(), _open(file, *formats) as image:
        yield image


def bits_of(image: "ImageFile") -> int:
    """Bits a sample, 8 or 16, that ``load`` decodes an opened picture to."""
    return 16 if _is_deep_ppm(image) or image.mode.startswith("I") else 8


def load(file: BinaryIO, suffix: str) -> pyvips.Image:
    """Decode a picture, with its metadata, as libvips would.

    Raises
    ------
    UnreadableError
        The file is damaged, or in none of the formats that Pillow reads here.
    """
    with opened(file, suffix) as image:
        pixels = _deep_ppm(file, image) if _is_deep_ppm(image) else _array(image)
        loaded = _to_vips(pixels)
        if "dpi" in image.info:
            x, y = (float(dots) / 25.4 for dots in image.info["dpi"])
            loaded = with_resolution(loaded, x, y)
        set_blobs(loaded, icc=image.info.get("icc_profile"), exif=image.info.get("exif"))
    return loaded


def open_png_frames(content: bytes, *, skip: int) -> Callable[[int], pyvips.Image]:
    """Return a function that decodes a frame of an animated PNG file by its index.

    Parameters
    ----------
    content
        The file.
    skip
        Number of pictures in front of the first frame.
    """
    turn = threading.Lock()
    with _damage():
        image = _open(io.BytesIO(content), "PNG")

    def frame(index: int) -> pyvips.Image:
        with turn, _damage():
            image.seek(index + skip)
            return _to_vips(_array(image))

    return frame


def load_lab_page(file: BinaryIO, page: int) -> pyvips.Image:
    """Decode a page of a TIFF file with 8 bits a sample in Lab.

    Raises
    ------
    UnreadableError
        The page is damaged, or of another kind.
    """
    with _damage(), _open(file, "TIFF") as image:
        image.seek(page)
        if image.mode != "LAB":
            raise UnreadableError(f"its pixels are of an unknown kind ({image.mode})")
        stored = np.asarray(image)
        lab = stored.view(np.int8).astype(np.float32)  # a and b have signs
        lab[:, :, 0] = stored[:, :, 0] * np.float32(100 / 255)
        packed = pyvips.Image.new_from_array(lab, interpretation="lab").colourspace("labq")
        if "dpi" in image.info:
            x, y = image.info["dpi"]
            packed = with_resolution(packed, float(x) / 25.4, float(y) / 25.4)
        set_blobs(packed, icc=image.info.get("icc_profile"))
    return packed


def jpeg_comments(file: BinaryIO) -> tuple[tuple[str, str], ...]:
    """Read the comment of a JPEG file, as keyword and text."""
    file.seek(0)
    with contextlib.suppress(UnreadableError), _damage():
        with _open(file, "JPEG") as image:
            comment = image.info.get("comment")
        if comment:
            return (("Comment", comment.decode("utf-8", "replace").rstrip("\0")),)
    return ()


def jpeg_quality(file: BinaryIO) -> int | None:
    """Estimate the quality of a JPEG file, 1 to 100, from its quantization table for luma.

    Encoders of the Independent JPEG Group multiply the table of the standard by ``S`` percent, with
    ``S = 200 - 2 q`` for a quality ``q`` from 50 on, and ``S = 5000 / q`` below. Tables of other
    encoders count by their mean.

    Returns
    -------
    None: the file has no table that can be read.
    """
    file.seek(0)
    with contextlib.suppress(UnreadableError), _damage():
        with _open(file, "JPEG") as image:
            tables: dict[int, list[int]] = getattr(image, "quantization", {})
        if 0 in tables and sum(tables[0]) > 0:
            percent = 100 * sum(tables[0]) / _STANDARD_LUMA
            quality = 100 - percent / 2 if percent <= 100 else 5000 / percent
            return max(1, round(quality))
    return None


def _open(file: BinaryIO, *formats: str) -> "ImageFile":
    from PIL import Image  # slow to import, and most pictures do without

    return Image.open(file, formats=formats)


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Turn Pillow's errors into ``UnreadableError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PIL.UnidentifiedImageError as error:
        raise UnreadableError(
            f"it is not in a picture format that srq reads ({', '.join(READABLE)})"
        ) from error
    except (MemoryError, UnreadableError):
        raise
    except Exception as error:  # Pillow raises anything for damaged files
        raise UnreadableError(f"it is damaged: {one_line(error)}") from error


def _array(image: "Image") -> NDArray[Any]:
    palette = "RGBA" if "transparency" in image.info else "RGB"
    mode = {"P": palette, **_MODES}.get(image.mode, image.mode)
    return np.asarray(image.convert(mode))


def _to_vips(pixels: NDArray[Any]) -> pyvips.Image:
    spaces = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16")}[pixels.dtype.name]
    colour = pixels.ndim == 3 and pixels.shape[2] > 2
    return pyvips.Image.new_from_array(pixels, interpretation=spaces[colour])


def _is_deep_ppm(image: "ImageFile") -> bool:
    return image.format == "PPM" and bool(image.tile) and _highest(image) > 255


def _highest(image: "ImageFile") -> int:
    """Highest level that a PPM file states."""
    arguments = image.tile[0].args
    return int(arguments[1]) if isinstance(arguments, tuple) and len(arguments) > 1 else 255


def _deep_ppm(file: BinaryIO, image: "ImageFile") -> NDArray[np.uint16]:
    """Decode a PPM or PGM file of more than 8 bits, of which Pillow keeps 8."""
    decoder, _, offset, _ = image.tile[0]
    bands = len(image.getbands())
    shape = (image.height, image.width, bands)[: 2 + (bands > 1)]
    count, highest = int(np.prod(shape)), _highest(image)
    file.seek(offset)
    if decoder == "ppm_plain":
        words = _COMMENT.sub(b"", file.read()).split()
        levels = np.array(words[:count], dtype=np.uint32)
    else:
        levels = np.frombuffer(file.read(2 * count), ">u2").astype(np.uint32)
    if levels.size < count:
        raise UnreadableError("it is cut off")
    if levels.size and levels.max() > highest:
        raise UnreadableError(f"it is damaged: a level above {highest}")
    scaled = (levels.astype(np.uint64) * 65535 + highest // 2) // highest
    return scaled.astype(np.uint16).reshape(shape)
