"""Networks that enlarge tile by tile, with the same result as on the whole picture."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sr_quant_cli.errors import OutOfMemoryError, UsageError
from sr_quant_cli.imaging.levels import Floats, Levels, to_floats, to_levels
from sr_quant_cli.imaging.tiling import Region, Span, aligned, core_size, spans, tile_of
from sr_quant_cli.inference.estimate import Estimate
from sr_quant_cli.inference.symmetry import SYMMETRIES, Symmetry
from sr_quant_cli.inference.tiles import OnTile, TileResult, ignore
from sr_quant_cli.inference.upscaler import (
    DepthNote,
    ReadRegion,
    Upscaler,
    area_of,
    checked,
    empty_band,
    ensemble,
    kept,
    run_batch,
)
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.base import ModelTraits, PatchRuntime, Pixels, Runtime
from sr_quant_cli.system.reporting import note, warn

if TYPE_CHECKING:
    from sr_quant_cli.inference.bits import BitMeter

TILE_MEMORY = 768 * 2**20
"""largest size of the activations of a tile, in bytes"""

MAX_TILE = 584
"""LR pixels per side of the largest tile, halo included

Larger tiles overlap less, but are slower: with 64 features integer kernels enlarged 111,000 LR
pixels a second in tiles of 584, and 62,000 in tiles of 712. They also need a larger band of
finished rows in memory.
"""

LEAST_TILE = 32
"""LR pixels per side that a tile keeps at least when memory runs out"""

LONG = 2**20
"""LR pixels from which it is worth measuring how long they take"""

MAX_BATCH = 16
"""largest number of tiles that run at once on a device with memory of its own"""

_LACK = (OutOfMemoryError, MemoryError)


@record
class _Picture:
    """A picture that is being enlarged, and what runs it."""

    read: ReadRegion
    height: int
    width: int
    on_tile: OnTile
    runtime: Runtime

    def tile(self, rows: Span, columns: Span) -> Levels:
        """Pixels that a tile sees."""
        return self.read(rows.start, rows.stop, columns.start, columns.stop)


class TiledUpscaler(Upscaler):
    """A network that enlarges tile by tile, with the same result as on the whole picture.

    Dynamic ranges and bits follow the tile instead of the picture, which is warned of once. If
    memory runs out, smaller tiles are used from there on.

    Parameters
    ----------
    tile
        LR pixels that a tile keeps per side, rounded up to the alignment of the network; None: as
        many as ``TILE_MEMORY`` allows.
    for_small
        Opens the runtime for pictures that are too small for this one; None: they are refused.
    for_deep
        Opens the upscaler for pictures of 16 bits; None: this one.
    meter
        Counts the bits of the network.
    self_ensemble
        Take the mean over the eight symmetries of a picture.
    batch
        Number of tiles of one size that run at once, if the runtime takes batches; None: one, or as
        many as the memory of the device allows.
    input_bits
        Bits of the input of the first layer; None: unknown.
    pixel_seconds
        Seconds for an LR pixel of a tile; None: unknown.
    measure
        Measures them, once estimates of ``LONG`` LR pixels were asked for.
    """

    def __init__(
        self,
        runtime: Runtime,
        traits: ModelTraits,
        tile: int | None = None,
        for_small: Callable[[], Runtime] | None = None,
        meter: "BitMeter | None" = None,
        *,
        for_deep: Callable[[], Upscaler] | None = None,
        self_ensemble: bool = False,
        batch: int | None = None,
        input_bits: int | None = None,
        pixel_seconds: float | None = None,
        measure: Callable[[], float] | None = None,
    ) -> None:
        self.name, self.scale = traits.name + "+" * self_ensemble, traits.scale
        self.runtime, self._traits = runtime, traits
        self._tile = tile
        self.meter = meter
        self._for_small, self._for_deep = for_small, for_deep
        self._deep: Upscaler | None = None
        self._symmetries: Sequence[Symmetry] = SYMMETRIES if self_ensemble else SYMMETRIES[:1]
        self._batch, self._most = batch, MAX_BATCH
        self._tiles_matter = traits.dynamic or traits.whole
        self._limit: int | None = None
        self._told = False
        self._depth = DepthNote(self.name, input_bits)
        self._pixel_seconds, self._measure = pixel_seconds, measure
        self._estimated = 0

    def deep(self) -> Upscaler:
        """Return the upscaler for 16-bit pictures."""
        if self._for_deep is None:
            return self
        if self._deep is None:
            self._deep = self._for_deep()
        return self._deep

    def tile_size(self, height: int, width: int) -> int:
        """LR pixels per side that a tile of a ``height`` x ``width`` picture keeps."""
        traits = self._traits
        core = self._tile or core_size(height, width, traits.receptive_radius, pixel_budget(traits))
        return aligned(min(core, self._limit or core), traits.alignment)

    def tile_count(self, height: int, width: int, region: Region | None = None) -> int:
        """Number of tiles that ``bands`` runs for a picture, if the memory suffices."""
        rows, columns = self._grid(height, width, area_of(region, height, width))
        return len(rows) * len(columns)

    def estimate(
        self, height: int, width: int, region: Region | None = None, bits: int = 8
    ) -> Estimate:
        """Estimate the cost of a ``height`` x ``width`` picture of 8 or 16 bits per channel."""
        if bits == 16 and self.deep() is not self:
            return self.deep().estimate(height, width, region, bits)
        area = area_of(region, height, width)
        rows, columns = self._grid(height, width, area)
        tall, wide = ([s.stop - s.start for s in axis] for axis in (rows, columns))
        tile = max(tall) * max(wide)
        at_once = min(self._batch_of(self.runtime, tile), len(columns))
        band = max(s.last - s.first for s in rows) * area.width * self.scale**2 * 3 * bits // 8
        seconds = self._seconds(sum(tall) * sum(wide) * len(self._symmetries))
        memory = tile * at_once * self._traits.bytes_per_pixel + band
        return Estimate(memory, seconds, len(rows) * len(columns))

    def _seconds(self, pixels: int) -> float | None:
        """Estimate the time for LR pixels; none if they are too few to measure it."""
        self._estimated += pixels
        if self._pixel_seconds is None and self._measure is not None:
            if self._estimated < LONG:
                return 0.0
            self._pixel_seconds = self._measure()
        return None if self._pixel_seconds is None else self._pixel_seconds * pixels

    def bands(
        self,
        read: ReadRegion,
        height: int,
        width: int,
        on_tile: OnTile = ignore,
        region: Region | None = None,
    ) -> Iterator[Levels]:
        """Enlarge a picture with only one band of tiles in memory."""
        area = area_of(region, height, width)
        if self._for_deep is not None:
            corner = read(area.top, area.top + 1, area.left, area.left + 1)
            if corner.dtype == np.uint16:
                deep = self.deep()
                for band in deep.bands(read, height, width, on_tile, region):
                    self.ran_by = deep.ran_by
                    yield band
                return
        runtime = self._runtime_for(min(height, width))
        self.ran_by = runtime.runtime
        picture = _Picture(read, height, width, on_tile, runtime)
        in_parts = area != area_of(None, height, width) or self.tile_count(height, width) > 1
        if self._tiles_matter and in_parts:
            seen = "its attention sees" if self._traits.whole else "its ranges or bits are those of"
            warn(f"{self.name}: {seen} each tile, not the picture")
            self._tiles_matter = False  # once is enough
        top = area.top
        while top < area.bottom:
            rest = Region(top, area.left, area.bottom - top, area.width)
            # Cut anew for each band: the last one may have run out of memory.
            rows, columns = self._grid(height, width, area, rest)
            yield self._band(picture, rows[0], columns, area)
            top = rows[0].last

    def _grid(
        self, height: int, width: int, area: Region, rest: Region | None = None
    ) -> tuple[list[Span], list[Span]]:
        """Rows and columns of the tiles of an area, or of a rest of it."""
        halo, alignment = self._traits.receptive_radius, self._traits.alignment
        seen = min(height, area.height + 2 * halo), min(width, area.width + 2 * halo)
        core, rest = self.tile_size(*seen), rest or area
        return (
            list(spans(height, core, halo, alignment, rest.top, rest.bottom)),
            list(spans(width, core, halo, alignment, rest.left, rest.right)),
        )

    def _band(self, picture: _Picture, rows: Span, columns: Sequence[Span], area: Region) -> Levels:
        band: Levels | None = None
        for place, part in self._parts(picture, rows, columns):
            if band is None:
                band = empty_band(rows, area.width, self.scale, part.dtype)
            start = (place.first - area.left) * self.scale
            band[:, start : start + part.shape[1]] = part
        assert band is not None
        return band

    def _parts(
        self, picture: _Picture, rows: Span, columns: Sequence[Span]
    ) -> Iterator[tuple[Span, Levels]]:
        """Enlarge a row of tiles, those of one size in batches where that is faster."""
        by_size: defaultdict[int, list[Span]] = defaultdict(list)
        for place in columns:
            by_size[place.stop - place.start].append(place)
        for size, places in by_size.items():
            while places:
                count = self._batch_of(picture.runtime, size * (rows.stop - rows.start))
                group, places = places[:count], places[count:]
                yield from zip(group, self._group(picture, rows, group), strict=True)

    def _group(self, picture: _Picture, rows: Span, group: Sequence[Span]) -> list[Levels]:
        """Enlarge tiles of one size; one by one if memory runs out."""
        if len(group) > 1:
            try:
                return self._run_batch(picture, rows, group)
            except _LACK:
                self._most = 1
            self._tell()
        return [self._part(picture, rows, place) for place in group]

    def _part(self, picture: _Picture, rows: Span, columns: Span) -> Levels:
        """Enlarge a tile; as several smaller ones if memory runs out."""
        halo, alignment = self._traits.receptive_radius, self._traits.alignment
        size = max(rows.last - rows.first, columns.last - columns.first)
        core = self._limit or size
        if size <= core:
            try:
                return self._run(picture, rows, columns)
            except _LACK:
                core = aligned(max(size // 2, LEAST_TILE), alignment)
                if core >= size:
                    raise
            self._tell()
            self._limit = core
        return np.concatenate(
            [
                np.concatenate(
                    [
                        self._part(picture, tall, wide)
                        for wide in spans(
                            picture.width, core, halo, alignment, columns.first, columns.last
                        )
                    ],
                    axis=1,
                )
                for tall in spans(picture.height, core, halo, alignment, rows.first, rows.last)
            ]
        )

    def _tell(self) -> None:
        if not self._told:
            note(f"{self.name}: memory ran out; smaller tiles from here on")
            self._told = True

    def _run(self, picture: _Picture, rows: Span, columns: Span) -> Levels:
        """Enlarge a tile, and return the part that is kept."""
        runtime = picture.runtime
        lr = picture.tile(rows, columns)
        if lr.dtype == np.uint8 and len(self._symmetries) == 1:
            part = self._inside(runtime, lr, rows, columns)  # type: ignore[arg-type]
        else:
            turned = partial(self._turned, picture, lr, rows, columns)
            mean = ensemble(self._symmetries, turned)
            if lr.dtype == np.uint16:
                self._depth.look(runtime, mean)
            part = to_levels(mean, lr.dtype)
        bits = runtime.latest_bits()
        picture.on_tile(TileResult(rows, columns, None if bits is None else bits[0]))
        return part

    def _inside(self, runtime: Runtime, lr: Pixels, rows: Span, columns: Span) -> Levels:
        """Enlarge the pixels of a tile, ``lr``, and return the part that is kept."""
        inside = [slice(s.first - s.start, s.last - s.start) for s in (rows, columns)]
        part = runtime.part(lr, *inside)
        if part is None:
            return kept(runtime(lr), rows, columns, self)
        return checked(part, rows.last - rows.first, columns.last - columns.first, self)

    def _turned(
        self, picture: _Picture, lr: Levels, rows: Span, columns: Span, symmetry: Symmetry
    ) -> Floats:
        """Enlarge a tile as a part of the turned picture, and turn the result back.

        The alignment of tiles counts from the corner of the picture that the network sees, so the
        turned tile may see other pixels than ``lr``, those of the tile as it lies.
        """
        size = picture.height, picture.width
        height, width = symmetry.size(*size)
        halo, alignment = self._traits.receptive_radius, self._traits.alignment
        keep = symmetry.place(_kept_by(rows, columns), *size)
        tall = tile_of(keep.top, keep.bottom, height, halo, alignment)
        wide = tile_of(keep.left, keep.right, width, halo, alignment)
        seen = symmetry.origin(_seen_by(tall, wide), *size)
        if seen != _seen_by(rows, columns):
            lr = picture.read(seen.top, seen.bottom, seen.left, seen.right)
        sr = picture.runtime.floats(symmetry.apply(to_floats(lr))[None])[0]
        return symmetry.undo(kept(sr, tall, wide, self))

    def _run_batch(self, picture: _Picture, rows: Span, group: Sequence[Span]) -> list[Levels]:
        """Enlarge tiles of one size at once, and return the parts that are kept."""
        runtime = picture.runtime
        assert isinstance(runtime, PatchRuntime)
        lr = np.stack([picture.tile(rows, place) for place in group])
        sr = run_batch(runtime, lr, partial(self._depth.look, picture.runtime))
        bits = runtime.latest_bits()
        for index, place in enumerate(group):
            picture.on_tile(TileResult(rows, place, None if bits is None else bits[index]))
        return [kept(tile, rows, place, self) for tile, place in zip(sr, group, strict=True)]

    def _batch_of(self, runtime: Runtime, pixels: int) -> int:
        """Number of tiles of ``pixels`` LR pixels that run at once."""
        if not isinstance(runtime, PatchRuntime) or runtime.batch_matters:
            return 1
        if len(self._symmetries) > 1 or self._most == 1:
            return 1
        if self._batch is not None:
            return self._batch
        free = runtime.free_memory()
        if free is None:
            return 1
        return max(1, min(free // 2 // (pixels * self._traits.bytes_per_pixel), self._most))

    def _runtime_for(self, side: int) -> Runtime:
        # Tiles of larger pictures see at least the halo beside what they keep.
        least = self._traits.least
        if side >= least:
            return self.runtime
        if self._for_small is None:
            raise UsageError(f"{self.name} needs pictures of at least {least}x{least} pixels")
        return self._for_small()


def _kept_by(rows: Span, columns: Span) -> Region:
    height, width = rows.last - rows.first, columns.last - columns.first
    return Region(rows.first, columns.first, height, width)


def _seen_by(rows: Span, columns: Span) -> Region:
    height, width = rows.stop - rows.start, columns.stop - columns.start
    return Region(rows.start, columns.start, height, width)


def pixel_budget(traits: ModelTraits) -> int:
    """Largest number of LR pixels that go through a network at once."""
    return min(TILE_MEMORY // traits.bytes_per_pixel, MAX_TILE**2)
