"""EXIF data: brought up to date for an enlarged picture, and moved into and out of TIFF files."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sr_quant_cli.records import record

MARK = b"Exif\0\0"
"""First bytes of EXIF data in JPEG files and in libvips."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type."""
_SWAPPED = _SIZES | {5: 4, 10: 4}
"""Bytes that change places with the byte order, by type."""

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x112, 0x11A, 0x11B, 0x128
_THUMBNAIL, _THUMBNAIL_LENGTH = 0x201, 0x202
_WIDTHS, _HEIGHTS = (0x100, 0xA002), (0x101, 0xA003)
_DESCRIPTION, _IPTC = 0x10E, 0x83BB
_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_CHILDREN = {_EXIF: (_INTEROPERABILITY,), _GPS: ()}
"""Directories below that of a picture, and those below them."""
_DESCRIPTIVE = (
    *(_DESCRIPTION, 0x10F, 0x110, 0x131, 0x132, 0x13B, 0x13C, 0x4746, 0x4749, 0x8298, _IPTC),
    *range(0x9C9B, 0x9CA0),
)
"""Tags of a TIFF directory that do not describe how pixels are stored."""

_LONGEST = 2**20
"""Bytes of the largest value that is taken from a TIFF file."""
_CLASSIC, _BIG = 42, 43
"""Version numbers of TIFF files with offsets of 4 and of 8 bytes."""
_ASCII, _RATIONAL, _BYTES = 2, 5, 7
_NO_UNIT, _INCH, _CENTIMETRE = 1, 2, 3
"""Values of ResolutionUnit."""

_Data = bytes | bytearray | mmap


class _DamagedError(Exception):
    """A directory points outside the data."""


@record
class _Entry:
    """An entry of a directory."""

    tag: int
    kind: int
    count: int
    at: int
    """offset of the values"""

    @property
    def size(self) -> int:
        return self.count * _SIZES[self.kind]


@record
class _Layout:
    """Byte order and offset size of a TIFF structure."""

    order: str
    big: bool = False

    @property
    def offset(self) -> str:
        """Format of an offset."""
        return self.order + ("Q" if self.big else "I")

    @property
    def count(self) -> str:
        """Format of the number of entries."""
        return self.order + ("Q" if self.big else "H")

    @property
    def entry(self) -> str:
        """Format of an entry: tag, type, count, values or their offset."""
        return self.order + ("HHQ8s" if self.big else "HHI4s")


@dataclass
class _Directory:
    """Values of a directory in little-endian order, by tag, and the directories below it."""

    values: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    children: dict[int, "_Directory"] = field(default_factory=dict)


def refreshed(exif: bytes, height: int, width: int) -> bytes | None:
    """Bring EXIF data up to date: upright, of the given size, without a thumbnail.

    Everything else stays where it is, because notes of camera makers hold offsets.

    Returns
    -------
    The data behind ``MARK``; None if it is damaged.
    """
    data = bytearray(exif.removeprefix(MARK))
    try:
        layout, first = _header(data)
        link = _link(data, layout, first)
        (second,) = _unpack(layout.offset, data, link)
        struct.pack_into(layout.offset, data, link, 0)
        if second:
            _erase_thumbnail(data, layout, second)
        for entry in _all_entries(data, layout, first):
            if entry.tag == _ORIENTATION:
                _set(data, layout, entry, 1)
            elif entry.tag in _WIDTHS:
                _set(data, layout, entry, width)
            elif entry.tag in _HEIGHTS:
                _set(data, layout, entry, height)
    except _DamagedError:
        return None
    return MARK + bytes(data)


def resolution_of(exif: bytes) -> tuple[float, float] | None:
    """Return the resolution in pixels a millimetre in x and y; None if it is not stated."""
    data = exif.removeprefix(MARK)
    try:
        layout, first = _header(data)
        found = {entry.tag: entry for entry in _entries(data, layout, first)}
        x, y = (_rational(data, layout, found.get(tag)) for tag in (_X_RESOLUTION, _Y_RESOLUTION))
        unit = found.get(_RESOLUTION_UNIT)
        code = _INCH if unit is None else _number(data, layout, unit)
    except _DamagedError:
        return None
    millimetres = {_INCH: 25.4, _CENTIMETRE: 10.0}.get(code)
    return (x / millimetres, y / millimetres) if x and y and millimetres else None


