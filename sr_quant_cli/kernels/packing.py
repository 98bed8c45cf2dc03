"""Weights of a convolution in the form that a kernel reads, direct or by Winograd's algorithm."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.kernels.library import Isa
from sr_quant_cli.kernels.program import Codes
from sr_quant_cli.records import record

CHANNELS = 16
"""Channels of pictures of codes are padded to a multiple of this."""
LINE = 64
"""Bytes of a line of the cache."""

_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int16)
"""Transform of weights, twice the usual one, so that it is of integers"""
_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
"""Transform of inputs"""
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
"""Transform of sums"""
_WEIGHTS = np.kron(_G, _G).astype(np.int32)
"""Transform of the nine weights of a window to 16"""
_INPUTS = np.kron(_B, _B)
"""Transform of the 16 inputs of a tile to as many codes"""
_OUTPUTS = np.kron(_A, _A)
"""Transform of 16 sums to the four outputs of a tile"""
WINOGRAD_SCALE = 4
"""The sums of Winograd's algorithm are this many times those of the convolution."""


@record
class Packed:
    """Weights for a kernel; see ``srq_conv`` in ``kernels.h``."""

    isa: Isa
    winograd: bool
    inputs: int
    outputs: int
    radius: int
    """pixels around an output that it depends on"""
    weights: NDArray[np.int8]
    start: NDArray[np.int32]
    shifts: NDArray[np.uint8]


def pack(
    weights: NDArray[np.int8], codes: Codes, isas: Sequence[Isa], *, winograd: bool | None = None
) -> Packed:
    """Pack weights ``[outputs, inputs, k, k]`` for an input.

    Parameters
    ----------
    isas
        Kernels to choose from.
    winograd
        None: where it is exact and has fewer products.

    Raises
    ------
    ValueError
        Winograd's algorithm was asked for, and its numbers do not fit 8 bits.
    """
    outputs, inputs, size, _ = weights.shape
    low, high, zero = codes.low, codes.high, codes.zero
    channels = padded(outputs), padded(inputs)
    full = np.zeros((size, size, *channels), np.int16)  # which hold sums of nine weights, too
    full[:, :, :outputs, :inputs] = weights.transpose(2, 3, 0, 1)
    least, most = _winograd_codes(low, high)
    fits = False
    if size == 3 and (most - least).max() <= 255 and winograd is not False:
        rows = np.einsum("ai,ijoc->ajoc", _G, full)
        segments = np.einsum("bj,ajoc->aboc", _G, rows).reshape(16, *channels)
        fits = bool(np.abs(segments).max(initial=0) <= 127)
    if winograd and not fits:
        raise ValueError("transformed codes or weights do not fit 8 bits")
    if fits:
        shifts = -least
        sums = full.sum(3, dtype=np.int32).reshape(9, -1)
        # The sum of the window times the code of zero enters all four outputs at position (1, 1).
        start = -shifts[:, None] * (_WEIGHTS @ sums)
        start[5] -= WINOGRAD_SCALE * zero * sums.sum(0)
        start = _OUTPUTS @ start
        segments[12:] *= -1
        largest = int((most - least).max())
    else:
        segments = full.reshape(size * size, *channels)
        shifts = np.zeros(16, np.int64)
        start = -zero * full.sum((0, 1, 3))
        largest = high
    isa = next(isa for isa in isas if isa.adds(largest, int(np.abs(segments).max(initial=0))))
    return Packed(
        isa,
        fits,
        channels[1],
        channels[0],
        size // 2,
        _packed(segments.astype(np.int8), isa),
        np.ascontiguousarray(start, np.int32),
        (shifts % 256).astype(np.uint8),
    )


def padded(channels: int) -> int:
    """Channels that a picture of codes has in memory."""
    return -(-channels // CHANNELS) * CHANNELS


def _winograd_codes(low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Smallest and largest transformed codes, ``[16]`` each."""
    positive, negative = _INPUTS.clip(min=0).sum(1), _INPUTS.clip(max=0).sum(1)
    return positive * low + negative * high, positive * high + negative * low


def _packed(segments: NDArray[np.int8], isa: Isa) -> NDArray[np.int8]:
    """Order weights ``[segments, outputs, inputs]`` as a kernel reads them."""
    count, outputs, inputs = segments.shape
    block = isa.lanes * isa.vectors
    parts = []
    for first in range(0, outputs, block):
        part = segments[:, first : first + block]
        if isa.sums == 1:
            high = (part.astype(np.int16) + 8) >> 4
            halves = np.stack([high, part - 16 * high]).astype(np.int8)
            shaped = halves.reshape(2, count, -1, isa.lanes, inputs // 16, 4, isa.quad)
            parts.append(shaped.transpose(1, 4, 2, 0, 5, 3, 6).reshape(count, -1))
        else:
            quads = part.view(f"i{isa.quad}")  # one number each, which is moved faster
            shaped = quads.reshape(count, -1, isa.lanes, inputs // isa.quad)
            parts.append(shaped.transpose(0, 3, 1, 2).reshape(count, -1).view(np.int8))
    size = count * sum(part.shape[1] for part in parts)
    packed = aligned(size).view(np.int8).reshape(count, -1)
    return np.concatenate(parts, 1, out=packed)


def aligned(size: int) -> NDArray[np.uint8]:
    """Make room for bytes from the beginning of a line of the cache."""
    memory = np.empty(size + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + size]
