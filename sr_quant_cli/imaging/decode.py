"""Decoding of picture files by libvips: supported formats only, and no damaged files."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyvips

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging import by_pillow
from sr_quant_cli.imaging.exif import read_tiff
from sr_quant_cli.imaging.failures import UnreadableError, readable
from sr_quant_cli.imaging.integrity import (
    PngContent,
    check_gif,
    check_png,
    check_tiff,
    png_frames,
    tiff_pages,
)
from sr_quant_cli.imaging.metadata import field, with_resolution
from sr_quant_cli.records import record

_LOADERS = {
    "VipsForeignLoadPngSource": "pngload_source",
    "VipsForeignLoadJpegSource": "jpegload_source",
    "VipsForeignLoadUhdrSource": "jpegload_source",  # without its gain map
    "VipsForeignLoadWebpSource": "webpload_source",
    "VipsForeignLoadTiffSource": "tiffload_source",
    "VipsForeignLoadNsgifSource": "gifload_source",
    "VipsForeignLoadHeifSource": "heifload_source",
    "VipsForeignLoadJxlSource": "jxlload_source",
}
"""Names of libvips' loaders, and the operations that read them. The others are unsafe for untrusted
files: SVG reads other files, and some decoders are not hardened."""

_ANIMATED = {"gifload_source": ".gif", "webpload_source": ".webp"}
_SEVERAL = _ANIMATED | {"tiffload_source": ".tif"}
"""Operations that read animations, and those that read several frames or pages; suffixes."""

_SIGNATURES = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"ftypheic": "HEIC",
    b"ftypheix": "HEIC",
}
"""First bytes of files that only some builds of libvips read; of HEIC, behind a length."""

_LAB_DEFECT = "bad labq format"
"""Message of libvips 8.18, which does not read TIFF files with 8 bits a sample in Lab."""

_LAST_UPRIGHT = 4
"""Highest EXIF orientation that does not exchange height and width."""

Source = Path | bytes
"""A picture file, or its content."""


@record
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
    comments
        Keywords and texts.
    exif, iptc
        EXIF data and IPTC records that libvips does not read.
    losses
        Parts of the file that are not read, in words.
    """

    count: int
    open: Callable[[int], pyvips.Image]
    durations: tuple[int, ...] | None = None
    loop: int = 0
    comments: tuple[tuple[str, str], ...] = ()
    exif: bytes | None = None
    iptc: bytes | None = None
    losses: tuple[str, ...] = ()


def load(source: Source) -> Frames:
    """Open a picture without converting it; pixels are decoded on demand.

    Raises
    ------
    UnreadableError, pyvips.Error, OSError
        The file is missing, damaged, or in no format of ``READABLE``. Some damage only shows
        when pixels are decoded, as a ``pyvips.Error``.
    """
    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    with _opened(source) as file:
        match _loader_of(source, file):
            case None:
                image = by_pillow.load(file, suffix)
                return Frames(1, lambda _: image)
            case "pngload_source":
                return _png(source, check_png(file))
            case "tiffload_source":
                check_tiff(file)
                return _tiff(source, tiff_pages(file), *read_tiff(file))
            case "jpegload_source":
                image = _open(source, "jpegload_source")
                return Frames(1, lambda _: image, comments=by_pillow.jpeg_comments(file))
            case loader if loader in _ANIMATED:
                if loader == "gifload_source":
                    check_gif(file)
                return _animation(source, loader)
            case "heifload_source":
                return _heif(source, sequence=file.read(12)[4:] == b"ftypavis")
            case loader:
                image = _open(source, loader)
                return Frames(1, lambda _: image)


@record
class Header:
    """Size of a picture as it is shown, and its frames.

    Attributes
    ----------
    height, width
        Pixels, with EXIF orientation applied.
    frames
        Number of frames or pages.
    suffix
        Suffix of the format.
    bits
        Bits a sample after decoding: 8 or 16.
    jpeg_quality
        Estimated quality, 1 to 100, of a picture that is stored as JPEG; None: of any other one.
    """

    height: int
    width: int
    frames: int = 1
    suffix: str = ".png"
    bits: int = 8
    jpeg_quality: int | None = None


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
    with (
        readable(source if isinstance(source, Path) else name),
        _opened(source) as file,
    ):
        loader = _loader_of(source, file)
        if loader is None:
            suffix = source.suffix.lower() if isinstance(source, Path) else ""
            with by_pillow.opened(file, suffix) as image:
                return Header(image.height, image.width, bits=by_pillow.bits_of(image))
        tiff = loader == "tiffload_source"
        first = _open_page(source, 0) if tiff else _open(source, loader)
        height, width = first.height, first.width
        if (field(first, "orientation") or 1) > _LAST_UPRIGHT:
            height, width = width, height
        frames = 1
        if loader == "pngload_source":
            frames = png_frames(file)
        elif loader in _SEVERAL:
            frames = field(first, "n-pages") or 1
        if tiff:
            frames = len(tiff_pages(file) or range(frames))
        animated_png = loader == "pngload_source" and frames > 1  # Pillow decodes it
        bits = 8 if first.format == "uchar" or animated_png else 16
        quality = by_pillow.jpeg_quality(file) if loader == "jpegload_source" else None
        return Header(height, width, frames, _SEVERAL.get(loader, ".png"), bits, quality)


