"""PSNR and SSIM as super-resolution papers report them, on 8-bit pictures with cropped borders.

A score means something only together with its protocol. Papers differ in the luma formula, its
precision, the SSIM window and the border; :data:`PROTOCOLS` lists the supported protocols. They
have in common that SR is rounded to uint8 before it is measured, and that the score of a set is the
mean over its pictures.

References
----------
.. [1] Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error
   visibility to structural similarity", IEEE Transactions on Image Processing 13 (4), 2004.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.errors import unknown

SSIM_WINDOW = 11
"""Side of the Gaussian window of SSIM in pixels [1]_."""

STRIP = 2**21
"""Pixels measured at a time, which bounds the memory that floats of an 8K picture would take."""


@dataclass(frozen=True)
class Luma:
    """A luma formula.

    Attributes
    ----------
    weights
        Weights of red, green and blue in 0..1; the weighted sum is in units of 1/255.
    offset
        Added to the weighted sum.
    dtype
        Type in which the picture and its luma, both in 0..1, are stored.
    """

    weights: tuple[float, float, float]
    offset: float
    dtype: type[np.floating] = np.float64


@dataclass(frozen=True)
class Protocol:
    """A way to measure SR against HR.

    Attributes
    ----------
    name
        Key in :data:`PROTOCOLS`.
    summary
        One line for reports that describes the steps of the measurement.
    psnr_luma, ssim_luma
        Luma that is measured; None: the three colours, with the mean of their SSIM.
    ssim_window
        ``inside``: only windows that lie inside the cropped picture count; ``repeated``: windows
        around all of its pixels, with its edge pixels repeated.
    more_border
        Pixels that are cropped from every side in addition to ``scale``.
    """

    name: str
    summary: str
    psnr_luma: Luma | None
    ssim_luma: Luma | None
    ssim_window: Literal["inside", "repeated"] = "inside"
    more_border: int = 0

    def border(self, scale: int) -> int:
        """Width of the cropped border in HR pixels."""
        return scale + self.more_border


@dataclass(frozen=True)
class Score:
    """Scores of one picture: PSNR in dB (``inf`` for equal pictures) and SSIM, at most 1."""

    psnr: float
    ssim: float
    edge: float
    """PSNR of the border that is cropped for the other two, dB"""


_MATLAB = Luma((65.481, 128.553, 24.966), 16.0)
_BASICSR = Luma(_MATLAB.weights, 16.0, np.float32)
_EDSR = Luma((65.738 * 255 / 256, 129.057 * 255 / 256, 25.064 * 255 / 256), 0.0)
_CADYQ = Luma((65.738, 129.057, 25.064), 16.0)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "matlab",
            "8-bit RGB, border of scale pixels cropped, BT.601 luma in float64, "
            "SSIM by an 11x11 Gaussian window inside the picture",
            _MATLAB,
            _MATLAB,
        ),
        Protocol(
            "basicsr",
            "8-bit RGB, border of scale pixels cropped, BT.601 luma through float32, "
            "SSIM by an 11x11 Gaussian window inside the picture",
            _BASICSR,
            _BASICSR,
        ),
        Protocol(
            "rgb",
            "8-bit RGB, border of scale pixels cropped, PSNR over all colours, "
            "mean SSIM of the colours by an 11x11 Gaussian window inside the picture",
            None,
            None,
        ),
        Protocol(
            "div2k",
            "8-bit RGB, border of scale + 6 pixels cropped, PSNR over all colours as EDSR-PyTorch "
            "scores DIV2K, mean SSIM of the colours by an 11x11 Gaussian window inside the picture",
            None,
            None,
            more_border=6,
        ),
        Protocol(
            "daq",
            "8-bit RGB, border of scale pixels cropped, EDSR-PyTorch's luma (weights / 256, no "
            "offset), SSIM by an 11x11 Gaussian window with edge pixels repeated, as DAQ and AdaBM",
            _EDSR,
            _EDSR,
            "repeated",
        ),
        Protocol(
            "cadyq",
            "8-bit RGB, border of scale pixels cropped, PSNR on EDSR-PyTorch's luma (weights / "
            "256), SSIM on weights / 255 + 16 by an 11x11 Gaussian window inside the picture",
            _EDSR,
            _CADYQ,
        ),
    )
}
"""Protocols by name; ``matlab`` is the default. It and ``basicsr`` agree to the printed digits."""


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


def luma(rgb: NDArray[np.uint8], formula: Luma) -> NDArray[np.float64]:
    """Compute luma in units of 1/255: uint8 ``[H, W, 3]`` to float64 ``[H, W]``, not rounded.

    >>> bt601 = PROTOCOLS["matlab"].psnr_luma
    >>> luma(np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8), bt601)
    array([[235.   ,  16.   ,  81.481]])
    """
    unit = rgb.astype(formula.dtype) / formula.dtype(255)
    weighted = np.dot(unit, formula.weights) + formula.offset
    held = (weighted / 255).astype(formula.dtype) * formula.dtype(255)
    return np.asarray(held, dtype=np.float64)


def planes(rgb: NDArray[np.uint8], formula: Luma | None) -> list[NDArray[np.float64]]:
    """Split a picture into what is measured: its luma, or its three colours.

    uint8 ``[H, W, 3]`` to float64 ``[H, W]`` each, 0..255.
    """
    if formula is not None:
        return [luma(rgb, formula)]
    return [rgb[..., channel].astype(np.float64) for channel in range(3)]


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
        Upscaling factor, on which the cropped border depends.
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
    border = protocol.border(scale)
    least = SSIM_WINDOW + 2 * border
    if min(height, width) < least:
        raise ValueError(f"{width}x{height} is too small at x{scale}: SSIM needs {least}x{least}")
    inside = slice(border, -border)
    inner_sr, inner_hr = sr[inside, inside], hr[inside, inside]
    decibels = _psnr_in_strips(inner_sr, inner_hr, protocol.psnr_luma)
    if protocol.ssim_window == "repeated":
        inner_sr, inner_hr = _repeat_edges(inner_sr), _repeat_edges(inner_hr)
    similarity = _ssim_in_strips(inner_sr, inner_hr, protocol.ssim_luma)
    return Score(decibels, similarity, edge_psnr(sr, hr, border, protocol))


def edge_psnr(
    sr: NDArray[np.uint8], hr: NDArray[np.uint8], width: int, protocol: Protocol
) -> float:
    """Compute the PSNR in dB of the border that a protocol crops, where frames would show.

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
    errors = [
        (a - b).ravel()
        for side in sides
        for a, b in zip(
            planes(sr[side], protocol.psnr_luma), planes(hr[side], protocol.psnr_luma), strict=True
        )
    ]
    return _decibels(float(np.mean(np.concatenate(errors) ** 2)))


