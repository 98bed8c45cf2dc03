"""Patch-wise inference, by which CADyQ and its successors are measured.

Every patch is a picture of its own. Unlike a tile it sees nothing of its surroundings: its borders
are padded, and a network whose bits follow the picture chooses them for each patch. Each of two
neighbouring patches loses half of their overlap. Patches are rounded to 8 bits before they are
joined.

References
----------
.. [1] C. Hong, S. Baik, H. Kim, S. Nah, K. M. Lee, "CADyQ: Content-Aware Dynamic Quantization for
       Image Super-Resolution", ECCV 2022.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from sr_quant_cli.imaging.tiling import Patches, Span
from sr_quant_cli.inference.bits import BitMeter
from sr_quant_cli.inference.tiles import OnTile, TileResult, ignore
from sr_quant_cli.inference.upscaler import ReadRegion, Upscaler, empty_band, pixel_budget, put
from sr_quant_cli.runtimes.base import ModelTraits, PatchRuntime, Pixels


class PatchwiseUpscaler(Upscaler):
    """A network that enlarges patch by patch; patches of one size go through it in batches.

    The result for a patch does not depend on its batch, except for the order of summation. One
    batch and its rows of patches are in memory, at least one row.

    Parameters
    ----------
    meter
        Counts the bits of the network.
    batch
        Number of patches of the usual size that run at once; fewer larger ones do. None: by memory.
    """

    def __init__(
        self,
        runtime: PatchRuntime,
        traits: ModelTraits,
        meter: BitMeter,
        patches: Patches,
        batch: int | None = None,
    ) -> None:
        self.name, self.scale = traits.name, traits.scale
        self.runtime, self.patches, self.meter = runtime, patches, meter
        self.ran_by = runtime.runtime
        usual = patches.patch**2
        self._batch = batch or max(1, pixel_budget(traits) // usual)
        self._pixels = self._batch * usual
        if runtime.batch_matters:
            self._batch = self._pixels = 1

    def tile_count(self, height: int, width: int) -> int:
        """Number of patches of a picture."""
        return len(self.patches.spans(height)) * len(self.patches.spans(width))

    def bands(
        self, read: ReadRegion, height: int, width: int, on_tile: OnTile = ignore
    ) -> Iterator[Pixels]:
        """Enlarge a picture with only some of its rows of patches in memory."""
        rows, columns = self.patches.spans(height), self.patches.spans(width)
        together = max(1, self._batch // len(columns))
        for first in range(0, len(rows), together):
            yield from self._join(rows[first : first + together], columns, read, on_tile)

    def _join(
        self, rows: Sequence[Span], columns: Sequence[Span], read: ReadRegion, on_tile: OnTile
    ) -> list[Pixels]:
        """Enlarge some rows of patches, and join each row to a band."""
        bands = {row: empty_band(row, columns[-1].last, self.scale) for row in rows}
        by_size: defaultdict[tuple[int, int], list[tuple[Span, Span]]] = defaultdict(list)
        for row in rows:
            for column in columns:
                by_size[row.stop - row.start, column.stop - column.start].append((row, column))
        for (height, width), places in by_size.items():
            count = max(1, self._pixels // (height * width))
            for begin in range(0, len(places), count):
                batch = places[begin : begin + count]
                lr = np.stack([read(r.start, r.stop, c.start, c.stop) for r, c in batch])
                sr = self.runtime.batch(lr)
                bits = self.runtime.latest_bits()
                for index, (row, column) in enumerate(batch):
                    put(sr[index], bands[row], row, column, self)
                    on_tile(TileResult(row, column, None if bits is None else bits[index]))
        return list(bands.values())
