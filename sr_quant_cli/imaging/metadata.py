"""Metadata of picture files, kept for the outputs."""

from dataclasses import dataclass, replace
from typing import Any

import pyvips

_KEPT = ("icc-profile-data", "exif-data", "xmp-data", "iptc-data", "resolution-unit")
"""Entries of libvips that are kept; comments, too."""


@dataclass(frozen=True)
class Metadata:
    """Metadata of a picture, as entries of libvips.

    Attributes
    ----------
    entries
        Types, names and values.
    resolution
        Pixels a millimetre in x and y; None: not stated.
    """

    entries: tuple[tuple[int, str, Any], ...] = ()
    resolution: tuple[float, float] | None = None

    @property
    def icc(self) -> bytes | None:
        """The embedded colour profile."""
        return next((value for _, name, value in self.entries if name == _KEPT[0]), None)

    def without_icc(self) -> "Metadata":
        """Drop the colour profile."""
        return replace(self, entries=tuple(e for e in self.entries if e[1] != _KEPT[0]))

    def apply(self, image: pyvips.Image) -> pyvips.Image:
        """Return the image with this metadata."""
        image = image.copy(**dict(zip(("xres", "yres"), self.resolution or (), strict=False)))
        for kind, name, value in self.entries:
            image.set_type(kind, name, value)
        return image


def metadata_of(image: pyvips.Image) -> Metadata:
    """Read the metadata of an opened picture; its orientation counts as applied."""
    names = image.get_fields()
    entries = tuple(
        (image.get_typeof(name), name, image.get(name))
        for name in names
        if name in _KEPT or "-comment" in name
    )
    stated = (image.xres, image.yres) != (1.0, 1.0)
    return Metadata(entries, (image.xres, image.yres) if stated else None)
