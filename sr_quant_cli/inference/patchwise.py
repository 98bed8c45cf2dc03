"""Patch-wise inference, by which CADyQ and its successors are measured.

Every patch is a picture of its own. Unlike a tile it sees nothing of its surroundings: its borders
are padded, and a network whose bits follow the picture chooses them for each patch. Each of two
neighbouring patches loses half of their overlap. Patches are rounded to the levels of the picture
before they are joined.

References
----------
.. [1] C. Hong, S. Baik, H. Kim, S. Nah, K. M. Lee, "CADyQ: Content-Aware Dynamic Quantization for
       Image Super-Resolution", ECCV 2022.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from sr_quant_cli.imaging.levels import Levels
from sr_quant_cli.imaging.tiling import Patches, Region, Span
from sr_quant_cli.inference.bits import BitMeter
from sr_quant_cli.inference.tiled import pixel_budget
from sr_quant_cli.inference.tiles import OnTile, TileResult, ignore
from sr_quant_cli.inference.upscaler import (
    ReadRegion,
    Upscaler,
    area_of,
    empty_band,
    kept,
    run_batch,
)
from sr_quant_cli.runtimes.base import ModelTraits, PatchRuntime


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
    for_deep
        Runtime for pictures of 16 bits; None: the same.
    """

    def __init__(
        self,
        runtime: PatchRuntime,
        traits: ModelTraits,
        meter: BitMeter,
        patches: Patches,
        batch: int | None = None,
        for_deep: PatchRuntime | None = None,
    ) -> None:
        self.name, self.scale = traits.name, traits.scale
        self.runtime, self.patches, self.meter = runtime, patches, meter
        self.ran_by, self._for_deep = runtime.runtime, for_deep or runtime
        usual = patches.patch**2
        self._batch = batch or max(1, pixel_budget(traits) // usual)
        self._pixels = self._batch * usual
        if runtime.batch_matters:
            self._batch = self._pixels = 1

    def tile_count(self, height: int, width: int, region: Region | None = None) -> int:
        """Number of patches that ``bands`` runs for a picture."""
        rows, columns = self._grid(area_of(region, height, width), height, width)
        return len(rows) * len(columns)

    def bands(
        self,
        read: ReadRegion,
        height: int,
        width: int,
        on_tile: OnTile = ignore,
        region: Region | None = None,
    ) -> Iterator[Levels]:
        """Enlarge a picture with only some of its rows of patches in memory."""
        rows, columns = self._grid(area_of(region, height, width), height, width)
        together = max(1, self._batch // len(columns))
        for first in range(0, len(rows), together):
            yield from self._join(rows[first : first + together], columns, read, on_tile)

    def _grid(self, area: Region, height: int, width: int) -> tuple[list[Span], list[Span]]:
        """Rows and columns of the patches of the whole picture that show in an area."""
        return (
            _within(self.patches.spans(height), area.top, area.bottom),
            _within(self.patches.spans(width), area.left, area.right),
        )

    def _join(
        self, rows: Sequence[Span], columns: Sequence[Span], read: ReadRegion, on_tile: OnTile
    ) -> list[Levels]:
        """Enlarge some rows of patches, and join each row to a band."""
        bands: dict[Span, Levels] = {}
        left, right = columns[0].first, columns[-1].last
        by_size: defaultdict[tuple[int, int], list[tuple[Span, Span]]] = defaultdict(list)
        for row in rows:
            for column in columns:
                by_size[row.stop - row.start, column.stop - column.start].append((row, column))
        for (height, width), places in by_size.items():
            count = max(1, self._pixels // (height * width))
            for begin in range(0, len(places), count):
                batch = places[begin : begin + count]
                lr = np.stack([read(r.start, r.stop, c.start, c.stop) for r, c in batch])
                runtime = self.runtime if lr.dtype == np.uint8 else self._for_deep
                sr = run_batch(runtime, lr)
                self.ran_by, bits = runtime.runtime, runtime.latest_bits()
                for index, (row, column) in enumerate(batch):
                    if row not in bands:
                        bands[row] = empty_band(row, right - left, self.scale, sr.dtype)
                    part = kept(sr[index], row, column, self)
                    start = (column.first - left) * self.scale
                    bands[row][:, start : start + part.shape[1]] = part
                    on_tile(TileResult(row, column, None if bits is None else bits[index]))
        return [bands[row] for row in rows]


def _within(spans: Sequence[Span], begin: int, end: int) -> list[Span]:
    """Return the spans that keep pixels of ``[begin, end)``, and keep only these."""
    cut = (replace(s, first=max(s.first, begin), last=min(s.last, end)) for s in spans)
    return [s for s in cut if s.first < s.last]
