"""Bicubic resizing, identical to MATLAB's ``imresize`` on uint8 pictures.

The LR pictures of the benchmarks and of DIV2K were made with MATLAB. The official files of Set5
and Set14 at x2, x3 and x4 are reproduced bit for bit. Other libraries differ in the kernel, border
or antialiasing, which changes the scores of networks measured on their LR pictures.

References
----------
.. [1] R. G. Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions
   on Acoustics, Speech, and Signal Processing 29 (6), 1981: the kernel, equation 15.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

D = TypeVar("D", bound=np.uint8 | np.uint16)


def resize(image: NDArray[D], height: int, width: int) -> NDArray[D]:
    """Resize to ``height`` x ``width``: rows first, rounded to the type, then columns, rounded.

    Parameters
    ----------
    image
        uint8 or uint16 ``[H, W]`` or ``[H, W, C]``, over the full range of the type.
    height, width
        Size of the result in pixels. MATLAB starts with the axis that shrinks more; here rows
        always come first, which makes no difference when both axes are scaled equally.

    Returns
    -------
    NDArray
        Of the same type, ``[height, width]`` or ``[height, width, C]``.

    Raises
    ------
    ValueError
        Neither uint8 nor uint16, not two- or three-dimensional, or an empty input or output.

    Examples
    --------
    >>> resize(np.array([[0, 0, 255, 255]], dtype=np.uint8), 1, 2)
    array([[ 14, 241]], dtype=uint8)
    >>> resize(np.array([[0, 255]], dtype=np.uint8), 1, 4)
    array([[  0,  52, 203, 255]], dtype=uint8)
    """
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3):
        given = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"need uint8 or uint16 [H, W] or [H, W, C], got {given}")
    if min(*image.shape, height, width) < 1:
        raise ValueError(f"cannot resize {list(image.shape)} to {height}x{width}: empty")
    tall = _resize_rows(image, height)
    return np.ascontiguousarray(_resize_rows(tall.swapaxes(0, 1), width).swapaxes(0, 1))


def downscale(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Downscale an HR picture to LR.

    The picture is first cropped at the bottom and right to a multiple of ``scale``.

    Parameters
    ----------
    image
        HR, uint8 ``[H, W]`` or ``[H, W, C]``, at least ``scale`` pixels on each side.
    scale
        Whole factor, 1 or more.

    Returns
    -------
    NDArray[np.uint8]
        LR, ``[H // scale, W // scale]`` or ``[H // scale, W // scale, C]``.

    Raises
    ------
    ValueError
        As :func:`resize`, or a side is shorter than ``scale``.
    """
    height, width = image.shape[0] // scale, image.shape[1] // scale
    return resize(image[: height * scale, : width * scale], height, width)


def enlarge(image: NDArray[D], scale: int) -> NDArray[D]:
    """Enlarge ``[h, w]`` or ``[h, w, C]``, uint8 or uint16, to ``[h * scale, w * scale(, C)]``.

    Raises
    ------
    ValueError
        As :func:`resize`.
    """
    return resize(image, image.shape[0] * scale, image.shape[1] * scale)


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate Keys' cubic kernel, a = -1/2, at distances of ``x`` pixels [1]_.

    >>> cubic(np.array([0.0, 0.5, 1.0, -1.5, 2.0])).tolist()
    [1.0, 0.5625, 0.0, -0.0625, 0.0]
    """
    d = np.abs(x)
    near = (1.5 * d - 2.5) * d**2 + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d <= 1, near, np.where(d <= 2, far, 0.0))


def taps(size: int, resized: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Compute the source pixels and weights of every resized pixel along one axis.

    Parameters
    ----------
    size, resized
        Number of pixels along the axis before and after.

    Returns
    -------
    index
        ``[resized, P]``, 0..size-1. Pixels beyond the border are mirrored, with the edge pixel
        repeated. ``P`` is 4 when enlarging and 4 * size / resized, rounded up, when shrinking,
        where the kernel is widened by that factor (antialiasing).
    weights
        ``[resized, P]``; every row sums to 1.

    Examples
    --------
    >>> index, weights = taps(2, 4)
    >>> index[1].tolist(), weights[1].round(4).tolist()
    ([0, 0, 1, 1], [-0.0703, 0.8672, 0.2266, -0.0234])
    """
    factor = resized / size
    shrink = min(factor, 1.0)
    support = 4 / shrink
    centre = (np.arange(resized) + 0.5) / factor - 0.5
    first = np.floor(centre - support / 2).astype(np.intp) + 1
    index = first[:, None] + np.arange(int(np.ceil(support)))
    weights = cubic((centre[:, None] - index) * shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = index % (2 * size)
    return np.minimum(mirrored, 2 * size - 1 - mirrored), weights


def _resize_rows(image: NDArray[D], height: int) -> NDArray[D]:
    """Resize axis 0 of ``[H, ...]`` to ``height``."""
    index, weights = taps(image.shape[0], height)
    # float32 is exact at x2 and x4, whose weights are multiples of 2^-12; at x3 (multiples of
    # 1/81) no rounding tie can occur. 16 bits need more.
    precision = np.float32 if image.dtype == np.uint8 else np.float64
    light = weights.astype(precision)
    rows = image.reshape(image.shape[0], -1)
    resized = np.empty((height, rows.shape[1]), dtype=image.dtype)
    most = np.iinfo(image.dtype).max
    for row in range(height):
        # einsum, not matmul: the threads of a BLAS library stall each other on a busy machine.
        values = np.einsum("p,pn->n", light[row], rows[index[row]].astype(precision))
        values += 0.5  # truncated below, so that halves round up as in MATLAB, not to even
        resized[row] = values.clip(0, most)
    return resized.reshape(height, *image.shape[1:])
