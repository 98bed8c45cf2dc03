"""Weights of a convolution in the form that a kernel reads, direct or by Winograd's algorithm."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.kernels.library import Isa
from sr_quant_cli.kernels.program import Codes
from sr_quant_cli.kernels.winograd import ALGORITHMS, Winograd
from sr_quant_cli.records import record

CHANNELS = 16
"""Channels of pictures of codes are padded to a multiple of this."""
LINE = 64
"""Bytes of a line of the cache."""


@record
class Packed:
    """Weights for a kernel; see ``srq_conv`` in ``kernels.h``."""

    isa: Isa
    tile: int
    """side of Winograd's tiles of outputs; 0: direct"""
    scale: int
    """The sums are this many times those of the convolution."""
    inputs: int
    outputs: int
    radius: int
    """pixels around an output that it depends on"""
    weights: NDArray[np.int8]
    start: NDArray[np.int32]
    shifts: NDArray[np.uint8]

    @property
    def reach(self) -> int:
        """Pixels around a picture that the kernel reads."""
        return max(self.radius, self.tile)


def pack(
    weights: NDArray[np.int8], codes: Codes, isas: Sequence[Isa], *, tile: int | None = None
) -> Packed:
    """Pack weights ``[outputs, inputs, k, k]`` for an input.

    Parameters
    ----------
    isas
        Kernels to choose from.
    tile
        Side of the tiles of outputs of Winograd's algorithm, 3 or 2; 0: direct; None: the largest
        that is exact.

    Raises
    ------
    ValueError
        Winograd's algorithm was asked for, and its numbers do not fit 8 bits.
    """
    outputs, inputs, size, _ = weights.shape
    channels = padded(outputs), padded(inputs)
    full = np.zeros((size, size, *channels), np.int16)  # which hold sums of nine weights, too
    full[:, :, :outputs, :inputs] = weights.transpose(2, 3, 0, 1)
    allowed = [each for each in ALGORITHMS if size == 3 and tile in (None, each.tile)]
    sums = full.sum(3, dtype=np.int64)
    forms = (_transformed(winograd, full, sums, codes) for winograd in allowed)
    form = next((form for form in forms if form is not None), None)
    if form is None:
        if tile:
            raise ValueError("transformed codes or weights do not fit 8 bits")
        form = _direct(full, codes)
    isa = next(isa for isa in isas if isa.adds(form.largest))
    # Sums are those of codes less the code of zero.
    start = form.start - form.scale * codes.zero * sums.sum((0, 1))
    return Packed(
        isa,
        form.tile,
        form.scale,
        channels[1],
        channels[0],
        size // 2,
        _packed(form.segments.astype(np.int8), isa),
        np.ascontiguousarray(start, np.int32),
        form.shifts,
    )


@record
class _Form:
    """Weights as the direct form or Winograd's algorithm multiplies them.

    Attributes
    ----------
    segments
        ``[segments, outputs, inputs]``.
    largest
        Largest product of a code and a weight.
    shifts
        ``[segments]``, added to transformed codes.
    start
        What takes the shifts away from the sums, ``[outputs of a tile, outputs]``.
    """

    tile: int
    scale: int
    segments: NDArray[np.int16]
    largest: int
    shifts: NDArray[np.uint8]
    start: NDArray[np.int64]


def _direct(weights: NDArray[np.int16], codes: Codes) -> _Form:
    segments = weights.reshape(-1, *weights.shape[2:])
    largest = codes.high * int(np.abs(segments).max(initial=0))
    nothing = np.zeros((1, 1), np.int64)
    return _Form(0, 1, segments, largest, np.zeros(len(segments), np.uint8), nothing)


def _transformed(
    winograd: Winograd, weights: NDArray[np.int16], sums: NDArray[np.int64], codes: Codes
) -> _Form | None:
    """Weights for Winograd's algorithm; None: its numbers do not fit 8 bits.

    Parameters
    ----------
    sums
        Sums of the weights over the inputs, ``[3, 3, outputs]``.
    """
    least, most = winograd.codes(codes.low, codes.high)
    span = most - least
    if span.max() > 255:
        return None
    segments = winograd.weights(weights)
    largest = np.abs(segments).max((1, 2))
    if largest.max() > 127:
        return None
    start = winograd.outputs @ (least[:, None] * winograd.weights(sums))
    shifts = (-least % 256).astype(np.uint8)
    product = int((span * largest).max())
    return _Form(winograd.tile, winograd.scale, segments, product, shifts, start)


def padded(channels: int) -> int:
    """Channels that a picture of codes has in memory."""
    return -(-channels // CHANNELS) * CHANNELS


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
