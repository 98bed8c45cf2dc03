"""Levels of 8 or 16 bits, and floats 0..1."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.errors import FailedError

Levels = NDArray[np.uint8 | np.uint16]
"""uint8 ``[h, w, 3]`` or uint16 ``[h, w, 3]``, sRGB over the full range of the type"""

Floats = NDArray[np.float32]
"""float32 ``[..., 3]``, RGB; 0..1, outputs of networks also beyond"""

L = TypeVar("L", bound=np.uint8 | np.uint16)


def to_floats(levels: Levels) -> Floats:
    """Convert uint8 or uint16 to float32 0..1 of the same shape."""
    return levels.astype(np.float32) / np.float32(np.iinfo(levels.dtype).max)


def to_levels(floats: Floats, dtype: np.dtype[L] | type[L]) -> NDArray[L]:
    """Convert float 0..1 to uint8 or uint16 of the same shape, rounded half to even and clipped.

    Raises
    ------
    FailedError
        A value is not finite.

    Examples
    --------
    >>> to_levels(np.float32([-0.1, 0.5, 1.0]), np.uint16).tolist()
    [0, 32768, 65535]
    """
    if not np.isfinite(floats).all():
        raise FailedError("the network's output is not a number, or infinite")
    most = np.iinfo(dtype).max
    scaled = floats.astype(np.float32, copy=False) * np.float32(most)
    return np.clip(np.rint(scaled, out=scaled), 0, most, out=scaled).astype(dtype)
