"""Resampling to any size, in linear light."""

import pyvips


def resample(image: pyvips.Image, height: int, width: int) -> pyvips.Image:
    """Resample an sRGB or grey picture of 8 or 16 bits, with or without alpha, on demand.

    Lanczos interpolation in linear light, with premultiplied alpha.

    Parameters
    ----------
    height, width
        Size of the result in pixels.

    Returns
    -------
    Bands, bits and interpretation of ``image``.
    """
    space, kind = image.interpretation, image.format
    linear = image.colourspace("scrgb")
    if image.hasalpha():
        linear = linear.premultiply()
    linear = linear.resize(width / image.width, vscale=height / image.height, kernel="lanczos3")
    if image.hasalpha():
        linear = linear.unpremultiply()
    return linear.colourspace(space).cast(kind)
