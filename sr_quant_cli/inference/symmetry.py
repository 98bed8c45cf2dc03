"""The eight symmetries of a picture, over which geometric self-ensemble takes the mean.

References
----------
.. [1] B. Lim, S. Son, H. Kim, S. Nah, K. M. Lee, "Enhanced Deep Residual Networks for Single Image
       Super-Resolution", CVPRW 2017: section 3.4, the models with a ``+``.
"""

from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.records import record

T = TypeVar("T", bound=np.generic)


@record
class Symmetry:
    """Transposes a picture, then flips its rows, then its columns."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, picture: NDArray[T]) -> NDArray[T]:
        """Turn ``[h, w, 3]``; the result is a view."""
        return self._flip(picture.swapaxes(0, 1) if self.transposed else picture)

    def undo(self, picture: NDArray[T]) -> NDArray[T]:
        """Turn the result of ``apply`` back."""
        flipped = self._flip(picture)
        return flipped.swapaxes(0, 1) if self.transposed else flipped

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a turned picture."""
        return (width, height) if self.transposed else (height, width)

    def place(self, region: Region, height: int, width: int) -> Region:
        """Return where a rectangle of a ``height`` x ``width`` picture lies once it is turned."""
        return self._mirror(self._transpose(region), *self.size(height, width))

    def origin(self, region: Region, height: int, width: int) -> Region:
        """Return the rectangle of a ``height`` x ``width`` picture that ``place`` moves here."""
        return self._transpose(self._mirror(region, *self.size(height, width)))

    def _flip(self, picture: NDArray[T]) -> NDArray[T]:
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def _transpose(self, region: Region) -> Region:
        if not self.transposed:
            return region
        return Region(region.left, region.top, region.width, region.height)

    def _mirror(self, region: Region, height: int, width: int) -> Region:
        top = height - region.bottom if self.flip_rows else region.top
        left = width - region.right if self.flip_columns else region.left
        return Region(top, left, region.height, region.width)


SYMMETRIES = tuple(Symmetry(*flags) for flags in product((False, True), repeat=3))
"""all eight, the identity first"""
