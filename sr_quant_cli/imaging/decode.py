"""Decoding of picture files by libvips: supported formats only, and no damaged files."""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
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

_PILLOW = ("BMP", "PPM", "JPEG2000")
_BY_SUFFIX = {".tga": ("TGA",)}
"""Formats that Pillow reads; TGA can only be recognized by its suffix."""

_PILLOW_MODES = {"1": "L", "I": "I;16", "PA": "RGBA", "YCbCr": "RGB"}
"""Modes to convert; the other modes of these formats become arrays directly."""

_MEASURED = ("cmyk", "lab", "labs", "labq", "xyz")
"""Interpretations whose samples are not display levels."""

_SPILLING = ("unable to write to", "write failed")
"""Messages of libvips when a temporary file for a large picture cannot be written."""

_SYSTEM = "system error: "
"""Prefix of the line of libvips with the reason given by the system."""


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of reading ``path`` into one line.

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
        raise UsageError(f"cannot read {path}: {one_line(error)}") from error
    except (MemoryError, pyvips.Error) as error:
        if out_of_memory(error):
            raise FailedError(f"out of memory: {path} cannot be read") from error
        if any(words in _text(error) for words in _SPILLING):
            raise FailedError(
                f"no room for the pixels of {path}: {one_line(error)}; "
                "set TMPDIR to a folder with room"
            ) from error
        raise UsageError(f"cannot read {path}: {one_line(error)}") from error


def load(path: Path) -> pyvips.Image:
    """Open a picture without converting it; pixels are decoded on demand.

    Raises
    ------
    UnreadableError, pyvips.Error, OSError
        The file is missing, damaged, or in no format of ``READABLE``. Some damage only shows
        when pixels are decoded, as a ``pyvips.Error``.
    """
    with path.open("rb") as file:
        # As bytes: the name may not be UTF-8, or contain what libvips parses as options.
        source = pyvips.Source.new_from_file(os.fsencode(path))
        loader = _loader_of(source)
        if loader is None:
            return _load_by_pillow(file, path.suffix.lower())
        check = _CHECKS.get(loader)
        if check is not None:
            check(file)
    return pyvips.Operation.call(loader, source, fail_on="error")


def to_srgb(image: pyvips.Image, *, grey: bool) -> tuple[pyvips.Image, list[str]]:
    """Convert to 8 bits, grey or sRGB, and list what is lost.

    Integers are reduced from their full range. Floats are taken as display levels of 0..1, as other
    programs write them, not as linear light.

    Raises
    ------
    UnreadableError
        Samples are of another type or not finite, or floats with a mean above 1.
    """
    space = "b-w" if grey else "srgb"
    if image.interpretation in _MEASURED:
        losses = ["16 bits a sample (reduced to 8)"] if "short" in image.format else []
        if image.interpretation == "cmyk":
            losses.append("CMYK (converted to sRGB)")
        return image.colourspace(space).cast("uchar"), losses
    match image.format:
        case "uchar":
            losses = []
        case "ushort" | "uint":
            bits = 16 if image.format == "ushort" else 32
            losses = [f"{bits} bits a sample (reduced to 8)"]
            image = image.cast("uchar", shift=True)
        case "float":
            losses = ["float samples (reduced to 8 bits)", *_beyond(image)]
            image = (image * 255).rint().cast("uchar")
        case kind:
            raise UnreadableError(f"its samples are of an unknown type ({kind})")
    return image.copy(interpretation=space), losses


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
    formats = (*_PILLOW, *_BY_SUFFIX.get(suffix, ()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(file, formats=formats) as image:
                palette = "RGBA" if "transparency" in image.info else "RGB"
                mode = {"P": palette, **_PILLOW_MODES}.get(image.mode, image.mode)
                pixels = np.asarray(image.convert(mode))
    except PIL.UnidentifiedImageError as error:
        raise UnreadableError(
            f"it is not in a picture format that srq reads ({', '.join(READABLE)})"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises anything for damaged files
        raise UnreadableError(f"it is damaged: {one_line(error)}") from error
    spaces = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16")}[pixels.dtype.name]
    colour = pixels.ndim == 3 and pixels.shape[2] > 2
    return pyvips.Image.new_from_array(pixels, interpretation=spaces[colour])


def _beyond(image: pyvips.Image) -> Iterator[str]:
    """Report floats outside 0..1; alpha counts like colour."""
    stats = image.stats()
    lowest, highest, _, _, mean = (stats.getpoint(column, 0)[0] for column in range(5))
    if not math.isfinite(mean):
        raise UnreadableError("some of its samples are not a number, or infinite")
    if mean > 1:
        raise UnreadableError(f"its float samples are {mean:.4g} on average; they must be in 0..1")
    if lowest < 0 or highest > 1:
        yield "values outside 0..1 (clipped)"
