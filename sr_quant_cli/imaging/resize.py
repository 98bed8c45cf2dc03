"""Resampling to any size, in linear light."""

import pyvips

from sr_quant_cli.imaging.colour import to_eight_bits

_MOST = {"uchar": 255, "ushort": 65535}
"""Highest level of each depth."""

_LEAST = 2**-17
"""Opacity below which colour cannot be seen, nor computed."""


def resample(image: pyvips.Image, height: int, width: int) -> pyvips.Image:
    """Resample an sRGB or grey picture of 8 or 16 bits, with or without alpha, on demand.

    Shrinking uses Lanczos interpolation, enlarging a bicubic one without overshoot. Both run in
    linear light, on colours that alpha has premultiplied.

    Parameters
    ----------
    height, width
        Size of the result in pixels.

    Returns
    -------
    The bands, depth and interpretation of ``image``.
    """
    space, most = image.interpretation, _MOST[image.format]
    grey = space in ("b-w", "grey16")
    bands = 1 if grey else 3
    linear = image.extract_band(0, n=bands).copy(interpretation=space).colourspace("scrgb")
    if not image.hasalpha():
        return _levels(_resized(linear, height, width), image.format, grey)
    alpha = image[bands] / most
    # Marked as multiband, or libvips would treat the last band as transparency.
    joined = (linear * alpha).bandjoin(alpha).copy(interpretation="multiband")
    resized = _resized(joined, height, width)
    alpha = resized[3]
    colour = (alpha > _LEAST).ifthenelse(resized.extract_band(0, n=3) / alpha, 0)
    levels = _levels(colour.copy(interpretation="scrgb"), image.format, grey)
    joined = levels.bandjoin((alpha * most).rint().cast(image.format))
    return joined.copy(interpretation=space)


def _levels(linear: pyvips.Image, kind: str, grey: bool) -> pyvips.Image:
    """Encode linear light; by way of 16 bits, as libvips rounds less well to 8."""
    levels = linear.colourspace("grey16" if grey else "rgb16")
    return levels if kind == "ushort" else to_eight_bits(levels)


def _resized(image: pyvips.Image, height: int, width: int) -> pyvips.Image:
    across, down = image.width / width, image.height / height
    if across > 1:
        image = image.reduceh(across, kernel="lanczos3")
    if down > 1:
        image = image.reducev(down, kernel="lanczos3")
    if image.width < width or image.height < height:
        x, y = width / image.width, height / image.height
        image = image.affine(
            [x, 0, 0, y],
            interpolate=pyvips.Interpolate.new("lbb"),
            # Pixel centres stay aligned.
            odx=(x - 1) / 2,
            ody=(y - 1) / 2,
            oarea=[0, 0, width, height],
            extend="copy",
        )
    return image
