"""Metadata of pictures: read from all formats, and kept in the outputs as far as they hold it."""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyvips

from sr_quant_cli.imaging import exif
from sr_quant_cli.imaging.formats import WritableFormat
from sr_quant_cli.records import record

_PHOTOSHOP = b"Photoshop 3.0\0"
_RESOURCE = b"8BIM"
_IPTC = 0x0404
"""First bytes of JPEG's segment with IPTC data, of a resource in it, and the resource's number."""

_UNKNOWN = (72 / 25.4, 72 / 25.4)
"""Resolution that stands for an unknown one in EXIF data, where there must be one."""

_LONGEST_SEGMENT = 65000
"""Bytes that fit into one segment of a JPEG file, with some room for what libvips adds."""

_UNIT = "resolution-unit"
"""Entry of libvips for ``in`` or ``cm``, which shows that a file states its resolution."""

_SEGMENTS = ("exif", "xmp", "iptc")
_NAMES = {
    "icc": "colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "comments": "comments",
}
"""Names of the kinds of metadata in messages and in ``WritableFormat.metadata``."""

_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))\d+""")
_XMP_SIZE = re.compile(
    rb"""\s(tiff:Image(?:Width|Length)|exif:Pixel[XY]Dimension)\s*=\s*(?:"[^"]*"|'[^']*')"""
    rb"""|<(tiff:Image(?:Width|Length)|exif:Pixel[XY]Dimension)>[^<]*</\2>"""
)


@record
class Metadata:
    """Metadata of a picture that stands upright.

    Attributes
    ----------
    icc
        Colour profile.
    exif
        EXIF data, beginning with ``exif.MARK``.
    xmp
        XMP packet.
    iptc
        IPTC records.
    comments
        Keywords and texts.
    resolution
        Pixels a millimetre in x and y; None: unknown.
    unit
        Unit in which the resolution is written: ``in`` or ``cm``.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comments: tuple[tuple[str, str], ...] = ()
    resolution: tuple[float, float] | None = None
    unit: str = "in"

    def held_by(self, form: WritableFormat) -> tuple["Metadata", list[str]]:
        """Drop what a format does not hold, and list it; a colour profile is not listed."""
        kept = Metadata(resolution=self.resolution, unit=self.unit)
        losses = []
        for kind, name in _NAMES.items():
            value = getattr(self, kind)
            if not value:
                continue
            if name not in form.metadata:
                losses += [name] if kind != "icc" else []
            elif form.key == "jpg" and kind in _SEGMENTS and len(value) > _LONGEST_SEGMENT:
                losses.append(f"{name} (too long for JPEG)")
            else:
                kept = replace(kept, **{kind: value})
        return kept, losses

    def apply(
        self, image: pyvips.Image, form: WritableFormat, height: int
    ) -> tuple[pyvips.Image, str]:
        """Return the image with the entries that libvips writes, and its option ``keep``.

        Parameters
        ----------
        form
            Format of the output, which holds all of this.
        height
            Rows of the image, or of each of its frames.
        """
        x, y = self.resolution or _UNKNOWN
        image = with_resolution(image, x, y, self.unit)
        image.set_type(pyvips.GValue.gint_type, "orientation", 1)
        fresh = self.exif and exif.refreshed(self.exif, height, image.width)
        iptc = _as_resource(self.iptc) if self.iptc and form.key == "jpg" else None
        keep = set_blobs(image, icc=self.icc, exif=fresh, xmp=self.xmp, iptc=iptc)
        if self.resolution and "EXIF" in form.metadata and "exif" not in keep:
            keep.append("exif")  # made by libvips; some formats hold a resolution only there
        return image, "|".join(keep) or "none"


def metadata_of(
    image: pyvips.Image,
    comments: tuple[tuple[str, str], ...],
    exif_data: bytes | None,
    iptc: bytes | None,
) -> tuple[Metadata, list[str]]:
    """Read the metadata of a picture whose orientation is applied, and list what is damaged.

    Parameters
    ----------
    image
        As libvips opened it.
    comments
        Keywords and texts, which libvips does not read from every format.
    exif_data, iptc
        EXIF data and IPTC records of a TIFF file, which libvips does not read.
    """
    losses = []
    data = field(image, "exif-data") or exif_data
    clean = data and exif.refreshed(exif.MARK + data.removeprefix(exif.MARK), 0, 0)
    if data and not clean:
        losses.append("EXIF (damaged)")
    unit = field(image, _UNIT)
    resolution = (image.xres, image.yres) if unit else None
    if resolution == (1.0, 1.0):  # an assumption of libvips
        resolution = exif.resolution_of(clean) if clean else None
    xmp = field(image, "xmp-data")
    return (
        Metadata(
            icc=field(image, "icc-profile-data"),
            exif=clean or None,
            xmp=xmp and _upright(xmp),
            iptc=iptc or _iptc_of(image),
            comments=comments,
            resolution=resolution,
            unit=unit or "in",
        ),
        losses,
    )


def with_resolution(image: pyvips.Image, x: float, y: float, unit: str = "in") -> pyvips.Image:
    """Return an image whose resolution is stated, in pixels a millimetre, and its usual unit."""
    image = image.copy(xres=x, yres=y)
    image.set_type(pyvips.GValue.gstr_type, _UNIT, unit)
    return image


def set_blobs(image: pyvips.Image, **values: bytes | None) -> list[str]:
    """Set entries of libvips: ``icc``, ``exif``, ``xmp``, ``iptc``; return those that are given."""
    given = {kind: value for kind, value in values.items() if value}
    for kind, value in given.items():
        name = "icc-profile-data" if kind == "icc" else f"{kind}-data"
        image.set_type(pyvips.GValue.blob_type, name, value)
    return list(given)


def field(image: pyvips.Image, name: str) -> Any:
    """Return an entry of a picture's metadata; None if it is missing."""
    return image.get(name) if image.get_typeof(name) else None


def _upright(xmp: bytes) -> bytes:
    """Drop sizes from an XMP packet, and set its orientation to upright."""
    return _XMP_SIZE.sub(b"", _XMP_ORIENTATION.sub(rb"\g<1>1", xmp))


def _iptc_of(image: pyvips.Image) -> bytes | None:
    """IPTC records in Photoshop's resources of a JPEG or TIFF file."""
    data = field(image, "iptc-data") or field(image, "photoshop-data") or b""
    return next((value for number, value in _resources(data) if number == _IPTC), None)


def _resources(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield numbers and values of Photoshop's resources, up to the first damaged one."""
    stream = io.BytesIO(data.removeprefix(_PHOTOSHOP))
    while stream.read(4) == _RESOURCE:
        head = stream.read(3)
        if len(head) < 3:
            return
        number, name = struct.unpack(">HB", head)
        stream.seek(name + (name + 1) % 2, io.SEEK_CUR)
        size = stream.read(4)
        if len(size) < 4:
            return
        (length,) = struct.unpack(">I", size)
        yield number, stream.read(length)
        stream.seek(length % 2, io.SEEK_CUR)


def _as_resource(iptc: bytes) -> bytes:
    padding = b"\0" * (len(iptc) % 2)
    return _PHOTOSHOP + _RESOURCE + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc + padding
