"""Checks of a file's structure for damage that decoders ignore."""

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from sr_quant_cli.imaging.failures import UnreadableError
from sr_quant_cli.records import record

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffFrame, TiffPage

_BLOCK = 2**20

_DEFLATE = (8, 32946)
_JPEG = (6, 7)
_YCBCR, _LAB = 6, (8, 9)
"""Values of TIFF's tags Compression and PhotometricInterpretation."""
_AUXILIARY = 1 | 4
"""Bits of TIFF's tag NewSubfileType for smaller copies and masks."""

_GIF_IMAGE, _GIF_EXTENSION, _GIF_END = b",", b"!", b";"
"""First bytes of the blocks of a GIF file."""

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_NOTED = (*_TEXTS, b"acTL", b"fcTL", b"pHYs")
_METRE = b"\1"
"""Unit of the resolution in a chunk pHYs."""
_LONGEST_TEXT = 2**20
_XMP = "XML:com.adobe.xmp"
"""Keyword of an XMP packet, which libvips reads."""


@record
class PngContent:
    """Content of a PNG file that libvips does not read.

    Attributes
    ----------
    texts
        Keywords and texts, in the order of the file.
    durations
        Times of the frames in milliseconds; empty if the file is no animation.
    loop
        Number of times that the animation is shown; 0: forever.
    apart
        True if the picture that other programs show is not a frame.
    measured
        True if the resolution is stated.
    """

    texts: tuple[tuple[str, str], ...]
    durations: tuple[int, ...]
    loop: int
    apart: bool
    measured: bool


def check_png(file: BinaryIO) -> PngContent:
    """Verify the checksums of all chunks; libpng silently drops damaged ancillary ones.

    Raises
    ------
    UnreadableError
        A checksum differs, or the file ends early.
    """
    file.seek(8)  # behind the signature
    kind = b""
    texts, durations, loop = [], [], None
    apart = measured = False
    while kind != b"IEND":
        header = file.read(8)
        if len(header) < 8:
            raise UnreadableError("it is cut off")
        length, kind = struct.unpack(">I4s", header)
        checksum = zlib.crc32(kind)
        content = b""
        for block in _blocks(file, length):
            checksum = zlib.crc32(block, checksum)
            if kind in _NOTED and length <= _LONGEST_TEXT:
                content += block
        stored = file.read(4)
        if len(stored) < 4:
            raise UnreadableError("it is cut off")
        if stored != struct.pack(">I", checksum):
            raise UnreadableError("it is damaged: a checksum does not match")
        if kind == b"acTL" and length == 8:
            loop = struct.unpack(">II", content)[1]
        elif kind == b"fcTL" and length == 26:
            above, below = struct.unpack(">HH", content[20:24])
            durations.append(round(1000 * above / (below or 100)))
        elif kind == b"IDAT":
            apart |= not durations
        elif kind == b"pHYs":
            measured = content[8:] == _METRE
        elif kind in _TEXTS and (text := _text(kind, content)) and text[0] != _XMP:
            texts.append(text)
    if loop is None:
        durations = []
    return PngContent(tuple(texts), tuple(durations), loop or 0, apart, measured)


def png_frames(file: BinaryIO) -> int:
    """Number of frames that a PNG file states in front of its pixels; 1 if it is no animation."""
    file.seek(8)
    while (header := file.read(8))[4:] not in (b"IDAT", b"IEND", b""):
        length, kind = struct.unpack(">I4s", header.rjust(8))
        if kind == b"acTL":
            return struct.unpack(">I", file.read(4).rjust(4, b"\0"))[0] or 1
        file.seek(length + 4, os.SEEK_CUR)
    return 1


def check_gif(file: BinaryIO) -> None:
    """Check that all blocks of a GIF file are complete; decoders show what there is.

    Raises
    ------
    UnreadableError
        The file ends within a block.
    """
    file.seek(10)
    _skip(file, 2 + _palette(_read(file, 1)[0]))
    while (kind := file.read(1)) not in (_GIF_END, b""):
        if kind == _GIF_IMAGE:
            _skip(file, 8)
            _skip(file, _palette(_read(file, 1)[0]) + 1)
        elif kind == _GIF_EXTENSION:
            _skip(file, 1)
        else:
            return  # decoders stop here, too
        while length := _read(file, 1)[0]:
            _skip(file, length)


