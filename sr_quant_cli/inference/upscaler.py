"""One interface over everything that enlarges a picture: bicubic, or a network on a runtime."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.tiling import Span, aligned, core_size, spans
from sr_quant_cli.inference.tiles import OnTile, TileResult, ignore
from sr_quant_cli.runtimes.base import ModelTraits, Pixels, Runtime
from sr_quant_cli.system.reporting import warn

if TYPE_CHECKING:
    from sr_quant_cli.inference.bits import BitMeter

ReadRegion = Callable[[int, int, int, int], Pixels]
"""``(top, bottom, left, right)`` in LR pixels -> uint8 ``[h, w, 3]``."""

TILE_MEMORY = 768 * 2**20
"""Bytes of activations that one tile may take."""

MAX_TILE = 584
"""LR pixels per side of the largest tile, halo included.

A band of finished rows is in memory, too. Larger tiles overlap less, but are slower: with 64
features integer kernels enlarged 111,000 LR pixels a second in tiles of 584, 62,000 of 712.
"""

_TRIAL = 48
"""LR pixels per side of the picture that tells the scale of a graph."""


class Upscaler(ABC):
    """Enlarges 8-bit RGB pictures by an integer factor."""

    name: str
    scale: int
    meter: "BitMeter | None" = None
    """counts bits of what it ran; None: of what it runs none are known"""
    ran_by: str | None = None
    """what ran the latest picture; None: no network"""

    def __call__(self, lr: Pixels, on_tile: OnTile = ignore) -> Pixels:
        """Enlarge uint8 ``[h, w, 3]``, sRGB 0..255, to uint8 ``[sh, sw, 3]``.

        Raises
        ------
        TypeError
            ``lr`` is of another type.
        ValueError
            It is of another shape, or empty.
        UsageError
            The model does not take it.
        FailedError
            The model's output is no picture.
        """
        if not isinstance(lr, np.ndarray) or lr.dtype != np.uint8:
            given = lr.dtype if isinstance(lr, np.ndarray) else type(lr).__name__
            raise TypeError(f"a picture is an array of uint8, 0..255, not {given}")
        if lr.ndim != 3 or lr.shape[2] != 3 or not lr.size:
            raise ValueError(f"a picture is of shape [h, w, 3], not {list(lr.shape)}")
        height, width, _ = lr.shape
        bands = self.bands(_region_of(lr), height, width, on_tile)
        first = next(bands)
        if len(first) == height * self.scale:
            return first
        whole = np.empty((height * self.scale, width * self.scale, 3), np.uint8)
        whole[: len(first)] = first
        done = len(first)
        for band in bands:
            whole[done : done + len(band)] = band
            done += len(band)
        return whole

    def tile_count(self, height: int, width: int) -> int:
        """Tiles that ``bands`` runs for a picture."""
        return 1

    @abstractmethod
    def bands(
        self, read: ReadRegion, height: int, width: int, on_tile: OnTile = ignore
    ) -> Iterator[Pixels]:
        """Enlarge a picture of which only tiles are in memory.

        Yields
        ------
        Bands of rows from the top, uint8 ``[h, scale * width, 3]``.
        """


class _AtOnce(Upscaler):
    """Enlarges whole pictures only."""

    @abstractmethod
    def enlarge(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""

    def bands(
        self, read: ReadRegion, height: int, width: int, on_tile: OnTile = ignore
    ) -> Iterator[Pixels]:
        """Enlarge the picture as one band."""
        band = self.enlarge(read(0, height, 0, width))
        on_tile(TileResult(Span(0, height, 0, height), Span(0, width, 0, width)))
        yield band


class BicubicUpscaler(_AtOnce):
    """MATLAB's bicubic enlargement, the first row of every table."""

    name = "bicubic"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def enlarge(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        return enlarge(lr, self.scale)


class WholeUpscaler(_AtOnce):
    """A graph of which nothing is known: whole pictures, at the scale that it turns out to have.

    Raises
    ------
    UsageError
        It does not enlarge pictures.
    """

    def __init__(self, runtime: Runtime, name: str) -> None:
        self.name = name
        self._runtime = runtime
        self.ran_by = runtime.runtime
        output = runtime(np.zeros((_TRIAL, _TRIAL, 3), np.uint8))
        self.scale = output.shape[1] // _TRIAL
        if output.shape != (_TRIAL * self.scale, _TRIAL * self.scale, 3) or not self.scale:
            shape = "x".join(map(str, output.shape))
            raise UsageError(
                f"{name}: output {shape} of a {_TRIAL}x{_TRIAL} picture is no enlarged one"
            )

    def enlarge(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        try:
            sr = self._runtime(lr)
        except UsageError as error:
            raise UsageError(
                f"{error} (it takes {_TRIAL}x{_TRIAL}: only multiples of a number?)"
            ) from error
        return checked(sr, lr.shape[0], lr.shape[1], self)


class TiledUpscaler(Upscaler):
    """A network on a runtime, tile by tile, with a result that equals the whole picture's.

    Where a method has dynamic ranges, these are of each tile, and the first picture with tiles
    gives a warning.

    Parameters
    ----------
    tile
        LR pixels that a tile keeps per side, a few more where tiles are to begin at certain pixels;
        None: as many as ``TILE_MEMORY`` allows.
    for_small
        Gives what runs pictures that are too small for the runtime.
    meter
        Counts bits of the network.
    """

    def __init__(
        self,
        runtime: Runtime,
        traits: ModelTraits,
        tile: int | None = None,
        for_small: Callable[[], Runtime] | None = None,
        meter: "BitMeter | None" = None,
    ) -> None:
        self.name, self.scale = traits.name, traits.scale
        self.runtime, self._traits = runtime, traits
        self._tile = tile
        self.meter = meter
        self._for_small = for_small
        self._tiles_matter = traits.dynamic

    def tile_size(self, height: int, width: int) -> int:
        """LR pixels per side that a tile of a ``height`` x ``width`` picture keeps."""
        traits = self._traits
        core = self._tile or core_size(height, width, traits.receptive_radius, pixel_budget(traits))
        return aligned(core, traits.alignment)

    def tile_count(self, height: int, width: int) -> int:
        """Tiles that ``bands`` runs for a picture."""
        core = self.tile_size(height, width)
        return -(-height // core) * -(-width // core)

    def bands(
        self, read: ReadRegion, height: int, width: int, on_tile: OnTile = ignore
    ) -> Iterator[Pixels]:
        """Enlarge a picture of which only tiles are in memory."""
        core, halo = self.tile_size(height, width), self._traits.receptive_radius
        alignment = self._traits.alignment
        runtime = self._runtime_for(min(height, width))
        self.ran_by = runtime.runtime
        if self._tiles_matter and core < max(height, width):
            warn(f"{self.name}: its ranges or bits are those of each tile, not of the picture")
            self._tiles_matter = False  # once is enough
        for rows in spans(height, core, halo, alignment):
            band = empty_band(rows, width, self.scale)
            for columns in spans(width, core, halo, alignment):
                sr = runtime(read(rows.start, rows.stop, columns.start, columns.stop))
                put(sr, band, rows, columns, self)
                bits = runtime.latest_bits()
                on_tile(TileResult(rows, columns, None if bits is None else bits[0]))
            yield band

    def _runtime_for(self, side: int) -> Runtime:
        # Tiles of larger pictures see at least the halo beside what they keep.
        least = self._traits.least
        if side >= least:
            return self.runtime
        if self._for_small is None:
            raise UsageError(f"{self.name} needs pictures of at least {least}x{least} pixels")
        return self._for_small()


def pixel_budget(traits: ModelTraits) -> int:
    """LR pixels that may go through a network at once."""
    return min(TILE_MEMORY // traits.bytes_per_pixel, MAX_TILE**2)


def empty_band(rows: Span, width: int, scale: int) -> Pixels:
    """The band of the rows that tiles keep, of an LR picture of that width."""
    return np.empty(((rows.last - rows.first) * scale, width * scale, 3), np.uint8)


def checked(sr: Pixels, height: int, width: int, upscaler: Upscaler) -> Pixels:
    """Give back what a model made of a ``height`` x ``width`` picture.

    Raises
    ------
    UsageError
        It does not enlarge by the scale that it says.
    """
    scale = upscaler.scale
    if sr.shape != (height * scale, width * scale, 3):
        made = f"{sr.shape[1]}x{sr.shape[0]}"
        raise UsageError(f"{upscaler.name} makes {made} of {width}x{height}, which is not x{scale}")
    return sr


def put(sr: Pixels, band: Pixels, rows: Span, columns: Span, upscaler: Upscaler) -> None:
    """Put what is kept of an enlarged tile in its place in a band.

    Raises
    ------
    UsageError
        The tile is not of the scale that the model says.
    """
    checked(sr, rows.stop - rows.start, columns.stop - columns.start, upscaler)
    scale = upscaler.scale
    top, left = (rows.first - rows.start) * scale, (columns.first - columns.start) * scale
    width, start = (columns.last - columns.first) * scale, columns.first * scale
    band[:, start : start + width] = sr[top : top + len(band), left : left + width]


def _region_of(lr: Pixels) -> ReadRegion:
    return lambda top, bottom, left, right: lr[top:bottom, left:right]
