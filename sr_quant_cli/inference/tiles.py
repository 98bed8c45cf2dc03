"""Results of single tiles, and the callback that receives them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.imaging.tiling import Span
from sr_quant_cli.records import record


@record
class TileResult:
    """A finished tile, and the bits that the network chose there."""

    rows: Span
    columns: Span
    bits: NDArray[np.float32] | None = None
    """``[L]``, one for each quantized input; None: fixed bits"""


OnTile = Callable[[TileResult], Any]


def ignore(_tile: TileResult) -> None:
    """Do nothing with a finished tile."""