def read_tiff(file: BinaryIO) -> tuple[bytes | None, bytes | None]:
    """Read metadata of the first page of a TIFF file.

    Returns
    -------
    exif
        The descriptive tags, EXIF and GPS data, as EXIF data behind ``MARK``.
    iptc
        IPTC records. Each is None if there is none, or the directory is damaged.
    """
    file.seek(0)
    try:
        if isinstance(file, BytesIO):
            found = _described(file.getvalue())
        else:
            with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                found = _described(content)
    except _DamagedError:
        return None, None
    _, _, iptc = found.values.pop(_IPTC, (0, 0, None))
    if not found.values and not found.children:
        return None, iptc
    head = struct.pack("<2sHI", b"II", _CLASSIC, 8)
    return MARK + head + _packed(found, _Layout("<"), 8), iptc


def write_tiff(path: Path, exif: bytes | None, iptc: bytes | None, description: str) -> None:
    """Add metadata to the first page of a TIFF file.

    The directory of the page is written again at the end of the file, with additional entries. The
    entries that it has stay as they are, and a description of ``exif`` comes before the given one.
    """
    added = _described(exif.removeprefix(MARK)) if exif else _Directory()
    if description and _DESCRIPTION not in added.values:
        text = description.encode() + b"\0"
        added.values[_DESCRIPTION] = (_ASCII, len(text), text)
    if iptc:
        added.values[_IPTC] = (_BYTES, len(iptc), iptc)
    with path.open("rb+") as file:
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            layout, first = _header(content)
            page = _directory(content, layout, first)
            (following,) = _unpack(layout.offset, content, _link(content, layout, first))
            end = len(content) + len(content) % 2
        page.values = added.values | page.values
        page.children = added.children
        file.seek(end)
        file.write(_packed(page, layout, end, following))
        file.seek(8 if layout.big else 4)
        file.write(struct.pack(layout.offset, end))


def _described(data: _Data) -> _Directory:
    layout, first = _header(data)
    return _directory(data, layout, first, _DESCRIPTIVE)


def forget_resolution(path: Path) -> None:
    """State in all pages of a TIFF file that their resolution is unknown."""
    with path.open("rb+") as file, mmap(file.fileno(), 0) as content:
        layout, at = _header(content)
        while at:
            for entry in _entries(content, layout, at):
                if entry.tag == _RESOLUTION_UNIT:
                    struct.pack_into(layout.order + "H", content, entry.at, _NO_UNIT)
            (at,) = _unpack(layout.offset, content, _link(content, layout, at))


