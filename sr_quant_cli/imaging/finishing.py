"""Metadata that libvips does not write, added to encoded files."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sr_quant_cli.imaging import exif
from sr_quant_cli.imaging.metadata import Metadata

_PNG_HEADER = 33
"""Bytes of the signature and the first chunk."""
_NO_RESOLUTION = struct.pack(">IIB", 1, 1, 0)
"""Content of a chunk pHYs that states square pixels of unknown size."""
_PIXELS = (b"IDAT", b"IEND")

_COMMENT = b"\xff\xfe"
_LONGEST_COMMENT = 65533
"""Marker and largest content of a comment in a JPEG file."""


def finish_png(path: Path, metadata: Metadata) -> None:
    """Add comments and IPTC data, and correct the resolution that libvips makes up."""
    if metadata.resolution is None:
        _forget_resolution(path)
    if metadata.comments or metadata.iptc:
        _insert(path, _PNG_HEADER, lambda file: _write_texts(file, metadata))


def finish_jpeg(path: Path, metadata: Metadata) -> None:
    """Add comments."""
    comment = _as_text(metadata).encode()[:_LONGEST_COMMENT]
    if comment:
        segment = _COMMENT + struct.pack(">H", len(comment) + 2) + comment
        _insert(path, 2, lambda file: file.write(segment))


def finish_tiff(path: Path, metadata: Metadata) -> None:
    """Add EXIF and IPTC data, and comments as the description; correct the resolution."""
    if metadata.resolution is None:
        exif.forget_resolution(path)
    if metadata.exif or metadata.iptc or metadata.comments:
        exif.write_tiff(path, metadata.exif, metadata.iptc, _as_text(metadata))


FINISHES: dict[str, Callable[[Path, Metadata], None]] = {
    "png": finish_png,
    "jpg": finish_jpeg,
    "tiff": finish_tiff,
}
"""The functions by the key of the format."""


def _as_text(metadata: Metadata) -> str:
    """Join the comments; all keywords but ``Comment`` are named."""
    return "\n".join(
        text if keyword == "Comment" else f"{keyword}: {text}"
        for keyword, text in metadata.comments
    )


def _as_profile(name: str, data: bytes) -> str:
    digits = data.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    return f"\n{name}\n{len(data):8}\n{lines}\n"


def _write_texts(file: BinaryIO, metadata: Metadata) -> None:
    from PIL.PngImagePlugin import PngInfo, putchunk  # slow to import

    texts = PngInfo()
    for keyword, text in metadata.comments:
        try:
            text.encode("latin-1")
        except UnicodeEncodeError:
            texts.add_itxt(keyword, text)
        else:
            texts.add_text(keyword, text)
    if metadata.iptc:
        # The form in which ImageMagick and ExifTool look for it.
        texts.add_text("Raw profile type iptc", _as_profile("iptc", metadata.iptc), zip=True)
    for kind, content, *_ in texts.chunks:
        putchunk(file, kind, content)


def _forget_resolution(path: Path) -> None:
    """Overwrite the chunk pHYs in front of the pixels."""
    with path.open("rb+") as file:
        file.seek(8)
        while (header := file.read(8))[4:] not in (*_PIXELS, b""):
            length, kind = struct.unpack(">I4s", header)
            if kind == b"pHYs":
                checksum = zlib.crc32(kind + _NO_RESOLUTION)
                file.write(_NO_RESOLUTION + struct.pack(">I", checksum))
                return
            file.seek(length + 4, 1)


def _insert(path: Path, at: int, write: Callable[[BinaryIO], object]) -> None:
    """Insert bytes into a file."""
    longer = path.with_name(f"{path.name}.longer")
    with path.open("rb") as old, longer.open("wb") as new:
        new.write(old.read(at))
        write(new)
        shutil.copyfileobj(old, new)
    longer.replace(path)