def _png(source: Source, content: PngContent) -> Frames:
    first = _open(source, "pngload_source")
    if content.measured:
        first = with_resolution(first, first.xres, first.yres)
    if len(content.durations) < 2:
        return Frames(1, lambda _: first, comments=content.texts)
    whole = source if isinstance(source, bytes) else source.read_bytes()
    decode = by_pillow.open_png_frames(whole, skip=int(content.apart))

    def frame(index: int) -> pyvips.Image:
        decoded = decode(index)
        for name in first.get_fields():
            if name.endswith(("-data", "-unit")):
                decoded.set_type(first.get_typeof(name), name, first.get(name))
        return decoded.copy(xres=first.xres, yres=first.yres)

    count = len(content.durations)
    losses = () if first.format == "uchar" else ("16 bits a sample (animated PNG is read at 8)",)
    return Frames(
        count, frame, content.durations, content.loop, comments=content.texts, losses=losses
    )


def _tiff(
    source: Source, shown: tuple[int, ...] | None, exif: bytes | None, iptc: bytes | None
) -> Frames:
    first = _open_page(source, 0)
    pages = shown or range(field(first, "n-pages") or 1)
    return Frames(
        len(pages),
        lambda index: _open_page(source, pages[index]),
        exif=exif,
        iptc=iptc,
    )


def _open_page(source: Source, page: int) -> pyvips.Image:
    try:
        return _open(source, "tiffload_source", page=page)
    except pyvips.Error as error:
        if _LAB_DEFECT not in str(error.detail):
            raise
    with _opened(source) as file:
        return by_pillow.load_lab_page(file, page)


def _heif(source: Source, *, sequence: bool) -> Frames:
    image = _open(source, "heifload_source")
    bits = field(image, "bits-per-sample") or 16
    if image.format == "ushort" and bits < 16:
        # libvips shifts levels of 10 and 12 bits, which leaves white below the highest level.
        space, highest = image.interpretation, (2**bits - 1) << (16 - bits)
        image = (image * (65535 / highest)).rint().cast("ushort").copy(interpretation=space)
    count = field(image, "n-pages") or 1
    losses = (f"pictures 2 to {count}",) if count > 1 else ()
    if sequence:
        losses = ("all frames but the first",)
    return Frames(1, lambda _: image, losses=losses)


def _animation(source: Source, loader: str) -> Frames:
    first = _open(source, loader)
    count = field(first, "n-pages") or 1
    comment = field(first, "gif-comment")
    comments = (("Comment", comment),) if comment else ()
    if count == 1:
        return Frames(1, lambda _: first, comments=comments)
    whole: list[pyvips.Image] = []

    def frame(index: int) -> pyvips.Image:
        if not index:
            return first
        if not whole:
            whole.append(_open(source, loader, n=-1))
        return whole[0].crop(0, index * first.height, first.width, first.height)

    durations = tuple(field(first, "delay") or [0] * count)
    return Frames(count, frame, durations, field(first, "loop") or 0, comments)


def _open(source: Source, loader: str, **options: Any) -> pyvips.Image:
    options["fail_on"] = "error"
    if isinstance(source, Path):
        return pyvips.Operation.call(loader, _vips_source(source), **options)
    if loader == "jpegload_source":  # not that of gain maps, which libvips would choose
        return pyvips.Operation.call("jpegload_buffer", source, **options)
    # It keeps the content as long as the image; the operations themselves do not.
    return pyvips.Image.new_from_source(_vips_source(source), "", **options)


def _opened(source: Source) -> BinaryIO:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def _vips_source(source: Source) -> pyvips.Source:
    if isinstance(source, bytes):
        return pyvips.Source.new_from_memory(source)
    # As bytes: the name may not be UTF-8, or contain what libvips parses as options.
    return pyvips.Source.new_from_file(os.fsencode(source))


def _loader_of(source: Source, file: BinaryIO) -> str | None:
    """Return the operation of libvips that reads a file; None if no allowed one does.

    Raises
    ------
    UnreadableError
        The file is in a format that libvips reads, but not this build of it.
    """
    found = pyvips.vips_lib.vips_foreign_find_load_source(_vips_source(source).pointer)
    loader = None
    if found != pyvips.ffi.NULL:
        loader = _LOADERS.get(pyvips.ffi.string(found).decode())
    start = file.read(12)
    file.seek(0)
    for signature, name in _SIGNATURES.items():
        if loader is None and signature in (start[: len(signature)], start[4:12]):
            raise UnreadableError(
                f"the libvips of this installation does not read {name}; save it in another format"
            )
    return loader
