"""Tiles that a network has run, and who is told of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.imaging.tiling import Span


@dataclass(frozen=True)
class TileResult:
    """A tile that a network has run, and the bits that it chose there, one for each input."""

    rows: Span
    columns: Span
    bits: NDArray[np.float32] | None = None
    """``[L]``; None: they are fixed"""


OnTile = Callable[[TileResult], Any]


def ignore(_ran: TileResult) -> None:
    """Nothing is done with a tile that has run."""