def tiff_pages(file: BinaryIO) -> tuple[int, ...] | None:
    """Indices of the pages of a TIFF file that are neither a smaller copy nor a mask of another.

    None if the file is odd or damaged in a way that libtiff will report.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            return tuple(
                index
                for index, page in enumerate(_pages(tiff))
                if not (isinstance(page, tifffile.TiffPage) and page.subfiletype & _AUXILIARY)
            )
    except Exception:  # tifffile raises anything for odd or damaged files
        return None


def check_tiff(file: BinaryIO) -> None:
    """Check the sample type of the first page, and that the strips or tiles of all are complete.

    Raises
    ------
    UnreadableError
        Samples are not display levels, are YCbCr without JPEG compression, lie beyond the end of
        the file, or do not match their deflate checksums.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            pages = [
                (list(zip(one.dataoffsets, one.databytecounts, strict=False)), int(one.compression))
                for one in _pages(tiff)
            ]
            compression, photometric = int(page.compression), int(page.photometric)
            kind = page.dtype
    except UnreadableError:
        raise
    except Exception:  # tifffile raises anything for odd or damaged files
        return  # libtiff will report it
    if kind is not None and photometric not in _LAB and (kind.kind in "ic" or kind.itemsize > 4):
        raise UnreadableError(
            f"its samples are {kind.name}; srq reads unsigned integers and floats of at most "
            "32 bits"
        )
    if photometric == _YCBCR and compression not in _JPEG:
        raise UnreadableError("its pixels are YCbCr without JPEG compression; save it as RGB")
    for parts, compression in pages:
        if any(offset + count > end for offset, count in parts):
            raise UnreadableError("it is cut off")
        if compression in _DEFLATE:
            for offset, count in parts:
                file.seek(offset)
                _check_deflated(file, count)


def _pages(tiff: "TiffFile") -> "Iterator[TiffPage | TiffFrame]":
    """Pages of a TIFF file, each once.

    Raises
    ------
    UnreadableError
        A page is followed by an earlier one.
    """
    seen = set()
    for page in tiff.pages:
        if page.offset in seen:
            raise UnreadableError("it is damaged: its pages follow each other in a circle")
        seen.add(page.offset)
        yield page


def _palette(flags: int) -> int:
    """Bytes of a GIF palette by the byte that describes it."""
    return 3 << (flags % 8 + 1) if flags & 128 else 0


def _read(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise UnreadableError("it is cut off")
    return content


def _skip(file: BinaryIO, count: int) -> None:
    _read(file, count)


def _text(kind: bytes, content: bytes) -> tuple[str, str] | None:
    """Decode a text chunk to its keyword and text; None if it is odd."""
    keyword, _, rest = content.partition(b"\0")
    try:
        if kind == b"tEXt":
            return keyword.decode("latin-1"), rest.decode("latin-1")
        if kind == b"zTXt":
            return keyword.decode("latin-1"), _inflated(rest[1:]).decode("latin-1")
        _, _, text = rest[2:].split(b"\0", 2)
        plain = _inflated(text) if rest[:1] == b"\1" else text
        return keyword.decode("latin-1"), plain.decode("utf-8")
    except (ValueError, zlib.error):
        return None


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _LONGEST_TEXT)


def _check_deflated(file: BinaryIO, count: int) -> None:
    stream = zlib.decompressobj()
    try:
        for block in _blocks(file, count):
            stream.decompress(block)
    except zlib.error as error:
        raise UnreadableError("it is damaged: deflated pixels do not match") from error
    if count and not stream.eof:
        raise UnreadableError("it is damaged: deflated pixels end early")


def _blocks(file: BinaryIO, count: int) -> Iterator[bytes]:
    """Read ``count`` bytes, or up to the end of the file."""
    while count and (block := file.read(min(count, _BLOCK))):
        count -= len(block)
        yield block
