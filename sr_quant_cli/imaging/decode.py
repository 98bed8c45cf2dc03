"""Decoding of picture files by libvips: supported formats only, and no damaged files."""

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import pyvips

from sr_quant_cli.errors import FailedError, UsageError, out_of_memory
from sr_quant_cli.imaging.formats import READABLE
from sr_quant_cli.imaging.integrity import UnreadableError, check_png, check_tiff

_LOADERS = {
    "VipsForeignLoadPngSource": "pngload_source",
    "VipsForeignLoadJpegSource": "jpegload_source",
    "VipsForeignLoadUhdrSource": "jpegload_source",  # without its gain map
    "VipsForeignLoadWebpSource": "webpload_source",
    "VipsForeignLoadTiffSource": "tiffload_source",
    "VipsForeignLoadNsgifSource": "gifload_source",
    "VipsForeignLoadHeifSource": "heifload_source",
}
"""Names of libvips' loaders, and the operations that read them. The others are unsafe for untrusted
files: SVG reads other files, and some decoders are not hardened."""

_CHECKS: dict[str, Callable[[BinaryIO], None]] = {
    "pngload_source": check_png,
    "tiffload_source": check_tiff,
}

_FRAMES = ("gifload_source", "webpload_source", "tiffload_source")
"""Operations that read several frames or pages."""

_PILLOW = ("BMP", "PPM", "JPEG2000")
_BY_SUFFIX = {".tga": ("TGA",)}
"""Formats that Pillow reads; TGA can only be recognized by its suffix."""

_PILLOW_MODES = {"1": "L", "I": "I;16", "PA": "RGBA", "YCbCr": "RGB"}
"""Modes to convert; the other modes of these formats become arrays directly."""

_LAST_UPRIGHT = 4
"""Highest EXIF orientation that does not exchange height and width."""

_SPILLING = ("unable to write to", "write failed")
"""Messages of libvips when a temporary file for a large picture cannot be written."""

_SYSTEM = "system error: "
"""Prefix of the line of libvips with the reason given by the system."""


Source = Path | bytes
"""A picture file, or its content."""


@dataclass(frozen=True)
class Frames:
    """The frames of an animation or the pages of a document; most files have a single one.

    Attributes
    ----------
    count
        Number of frames.
    open
        Opens a frame by its index, without converting it; pixels are decoded on demand.
    durations
        Times of the frames in milliseconds; None: not an animation.
    loop
        Number of times that the animation is shown; 0: forever.
    """

    count: int
    open: Callable[[int], pyvips.Image]
    durations: tuple[int, ...] | None = None
    loop: int = 0


@contextlib.contextmanager
def readable(name: Path | str) -> Iterator[None]:
    """Turn errors of reading the picture called ``name`` into one line.

    Raises
    ------
    UsageError
        The file cannot be read.
    FailedError
        There is no room for its pixels, in memory or for temporary files.
    """
    try:
        yield
    except (OSError, UnreadableError) as error:
        raise UsageError(f"cannot read {name}: {one_line(error)}") from error
    except (MemoryError, pyvips.Error) as error:
        if out_of_memory(error):
            raise FailedError(f"out of memory: {name} cannot be read") from error
        if any(words in _text(error) for words in _SPILLING):
            raise FailedError(
                f"no room for the pixels of {name}: {one_line(error)}; "
                "set TMPDIR to a folder with room"
            ) from error
        raise UsageError(f"cannot read {name}: {one_line(error)}") from error


def load(source: Source) -> Frames:
    """Open a picture without converting it; pixels are decoded on demand.

    Raises
    ------
    UnreadableError, pyvips.Error, OSError
        The file is missing, damaged, or in no format of ``READABLE``. Some damage only shows
        when pixels are decoded, as a ``pyvips.Error``.
    """
    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        loader = _loader_of(_vips_source(source))
        if loader is None:
            image = _load_by_pillow(file, suffix)
            return Frames(1, lambda _: image)
        check = _CHECKS.get(loader)
        if check is not None:
            check(file)
    return _frames(source, loader)


@dataclass(frozen=True)
class Header:
    """Size of a picture as it is shown (EXIF orientation applied), and its frames or pages."""

    height: int
    width: int
    frames: int = 1


