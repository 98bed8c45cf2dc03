"""PSNR and SSIM under named protocols, so that a figure says how it was made."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray
from skimage.metrics import structural_similarity

from sr_quant_cli.errors import unknown

Floating = NDArray[np.float32] | NDArray[np.float64]

_LUMA = np.array([65.481, 128.553, 24.966])
_WINDOW = 11


@dataclass(frozen=True)
class Protocol:
    """How a score is computed from two 8-bit RGB pictures.

    Both protocols crop ``scale`` pixels from each side, take the luma of ITU-R BT.601
    (``16 + 65.481 R + 128.553 G + 24.966 B``, R, G, B in 0..1), unrounded, PSNR against a peak of
    255, and SSIM with an 11x11 Gaussian window of deviation 1.5 where it fits wholly.
    """

    name: str
    description: str
    luma_dtype: DTypeLike
    """precision that luma passes through"""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("matlab", "luma in float64, as the MATLAB scripts of the papers", np.float64),
        Protocol("basicsr", "luma through float32, as BasicSR", np.float32),
    )
}


@dataclass(frozen=True)
class Score:
    """PSNR in dB (infinite for equal pictures) and SSIM."""

    psnr: float
    ssim: float


def get_protocol(name: str) -> Protocol:
    """Look a protocol up by name.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, list(PROTOCOLS))
    return PROTOCOLS[name]


def luma(rgb: NDArray[np.uint8], protocol: Protocol) -> Floating:
    """Luma 16..235 ``[H, W]`` of uint8 RGB ``[H, W, 3]``, unrounded.

    >>> luma(np.full((1, 1, 3), 255, np.uint8), PROTOCOLS["matlab"]).round(6).tolist()
    [[235.0]]
    """
    scaled = rgb.astype(protocol.luma_dtype) / np.asarray(255, protocol.luma_dtype)
    values: Floating = scaled @ _LUMA.astype(protocol.luma_dtype)
    return values + np.asarray(16, protocol.luma_dtype)


def psnr(a: Floating, b: Floating) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 255; infinite for equal arrays."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a: Floating, b: Floating) -> float:
    """Structural similarity for a range of 255: Gaussian window 11, deviation 1.5, valid area.

    Raises
    ------
    ValueError
        A side is shorter than the window.
    """
    if min(a.shape) < _WINDOW:
        raise ValueError(f"SSIM needs {_WINDOW}x{_WINDOW} pixels, got {a.shape[1]}x{a.shape[0]}")
    # scikit-image averages over the area where the window fits wholly.
    return float(
        structural_similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def score(
    sr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int, protocol: Protocol
) -> Score:
    """Score a picture against its original.

    Parameters
    ----------
    sr, hr
        uint8 RGB ``[H, W, 3]``, same size.
    scale
        Pixels cropped from each side.

    Raises
    ------
    ValueError
        The sizes differ, or nothing for the SSIM window is left after the crop.
    """
    if sr.shape != hr.shape:
        raise ValueError(
            f"is {sr.shape[1]}x{sr.shape[0]}, its original {hr.shape[1]}x{hr.shape[0]}"
        )
    inner = (slice(scale, -scale), slice(scale, -scale))
    a, b = luma(sr[inner], protocol), luma(hr[inner], protocol)
    return Score(psnr(a, b), ssim(a, b))
