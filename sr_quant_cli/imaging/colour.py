"""Conversion of samples to sRGB or grey levels of 8 or 16 bits."""

import io
import math
from collections.abc import Iterator
from typing import Any

import pyvips

from sr_quant_cli.imaging.failures import UnreadableError
from sr_quant_cli.imaging.metadata import field

_MEASURED = {"cmyk": "CMYK", "lab": "Lab", "labs": "Lab", "labq": "Lab", "xyz": "XYZ"}
"""Interpretations whose samples are not display levels, and their names."""

_INTERPRETATIONS = {("uchar", True): "b-w", ("uchar", False): "srgb"}
_INTERPRETATIONS |= {("ushort", True): "grey16", ("ushort", False): "rgb16"}


def to_levels(image: pyvips.Image) -> tuple[pyvips.Image, list[str]]:
    """Convert to levels over the full range of 8 or 16 bits, and list what is lost.

    Profiles of RGB and grey pictures are left to the output. Floats are taken as display levels of
    0..1, as other programs write them, not as linear light.

    Returns
    -------
    1 or 3 bands and maybe alpha, uchar or ushort, interpreted as b-w, srgb, grey16 or rgb16.

    Raises
    ------
    UnreadableError
        Samples are of another type or not finite, or floats with a mean above 1.
    """
    if image.interpretation in _MEASURED:
        return _from_measured(image)
    grey = image.interpretation in ("b-w", "grey16") or image.bands < 3
    losses: list[str] = []
    match image.format:
        case "uchar" | "ushort":
            pass
        case "uint":
            losses = ["32 bits a sample (reduced to 16)"]
            image = image.cast("ushort", shift=True)
        case "float":
            losses = ["float samples (reduced to 16 bits)", *_beyond(image)]
            image = (image * 65535).rint().cast("ushort")
        case kind:
            raise UnreadableError(f"its samples are of an unknown type ({kind})")
    return image.copy(interpretation=_INTERPRETATIONS[image.format, grey]), losses


def to_eight_bits(image: pyvips.Image) -> pyvips.Image:
    """Round 16-bit levels to 8 bits; 8-bit ones stay as they are."""
    if image.format == "uchar":
        return image
    grey = image.interpretation == "grey16"
    levels = (image / 257).rint().cast("uchar")
    return levels.copy(interpretation=_INTERPRETATIONS["uchar", grey])


def to_srgb(colour: pyvips.Image, icc: bytes) -> pyvips.Image:
    """Convert levels of 1 or 3 bands from a colour profile to sRGB, which needs none."""
    if _is_srgb(icc):
        return colour
    space = colour.interpretation
    colour = colour.copy()
    colour.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    made = _by_profile(colour, colour.format == "ushort")
    return (made[1] if colour.bands == 1 else made).copy(interpretation=space)


def profile_space(icc: bytes) -> str | None:
    """Return what a colour profile describes, such as RGB, GRAY or CMYK; None if it is damaged."""
    try:
        return str(_profile(icc).xcolor_space).strip()
    except OSError:
        return None


def _is_srgb(icc: bytes) -> bool:
    return str(_profile(icc).profile_description).startswith(("sRGB IEC61966", "sRGB built-in"))


def _profile(icc: bytes) -> Any:
    from PIL.ImageCms import ImageCmsProfile  # slow to import

    return ImageCmsProfile(io.BytesIO(icc)).profile


def _by_profile(image: pyvips.Image, deep: bool) -> pyvips.Image:
    return image.icc_transform(
        "srgb",
        embedded=True,
        depth=16 if deep else 8,
        intent="relative",
        black_point_compensation=True,
    )


def _from_measured(image: pyvips.Image) -> tuple[pyvips.Image, list[str]]:
    deep = image.format != "uchar"  # Lab of 8 bits is packed into bytes
    kind = "ushort" if deep else "uchar"
    name = _MEASURED[image.interpretation]
    icc = field(image, "icc-profile-data")
    if name == "Lab":
        made = image.colourspace("lab").icc_export(
            output_profile="srgb", pcs="lab", depth=16 if deep else 8, intent="relative"
        )
        how = "Lab (converted to sRGB)"
    elif icc and profile_space(icc) == name:
        made, how = _by_profile(image, deep), f"{name} (converted to sRGB by its profile)"
    else:
        made = image.colourspace("rgb16" if deep else "srgb")
        how = f"{name} (converted to sRGB)"
    return made.cast(kind).copy(interpretation=_INTERPRETATIONS[kind, False]), [how]


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