def read_header(source: Source, name: str = "the input") -> Header:
    """Read the size of a picture without decoding pixels.

    Parameters
    ----------
    name
        Name in messages for content.

    Raises
    ------
    UsageError
        The file is missing, no picture, or its header is damaged.
    """
    if isinstance(source, Path) and not source.is_file():
        raise UsageError(f"no such picture: {source}")
    with readable(source if isinstance(source, Path) else name):
        loader = _loader_of(_vips_source(source))
        if loader is None:
            file = source if isinstance(source, Path) else io.BytesIO(source)
            suffix = source.suffix.lower() if isinstance(source, Path) else ""
            with _opened_by_pillow(file, suffix) as image:
                return Header(image.height, image.width)
        first = _open(source, loader)
        size = (first.height, first.width)
        turned = (field(first, "orientation") or 1) > _LAST_UPRIGHT
        frames = field(first, "n-pages") if loader in _FRAMES else 1
        return Header(*(reversed(size) if turned else size), frames or 1)


def _frames(source: Source, loader: str) -> Frames:
    first = _open(source, loader)
    count = field(first, "n-pages") or 1
    if loader not in _FRAMES or count == 1:
        return Frames(1, lambda _: first)
    if loader == "tiffload_source":
        return Frames(count, lambda index: _open(source, loader, page=index))
    whole: list[pyvips.Image] = []

    def frame(index: int) -> pyvips.Image:
        if not index:
            return first
        if not whole:
            whole.append(_open(source, loader, n=-1))
        return whole[0].crop(0, index * first.height, first.width, first.height)

    durations = tuple(field(first, "delay") or [0] * count)
    return Frames(count, frame, durations, field(first, "loop") or 0)


def _open(source: Source, loader: str, **options: Any) -> pyvips.Image:
    return pyvips.Operation.call(loader, _vips_source(source), fail_on="error", **options)


def _vips_source(source: Source) -> pyvips.Source:
    if isinstance(source, bytes):
        return pyvips.Source.new_from_memory(source)
    # As bytes: the name may not be UTF-8, or contain what libvips parses as options.
    return pyvips.Source.new_from_file(os.fsencode(source))


def field(image: pyvips.Image, name: str) -> Any:
    """Return an entry of a picture's metadata; None if it is missing."""
    return image.get(name) if image.get_typeof(name) else None


def one_line(error: Exception) -> str:
    r"""Return the reason of an error: the system's own words if given, else the first line.

    >>> one_line(pyvips.Error("", "write failed\nsystem error: No space left on device\n"))
    'No space left on device'
    """
    lines = [line.strip() for line in _text(error).strip().splitlines()]
    told = [line.removeprefix(_SYSTEM) for line in lines if line.startswith(_SYSTEM)]
    return next(iter(told + lines), "unknown error")


def _text(error: Exception) -> str:
    if isinstance(error, pyvips.Error):
        return str(error.detail)
    return str(getattr(error, "strerror", None) or error)


def _loader_of(source: pyvips.Source) -> str | None:
    """Return the operation that reads a file; None if no allowed one does."""
    found = pyvips.vips_lib.vips_foreign_find_load_source(source.pointer)
    if found == pyvips.ffi.NULL:
        return None
    return _LOADERS.get(pyvips.ffi.string(found).decode())


def _load_by_pillow(file: BinaryIO, suffix: str) -> pyvips.Image:
    with _opened_by_pillow(file, suffix) as image:
        palette = "RGBA" if "transparency" in image.info else "RGB"
        mode = {"P": palette, **_PILLOW_MODES}.get(image.mode, image.mode)
        pixels = np.asarray(image.convert(mode))
    spaces = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16")}[pixels.dtype.name]
    colour = pixels.ndim == 3 and pixels.shape[2] > 2
    return pyvips.Image.new_from_array(pixels, interpretation=spaces[colour])


@contextlib.contextmanager
def _opened_by_pillow(file: BinaryIO | Path, suffix: str) -> Iterator[PIL.Image.Image]:
    """Open a picture in Pillow, and turn its errors into ours."""
    formats = (*_PILLOW, *_BY_SUFFIX.get(suffix, ()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(file, formats=formats) as image:
                yield image
    except PIL.UnidentifiedImageError as error:
        raise UnreadableError(
            f"it is not in a picture format that srq reads ({', '.join(READABLE)})"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises anything for damaged files
        raise UnreadableError(f"it is damaged: {one_line(error)}") from error