def _header(data: _Data) -> tuple[_Layout, int]:
    """Read the header: byte order and offset size, and the offset of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise _DamagedError
    (version,) = _unpack(order + "H", data, 2)
    layout = _Layout(order, version == _BIG)
    return layout, _unpack(layout.offset, data, 8 if layout.big else 4)[0]


def _unpack(form: str, data: _Data, at: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except (struct.error, OverflowError) as error:
        raise _DamagedError from error


def _entries(data: _Data, layout: _Layout, at: int) -> Iterator[_Entry]:
    """Yield the entries of the directory at an offset; those of unknown types are left out."""
    (count,) = _unpack(layout.count, data, at)
    at += struct.calcsize(layout.count)
    step = struct.calcsize(layout.entry)
    room = struct.calcsize(layout.offset)
    if count * step > len(data):
        raise _DamagedError
    for place in range(at, at + count * step, step):
        tag, kind, number, _ = _unpack(layout.entry, data, place)
        if kind not in _SIZES:
            continue
        entry = _Entry(tag, kind, number, place + step - room)
        if entry.size > room:
            entry = replace(entry, at=_unpack(layout.offset, data, entry.at)[0])
        if entry.at + entry.size > len(data):
            raise _DamagedError
        yield entry


def _all_entries(data: _Data, layout: _Layout, at: int) -> Iterator[_Entry]:
    """Yield the entries of a directory and of its EXIF data."""
    for entry in _entries(data, layout, at):
        yield entry
        if entry.tag == _EXIF:
            yield from _entries(data, layout, _number(data, layout, entry))


def _link(data: _Data, layout: _Layout, at: int) -> int:
    """Offset of the offset of the next directory."""
    (count,) = _unpack(layout.count, data, at)
    place = at + struct.calcsize(layout.count) + int(count) * struct.calcsize(layout.entry)
    _unpack(layout.offset, data, place)
    return place


def _number(data: _Data, layout: _Layout, entry: _Entry) -> int:
    """First value of an entry of whole numbers."""
    form = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(entry.kind)
    if form is None or not entry.count:
        raise _DamagedError
    return int(_unpack(layout.order + form, data, entry.at)[0])


def _rational(data: _Data, layout: _Layout, entry: _Entry | None) -> float:
    """Value of an entry; 0 if it is missing or infinite."""
    if entry is None or entry.kind != _RATIONAL or not entry.count:
        return 0.0
    above, below = _unpack(layout.order + "II", data, entry.at)
    return above / below if below else 0.0


def _set(data: bytearray, layout: _Layout, entry: _Entry, value: int) -> None:
    """Change a whole number in place; one that is too large for its type becomes 0."""
    form = {3: "H", 4: "I"}.get(entry.kind)
    if form is not None and entry.count == 1:
        fits = value < 256 ** _SIZES[entry.kind]
        struct.pack_into(layout.order + form, data, entry.at, value if fits else 0)


def _erase_thumbnail(data: bytearray, layout: _Layout, at: int) -> None:
    """Overwrite the picture that a directory describes."""
    found = {entry.tag: entry for entry in _entries(data, layout, at)}
    if _THUMBNAIL in found and _THUMBNAIL_LENGTH in found:
        start, length = (
            _number(data, layout, found[tag]) for tag in (_THUMBNAIL, _THUMBNAIL_LENGTH)
        )
        if start + length >= len(data):
            del data[start:]
        else:
            data[start : start + length] = bytes(length)


def _directory(
    data: _Data,
    layout: _Layout,
    at: int,
    tags: tuple[int, ...] | None = None,
    below: Mapping[int, tuple[int, ...]] = _CHILDREN,
) -> _Directory:
    """Read a directory with those below it.

    Parameters
    ----------
    tags
        Tags to read, besides those of directories; None: all.
    below
        Tags of the directories to read.
    """
    found = _Directory()
    for entry in _entries(data, layout, at):
        if entry.tag in below:
            place = _number(data, layout, entry)
            inner = dict.fromkeys(below[entry.tag], ())
            found.children[entry.tag] = _directory(data, layout, place, below=inner)
        elif tags is None or (entry.tag in tags and entry.size <= _LONGEST):
            values = np.frombuffer(data[entry.at : entry.at + entry.size], np.uint8)
            if layout.order == ">":
                values = values.reshape(-1, _SWAPPED[entry.kind])[:, ::-1]
            found.values[entry.tag] = (entry.kind, entry.count, values.tobytes())
    return found


def _packed(directory: _Directory, layout: _Layout, at: int, following: int = 0) -> bytes:
    """Lay out a directory, its values and those below it, to be written at an offset.

    Parameters
    ----------
    following
        Offset of the next directory.
    """
    tags = sorted({*directory.values, *directory.children})
    room = struct.calcsize(layout.offset)
    behind = at + struct.calcsize(layout.count) + len(tags) * struct.calcsize(layout.entry) + room
    head, tail = struct.pack(layout.count, len(tags)), b""
    for tag in tags:
        place = behind + len(tail)
        if tag in directory.children:
            kind, count, values = 4, 1, struct.pack("<I", place)
            tail += _packed(directory.children[tag], layout, place)
        else:
            kind, count, values = directory.values[tag]
            if len(values) > room:
                tail += values + b"\0" * (len(values) % 2)
                values = struct.pack(layout.offset, place)
        head += struct.pack(layout.entry, tag, kind, count, values)
    return head + struct.pack(layout.offset, following) + tail
