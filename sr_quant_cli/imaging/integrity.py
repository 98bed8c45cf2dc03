"""Checks of a file's structure for damage that decoders ignore."""

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_BLOCK = 2**20

_DEFLATE = (8, 32946)
_JPEG = (6, 7)
_YCBCR, _LAB = 6, (8, 9)
"""Values of TIFF's tags Compression and PhotometricInterpretation."""


class UnreadableError(Exception):
    """A file cannot be read; the message continues a sentence about the file."""


def check_png(file: BinaryIO) -> None:
    """Verify the checksums of all chunks; libpng silently drops damaged ancillary ones.

    Raises
    ------
    UnreadableError
        A checksum differs, or the file ends early.
    """
    file.seek(8)  # behind the signature
    kind = b""
    while kind != b"IEND":
        header = file.read(8)
        if len(header) < 8:
            raise UnreadableError("it is cut off")
        length, kind = struct.unpack(">I4s", header)
        checksum = zlib.crc32(kind)
        for block in _blocks(file, length):
            checksum = zlib.crc32(block, checksum)
        stored = file.read(4)
        if len(stored) < 4:
            raise UnreadableError("it is cut off")
        if stored != struct.pack(">I", checksum):
            raise UnreadableError("it is damaged: a checksum does not match")


def check_tiff(file: BinaryIO) -> None:
    """Check the sample type of the first page, and that its strips or tiles are complete.

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
            parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
            compression, photometric = int(page.compression), int(page.photometric)
            kind = page.dtype
    except Exception:  # tifffile raises anything for odd or damaged files
        return  # libtiff will report it
    if kind is not None and photometric not in _LAB and (kind.kind in "ic" or kind.itemsize > 4):
        raise UnreadableError(
            f"its samples are {kind.name}; srq reads unsigned integers and floats of at most "
            "32 bits"
        )
    if photometric == _YCBCR and compression not in _JPEG:
        raise UnreadableError("its pixels are YCbCr without JPEG compression; save it as RGB")
    if any(offset + count > end for offset, count in parts):
        raise UnreadableError("it is cut off")
    if compression in _DEFLATE:
        for offset, count in parts:
            file.seek(offset)
            _check_deflated(file, count)


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
