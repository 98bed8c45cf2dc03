"""Transparency, which networks do not handle: they enlarge colour alone."""

import pyvips

_LEVELS = ((2, 1 / 16), (8, 1 / 256))
"""Cell size in pixels and weight of the coarser means in ``spread_colour``."""

_GREY = 2**-16
"""Weight of mid-grey, the colour far away from anything visible."""

_MOST = {"uchar": 255, "ushort": 65535}
"""Highest level of each depth."""


def spread_colour(colour: pyvips.Image, alpha: pyvips.Image) -> pyvips.Image:
    """Replace the colour of fully transparent pixels by the mean of the visible ones around them.

    The stored colour is arbitrary, often black, and a network would draw the edge to it into the
    visible pixels. Means are weighted by alpha and distance, and fade to mid-grey about 20 pixels
    away. libvips computes them on demand.

    Parameters
    ----------
    colour
        8 or 16 bits, 1 or 3 bands.
    alpha
        1 band of the same depth.

    Returns
    -------
    The bands and the depth of ``colour``; equal to it where alpha is not 0.
    """
    most = _MOST[alpha.format]
    weight = alpha / most
    # Marked as multiband, or libvips would treat the last band as transparency.
    visible = (colour * weight).bandjoin(weight).copy(interpretation="multiband")
    total = _blurred(visible)
    for cell, share in _LEVELS:
        means = _blurred(visible.shrink(cell, cell, ceil=True))
        above = _resampled(means, cell, "bilinear").crop(0, 0, colour.width, colour.height)
        total += above * share
    bands = colour.bands
    mean = (total.extract_band(0, n=bands) + (most + 1) // 2 * _GREY) / (total[bands] + _GREY)
    return (alpha == 0).ifthenelse(mean.rint().cast(colour.format), colour)


def enlarge_alpha(alpha: pyvips.Image, scale: int) -> pyvips.Image:
    """Enlarge alpha by bicubic interpolation with the networks' alignment: 1 band, same depth."""
    return _resampled(alpha.cast("float"), scale, "bicubic").rint().cast(alpha.format)


def opaque(height: int, width: int, bits: int = 8) -> pyvips.Image:
    """Return the alpha of an opaque picture: 1 band of 8 or 16 bits, the highest level."""
    return pyvips.Image.black(width, height).cast("ushort" if bits == 16 else "uchar").invert()


def _blurred(image: pyvips.Image) -> pyvips.Image:
    return image.gaussblur(0.6, precision="float")


def _resampled(image: pyvips.Image, factor: int, kernel: str) -> pyvips.Image:
    """Enlarge with pixel centres aligned; libvips' ``resize`` shifts by half an output pixel."""
    offset = (factor - 1) / 2
    return image.affine(
        [factor, 0, 0, factor],
        interpolate=pyvips.Interpolate.new(kernel),
        odx=offset,
        ody=offset,
        oarea=[0, 0, image.width * factor, image.height * factor],
        extend="copy",
    )
