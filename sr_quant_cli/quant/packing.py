"""Dense bit packing of integer codes: 2 to 8 bits per code, without gaps.

Codes are stored as offsets from the lowest code of their grid, in one stream (``bitstream.py``).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sr_quant_cli.quant.bitstream import from_stream, size_of, to_stream
from sr_quant_cli.quant.widths import check_bits


def pack(codes: Tensor, first: int, bits: int) -> Tensor:
    """Pack codes in the order of their elements: int16, any shape -> uint8 ``[bytes]``, on the CPU.

    Parameters
    ----------
    codes
        Integers from ``first`` to ``first + 2^bits - 1``.
    first
        The lowest code of the grid.
    bits
        Bits a code: 2 to 8.

    Raises
    ------
    ValueError
        A code does not fit, or ``bits`` is not between 2 and 8.

    Examples
    --------
    Three codes of three bits, 1, 4 and 7 above the lowest, fill 9 bits of two bytes:

    >>> packed = pack(torch.tensor([-3, 0, 3], dtype=torch.int16), first=-4, bits=3)
    >>> [f"{byte:08b}" for byte in packed.tolist()]
    ['11100001', '00000001']
    """
    check_bits(bits)
    # int16 could overflow, and the offset of a wrong code would pass for a valid one.
    distances = codes.flatten().cpu().numpy().astype(np.int32) - first
    if (distances >> bits).any():
        raise ValueError(
            f"codes {distances.min() + first} to {distances.max() + first}: "
            f"{bits} bits hold {first} to {first + 2**bits - 1}"
        )
    return torch.from_numpy(to_stream(distances.astype(np.uint8), bits))


def unpack(packed: Tensor, shape: Sequence[int], first: int, bits: int) -> Tensor:
    """Undo ``pack``: uint8 ``[bytes]`` -> int16 of the given shape, on the CPU.

    Parameters
    ----------
    packed
        Result of ``pack``.
    shape
        Shape of the codes.
    first
        The lowest code of the grid.
    bits
        Bits a code: 2 to 8.

    Raises
    ------
    ValueError
        ``packed`` has the wrong length, or ``bits`` is not between 2 and 8.

    Examples
    --------
    >>> packed = torch.tensor([0b11100001, 0b00000001], dtype=torch.uint8)
    >>> unpack(packed, (3,), first=-4, bits=3).tolist()
    [-3, 0, 3]
    """
    check_bits(bits)
    count = math.prod(shape)
    size = size_of(count, bits)
    if packed.shape != (size,):
        raise ValueError(
            f"packed codes of shape {list(packed.shape)}: "
            f"{count} codes of {bits} bits are {size} bytes"
        )
    distances = from_stream(packed.cpu().numpy(), count, bits)
    return torch.from_numpy(distances.astype(np.int16) + np.int16(first)).reshape(tuple(shape))
