"""A dense stream of small numbers: 1 to 8 bits each, without gaps; needs NumPy alone.

The lowest bit of a number comes first. The stream fills each byte from its lowest bit upwards, and
zeros pad the last byte.
"""

import numpy as np
from numpy.typing import NDArray


def size_of(count: int, bits: int) -> int:
    """Bytes that ``count`` numbers of ``bits`` bits take."""
    return -(-count * bits // 8)


def to_stream(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Write numbers below ``2^bits``, uint8 ``[n]``, to a stream, uint8 ``[bytes]``.

    >>> [f"{byte:08b}" for byte in to_stream(np.array([1, 4, 7], np.uint8), bits=3)]
    ['11100001', '00000001']
    """
    stream = np.unpackbits(numbers[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(stream, bitorder="little")


def from_stream(stream: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint8]:
    """Undo ``to_stream``: read ``count`` numbers.

    >>> from_stream(np.array([0b11100001, 0b00000001], np.uint8), count=3, bits=3).tolist()
    [1, 4, 7]
    """
    if bits == 8:
        return stream[:count]
    # Eight numbers fill as many bytes as each has bits, and are shifted out of these as an integer.
    groups = np.zeros((-(-count // 8), 8), np.uint8)
    padded = np.zeros((len(groups), bits), np.uint8)
    padded.reshape(-1)[: size_of(count, bits)] = stream[: size_of(count, bits)]
    groups[:, :bits] = padded
    whole = groups.view("<u8")[:, 0]
    numbers = np.empty(groups.shape, np.uint8)
    for index in range(8):
        numbers[:, index] = whole >> np.uint64(bits * index)  # the lowest byte of it
    return (numbers & np.uint8(2**bits - 1)).ravel()[:count]