def _psnr_in_strips(sr: NDArray[np.uint8], hr: NDArray[np.uint8], formula: Luma | None) -> float:
    """Compute the PSNR in dB, one strip of rows after the other."""
    height, width, _ = hr.shape
    rows, errors = max(STRIP // width, 1), 0.0
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        pairs = zip(planes(sr[strip], formula), planes(hr[strip], formula), strict=True)
        errors += float(np.mean([np.sum((a - b) ** 2) for a, b in pairs]))
    return _decibels(errors / (height * width))


def _ssim_in_strips(sr: NDArray[np.uint8], hr: NDArray[np.uint8], formula: Luma | None) -> float:
    """Compute the mean SSIM of all windows inside, one strip of rows after the other."""
    height, width, _ = hr.shape
    windows: int = height - (SSIM_WINDOW - 1)
    rows, similarity = max(STRIP // width, SSIM_WINDOW), 0.0
    for top in range(0, windows, rows):
        # The rows whose windows begin in this strip, and further rows that the windows reach.
        bottom = min(top + rows, windows)
        strip = slice(top, bottom + SSIM_WINDOW - 1)
        pairs = zip(planes(sr[strip], formula), planes(hr[strip], formula), strict=True)
        similarity += float(np.mean([ssim(a, b) for a, b in pairs])) * (bottom - top)
    return similarity / windows


def _repeat_edges(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pad a picture so that a window around each of its pixels lies inside."""
    reach = SSIM_WINDOW // 2
    return np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "edge")


def _decibels(error: float) -> float:
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")
