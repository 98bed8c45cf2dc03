"""Winograd's algorithm for 3x3 windows, on integers: see ``kernels.h``."""

from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.records import record

Weight = TypeVar("Weight", np.int16, np.int64)


@record
class Winograd:
    """Matrices of F(2x2,3x3) or F(3x3,3x3).

    Attributes
    ----------
    tile
        Side of a tile of outputs.
    scale
        Its sums are this many times those of the convolution.
    inputs
        Transform of the codes of a tile, ``[segments, segments]``.
    rows, columns
        Transforms of weights, ``[side of the transformed tile, 3]``.
    outputs
        Transform of the sums of a tile to its outputs, ``[tile * tile, segments]``.
    """

    tile: int
    scale: int
    inputs: NDArray[np.int64]
    rows: NDArray[np.int16]
    columns: NDArray[np.int16]
    outputs: NDArray[np.int64]

    def codes(self, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Smallest and largest transformed codes, ``[segments]`` each."""
        positive, negative = self._factors
        return positive * low + negative * high, positive * high + negative * low

    @cached_property
    def _factors(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sums of the positive and of the negative factors of each transformed code."""
        return self.inputs.clip(min=0).sum(1), self.inputs.clip(max=0).sum(1)

    def weights(self, weights: NDArray[Weight]) -> NDArray[Weight]:
        """Transform weights, or sums of them, from ``[3, 3, ...]`` to ``[segments, ...]``."""
        rows = np.einsum("ai,ij...->aj...", self.rows, weights)
        columns: NDArray[Weight] = np.einsum("bj,aj...->ab...", self.columns, rows)
        return columns.reshape(-1, *weights.shape[2:])


_B2 = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
_G2 = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int16)
_A2 = np.array([[1, 1, 1, 0], [0, 1, -1, 1]])

_B3 = np.array(
    [[2, -1, -2, 1, 0], [0, -2, -1, 1, 0], [0, 2, -3, 1, 0], [0, -1, 0, 1, 0], [0, 2, -1, -2, 1]]
)
_G3 = np.array([[3, 0, 0], [-3, -3, -3], [-1, 1, -1], [1, 2, 4], [0, 0, 6]], np.int16)
_H3 = np.array([[3, 0, 0], [-1, -1, -1], [-1, 1, -1], [1, 2, 4], [0, 0, 3]], np.int16)
_A3 = np.array([[1, 1, 1, 1, 0], [0, 1, -1, 2, 0], [0, 1, 1, 4, 1]])
_C3 = np.array([[1, 3, 1, 1, 0], [0, 3, -1, 2, 0], [0, 3, 1, 4, 2]])

ALGORITHMS = (
    Winograd(3, 36, np.kron(_B3, _B3), _G3, _H3, np.kron(_A3, _C3)),
    Winograd(2, 4, np.kron(_B2, _B2), _G2, _G2, np.kron(_A2, _A2)),
)
"""those of the fewest products first"""
