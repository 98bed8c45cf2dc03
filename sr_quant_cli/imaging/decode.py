"""From a picture file to pixels of libvips: only promised formats, and nothing damaged."""

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
"""What libvips calls the format of a file, and how it is read. Its other formats are not for
pictures of strangers: SVG reads other files, and some decoders are not hardened."""

_CHECKS: dict[str, Callable[[BinaryIO], None]] = {
    "pngload_source": check_png,
    "tiffload_source": check_tiff,
}

_PILLOW = ("BMP", "PPM", "JPEG2000")
_BY_SUFFIX = {".tga": ("TGA",)}
"""Formats that Pillow reads; TGA is told by nothing but the suffix."""

_PILLOW_MODES = {"1": "L", "I": "I;16", "PA": "RGBA", "YCbCr": "RGB"}
"""Modes that are converted; all others that these formats have become arrays as they are."""

_MEASURED = ("cmyk", "lab", "labs", "labq", "xyz")
"""Interpretations whose samples are no levels of a display."""

_SPILLING = ("unable to write to", "write failed")
"""What libvips says where it cannot put pixels of a large picture into a temporary file."""

_SYSTEM = "system error: "
"""How a line of libvips begins that has the system's reason."""


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong with reading ``path`` into one line.

    Raises
    ------
    UsageError
        With the file and the reason.
    FailedError
        There is no room for its pixels in memory, or where temporary files go.
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
                "TMPDIR names another folder for them"
            ) from error
        raise UsageError(f"cannot read {path}: {one_line(error)}") from error


def load(path: Path) -> pyvips.Image:
    """Open a picture as its file has it; pixels are decoded when they are asked for.

    Raises
    ------
    UnreadableError, pyvips.Error, OSError
        The file is missing, damaged, or of no format in ``READABLE``. Some damage shows only
        when pixels are decoded, as a ``pyvips.Error``.
    """
    with path.open("rb") as file:
        # By its bytes: the name need not be UTF-8, nor free of what libvips takes for options.
        source = pyvips.Source.new_from_file(os.fsencode(path))
        loader = _loader_of(source)
        if loader is None:
            return _load_by_pillow(file, path.suffix.lower())
        check = _CHECKS.get(loader)
        if check is not None:
            check(file)
    return pyvips.Operation.call(loader, source, fail_on="error")


def to_srgb(image: pyvips.Image, *, grey: bool) -> tuple[pyvips.Image, list[str]]:
    """Convert to 8 bits, grey or sRGB, and say what is lost by that.

    Integers are reduced from their full range. Floats are display levels of 0..1 as other programs
    write them, not linear light.

    Raises
    ------
    UnreadableError
        Samples are of another kind, not finite, or floats beyond 0..1 on average.
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
            raise UnreadableError(f"its samples are of an unknown kind ({kind})")
    return image.copy(interpretation=space), losses


def field(image: pyvips.Image, name: str) -> Any:
    """Read an entry of a picture's metadata; None: it has no such entry."""
    return image.get(name) if image.get_typeof(name) else None


def one_line(error: Exception) -> str:
    r"""What a library says went wrong: the system's own words where it has them, else a first line.

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
    """The operation that reads a file; None: none that may."""
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
            f"it is no picture of a format that srq reads ({', '.join(READABLE)})"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file Pillow raises anything
        raise UnreadableError(f"it is damaged: {one_line(error)}") from error
    spaces = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16")}[pixels.dtype.name]
    colour = pixels.ndim == 3 and pixels.shape[2] > 2
    return pyvips.Image.new_from_array(pixels, interpretation=spaces[colour])


def _beyond(image: pyvips.Image) -> Iterator[str]:
    """Say whether floats leave 0..1; alpha counts like colour."""
    stats = image.stats()
    lowest, highest, _, _, mean = (stats.getpoint(column, 0)[0] for column in range(5))
    if not math.isfinite(mean):
        raise UnreadableError("some of its samples are not a number, or infinite")
    if mean > 1:
        raise UnreadableError(f"its float samples are {mean:.4g} on average; they must be of 0..1")
    if lowest < 0 or highest > 1:
        yield "values outside 0..1 (clipped)"
