"""One interface for everything that enlarges pictures: bicubic, and networks on runtimes."""

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
"""``(top, bottom, left, right)`` in LR pixels -> uint8 ``[h, w, 3]``"""

TILE_MEMORY = 768 * 2**20
"""largest size of the activations of a tile, in bytes"""

MAX_TILE = 584
"""LR pixels per side of the largest tile, halo included

Larger tiles overlap less, but are slower: with 64 features integer kernels enlarged 111,000 LR
pixels a second in tiles of 584, and 62,000 in tiles of 712. They also need a larger band of
finished rows in memory.
"""

_TRIAL = 48
"""LR pixels per side of the picture by which the scale of a graph is found"""


class Upscaler(ABC):
    """Enlarges 8-bit RGB pictures by an integer factor."""

    name: str
    scale: int
    meter: "BitMeter | None" = None
    """bit counter; None for bicubic and foreign graphs, whose bits are unknown"""
    ran_by: str | None = None
    """name of the runtime that ran the latest picture; None for bicubic"""

    def __call__(self, lr: Pixels, on_tile: OnTile = ignore) -> Pixels:
        """Enlarge uint8 ``[h, w, 3]``, sRGB 0..255, to uint8 ``[sh, sw, 3]``.

        Raises
        ------
        TypeError
            ``lr`` has another type.
        ValueError
            ``lr`` has another shape, or is empty.
        UsageError
            The model does not take such a picture.
        FailedError
            The output of the model is not a picture.
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
        """Number of tiles that ``bands`` runs for a picture."""
        return 1

    @abstractmethod
    def bands(
        self, read: ReadRegion, height: int, width: int, on_tile: OnTile = ignore
    ) -> Iterator[Pixels]:
        """Enlarge a picture with only some of its tiles in memory.

        Parameters
        ----------
        read
            Reads a rectangle of the picture.
        on_tile
            Called for every finished tile.

        Yields
        ------
        Bands of rows from the top, uint8 ``[h, s * w, 3]``.
        """


class _AtOnce(Upscaler):
    """Base of upscalers that enlarge whole pictures only."""

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
    """Bicubic interpolation as in MATLAB, the first row of every table."""

    name = "bicubic"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def enlarge(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        return enlarge(lr, self.scale)


class WholeUpscaler(_AtOnce):
    """A foreign graph, whose traits are unknown: it runs on whole pictures.

    Its scale is found by running a small picture.

    Raises
    ------
    UsageError
        The graph does not enlarge pictures.
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
    """A network that enlarges tile by tile, with the same result as on the whole picture.

    Dynamic ranges and bits follow the tile instead of the picture, which is warned of once.

    Parameters
    ----------
    tile
        LR pixels that a tile keeps per side, rounded up to the alignment of the network; None: as
        many as ``TILE_MEMORY`` allows.
    for_small
        Opens the runtime for pictures that are too small for this one; None: they are refused.
    meter
        Counts the bits of the network.
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
        """Number of tiles that ``bands`` runs for a picture."""
        core = self.tile_size(height, width)
        return -(-height // core) * -(-width // core)

    def bands(
        self, read: ReadRegion, height: int, width: int, on_tile: OnTile = ignore
    ) -> Iterator[Pixels]:
        """Enlarge a picture with only one band of tiles in memory."""
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
    """Largest number of LR pixels that go through a network at once."""
    return min(TILE_MEMORY // traits.bytes_per_pixel, MAX_TILE**2)


def empty_band(rows: Span, width: int, scale: int) -> Pixels:
    """Allocate the band of enlarged rows that a row of tiles keeps; the width is in LR pixels."""
    return np.empty(((rows.last - rows.first) * scale, width * scale, 3), np.uint8)


def checked(sr: Pixels, height: int, width: int, upscaler: Upscaler) -> Pixels:
    """Return the output of a model for a ``height`` x ``width`` picture, if its size is right.

    Raises
    ------
    UsageError
        The model does not enlarge by the scale that it claims.
    """
    scale = upscaler.scale
    if sr.shape != (height * scale, width * scale, 3):
        made = f"{sr.shape[1]}x{sr.shape[0]}"
        raise UsageError(f"{upscaler.name} makes {made} of {width}x{height}, which is not x{scale}")
    return sr


def put(sr: Pixels, band: Pixels, rows: Span, columns: Span, upscaler: Upscaler) -> None:
    """Copy the kept part of an enlarged tile to its place in a band.

    Raises
    ------
    UsageError
        The tile does not have the scale that the model claims.
    """
    checked(sr, rows.stop - rows.start, columns.stop - columns.start, upscaler)
    scale = upscaler.scale
    top, left = (rows.first - rows.start) * scale, (columns.first - columns.start) * scale
    width, start = (columns.last - columns.first) * scale, columns.first * scale
    band[:, start : start + width] = sr[top : top + len(band), left : left + width]


def _region_of(lr: Pixels) -> ReadRegion:
    return lambda top, bottom, left, right: lr[top:bottom, left:right]
