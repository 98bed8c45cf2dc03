"""PSNR and SSIM as super-resolution papers report them: on luma, borders cropped, 8-bit pictures.

A score means something only together with its protocol. Papers differ in the luma formula, its
precision and the SSIM window; :data:`PROTOCOLS` lists the supported protocols. They have in common
that SR is rounded to uint8 before it is measured, that ``scale`` pixels are cropped from every
side, and that the score of a set is the mean over its pictures.

References
----------
.. [1] Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error
   visibility to structural similarity", IEEE Transactions on Image Processing 13 (4), 2004.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.errors import unknown

SSIM_WINDOW = 11
"""Side of the Gaussian window of SSIM in pixels [1]_."""

STRIP = 2**21
"""Pixels measured at a time, which bounds the memory that floats of an 8K picture would take."""


@dataclass(frozen=True)
class Protocol:
    """A way to measure SR against HR.

    Attributes
    ----------
    name
        Key in :data:`PROTOCOLS`.
    summary
        One line for reports that describes the steps of the measurement.
    luma_weights
        Weights of red, green and blue in 0..1; the weighted sum is in units of 1/255.
    luma_offset
        Added to the weighted sum.
    luma_dtype
        Type in which the picture and its luma, both in 0..1, are stored.
    """

    name: str
    summary: str
    luma_weights: tuple[float, float, float]
    luma_offset: float
    luma_dtype: type[np.floating]


@dataclass(frozen=True)
class Score:
    """Scores of one picture: PSNR in dB (``inf`` for equal pictures) and SSIM, at most 1."""

    psnr: float
    ssim: float
    edge: float
    """PSNR of the border that is cropped for the other two, dB"""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "matlab",
            "8-bit RGB, border of scale pixels cropped, BT.601 luma in float64, "
            "SSIM by an 11x11 Gaussian window inside the picture",
            (65.481, 128.553, 24.966),
            16.0,
            np.float64,
        ),
        Protocol(
            "basicsr",
            "8-bit RGB, border of scale pixels cropped, BT.601 luma through float32, "
            "SSIM by an 11x11 Gaussian window inside the picture",
            (65.481, 128.553, 24.966),
            16.0,
            np.float32,
        ),
    )
}
"""Protocols by name. Their scores agree to the printed digits; ``matlab`` is the default."""


def get_protocol(name: str) -> Protocol:
    """Look up a protocol by name.

    Raises
    ------
    UsageError
        No protocol has that name.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, sorted(PROTOCOLS))
    return PROTOCOLS[name]


def luma(rgb: NDArray[np.uint8], protocol: Protocol) -> NDArray[np.float64]:
    """Compute luma, 16..235: uint8 ``[H, W, 3]`` to float64 ``[H, W]``, not rounded.

    >>> luma(np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8), PROTOCOLS["matlab"])
    array([[235.   ,  16.   ,  81.481]])
    """
    unit = rgb.astype(protocol.luma_dtype) / protocol.luma_dtype(255)
    weighted = np.dot(unit, protocol.luma_weights) + protocol.luma_offset
    held = (weighted / 255).astype(protocol.luma_dtype) * protocol.luma_dtype(255)
    return np.asarray(held, dtype=np.float64)


def psnr(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Compute the peak signal-to-noise ratio in dB of float64 ``[H, W]``, 0..255, peak 255.

    >>> round(psnr(np.full((4, 4), 100.0), np.full((4, 4), 110.0)), 2)
    28.13
    """
    return _decibels(float(np.mean((a - b) ** 2)))


def rgb_psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Compute the PSNR in dB over all samples of two pictures, uint8 ``[H, W, 3]``.

    It compares two results for one picture, and is inf if they are equal; against HR, the protocols
    measure luma.

    >>> black = np.zeros((4, 4, 3), np.uint8)
    >>> round(rgb_psnr(black, black + np.uint8(255)), 2), rgb_psnr(black, black)
    (0.0, inf)
    """
    return psnr(a.astype(np.float64), b.astype(np.float64))


def ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Compute the structural similarity [1]_ of float64 ``[H, W]``, 0..255.

    Gaussian window of 11x11, sigma 1.5, K1 = 0.01, K2 = 0.03, L = 255, averaged over all positions
    at which the window lies inside the picture.

    Raises
    ------
    ValueError
        A side is shorter than the window.
    """
    from skimage.metrics import structural_similarity  # slow to import

    similarity = structural_similarity(
        a,
        b,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(similarity)


def score(sr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int, protocol: Protocol) -> Score:
    """Measure one picture in strips of rows.

    Parameters
    ----------
    sr, hr
        uint8 ``[H, W, 3]``, RGB, of one shape.
    scale
        Upscaling factor; as many pixels are cropped from every side.
    protocol
        Protocol to measure by.

    Raises
    ------
    ValueError
        The arrays are not uint8 RGB pictures of one size, or are too small for the SSIM window
        after cropping.
    """
    for name, image in (("SR", sr), ("HR", hr)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{name} must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
    height, width, _ = hr.shape
    if sr.shape != hr.shape:
        raise ValueError(f"SR is {sr.shape[1]}x{sr.shape[0]}, HR {width}x{height}: sizes differ")
    least = SSIM_WINDOW + 2 * scale
    if min(height, width) < least:
        raise ValueError(f"{width}x{height} is too small at x{scale}: SSIM needs {least}x{least}")
    inside = slice(scale, -scale)
    psnr, ssim = _in_strips(sr[inside, inside], hr[inside, inside], protocol)
    return Score(psnr, ssim, edge_psnr(sr, hr, scale, protocol))


def edge_psnr(
    sr: NDArray[np.uint8], hr: NDArray[np.uint8], width: int, protocol: Protocol
) -> float:
    """Compute the PSNR in dB of the border that the protocols crop, where frames would show.

    Parameters
    ----------
    sr, hr
        uint8 ``[H, W, 3]``, RGB, of one shape.
    width
        Width of the border in pixels.
    """
    inside = slice(width, -width)
    sides = (
        np.s_[:width],
        np.s_[-width:],
        np.s_[inside, :width],
        np.s_[inside, -width:],
    )
    errors = [luma(sr[side], protocol) - luma(hr[side], protocol) for side in sides]
    return _decibels(float(np.mean(np.concatenate([e.ravel() for e in errors]) ** 2)))


def _in_strips(
    sr: NDArray[np.uint8], hr: NDArray[np.uint8], protocol: Protocol
) -> tuple[float, float]:
    """Compute PSNR in dB and SSIM, one strip of rows after the other."""
    height, width, _ = hr.shape
    windows = height - (SSIM_WINDOW - 1)
    rows = max(STRIP // width, SSIM_WINDOW)
    errors = similarity = 0.0
    for top in range(0, windows, rows):
        # The rows whose windows begin in this strip, and further rows that the windows reach.
        bottom = min(top + rows, windows)
        own = height if bottom == windows else bottom
        a, b = (luma(image[top : bottom + SSIM_WINDOW - 1], protocol) for image in (sr, hr))
        errors += float(np.sum((a[: own - top] - b[: own - top]) ** 2))
        similarity += ssim(a, b) * (bottom - top)
    return _decibels(errors / (height * width)), similarity / windows


def _decibels(error: float) -> float:
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")
