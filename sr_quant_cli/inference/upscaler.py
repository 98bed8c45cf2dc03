"""One interface for everything that enlarges pictures; bicubic, and graphs on whole pictures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.levels import Floats, Levels, to_floats, to_levels
from sr_quant_cli.imaging.tiling import Region, Span
from sr_quant_cli.inference.estimate import Estimate
from sr_quant_cli.inference.symmetry import SYMMETRIES, Symmetry
from sr_quant_cli.inference.tiles import OnTile, TileResult, ignore
from sr_quant_cli.runtimes.base import PatchRuntime, Runtime
from sr_quant_cli.system.reporting import note

if TYPE_CHECKING:
    from sr_quant_cli.inference.bits import BitMeter

ReadRegion = Callable[[int, int, int, int], Levels]
"""``(top, bottom, left, right)`` in LR pixels -> uint8 or uint16 ``[h, w, 3]``"""

L = TypeVar("L", bound=np.uint8 | np.uint16)
T = TypeVar("T", bound=np.generic)

_TRIAL = 48
"""LR pixels per side of the picture by which the scale of a graph is found"""


class Upscaler(ABC):
    """Enlarges RGB pictures of 8 or 16 bits by an integer factor.

    Pictures of 8 bits give 8 bits. Pictures of 16 bits give 16 bits: the network runs in fp32, and
    its output is rounded once.
    """

    name: str
    scale: int
    meter: "BitMeter | None" = None
    """bit counter; None for bicubic and foreign graphs, whose bits are unknown"""
    ran_by: str | None = None
    """name of the runtime that ran the latest picture; None for bicubic"""

    def __call__(
        self, lr: NDArray[L], on_tile: OnTile = ignore, region: Region | None = None
    ) -> NDArray[L]:
        """Enlarge ``[h, w, 3]``, sRGB as uint8 or uint16, to ``[sh, sw, 3]`` of the same type.

        Parameters
        ----------
        on_tile, region
            As in ``bands``.

        Raises
        ------
        TypeError
            ``lr`` has another type.
        ValueError
            ``lr`` has another shape, or is empty.
        UsageError
            The model does not take such a picture, or the region goes beyond it.
        FailedError
            The output of the model is not a picture, or the memory is too small.
        """
        if not isinstance(lr, np.ndarray) or lr.dtype not in (np.uint8, np.uint16):
            given = lr.dtype if isinstance(lr, np.ndarray) else type(lr).__name__
            raise TypeError(f"a picture is an array of uint8 or uint16, not {given}")
        if lr.ndim != 3 or lr.shape[2] != 3 or not lr.size:
            raise ValueError(f"a picture is of shape [h, w, 3], not {list(lr.shape)}")
        height, width, _ = lr.shape
        area = area_of(region, height, width)
        bands = self.bands(_reader(lr), height, width, on_tile, region)
        first = next(bands)
        whole: NDArray[L] = first  # type: ignore[assignment]
        if len(first) == area.height * self.scale:
            return whole
        whole = np.empty((area.height * self.scale, area.width * self.scale, 3), lr.dtype)
        whole[: len(first)] = first
        done = len(first)
        for band in bands:
            whole[done : done + len(band)] = band
            done += len(band)
        return whole

    def deep(self) -> "Upscaler":
        """Return the upscaler for 16-bit pictures, which another model or runtime may serve.

        ``bands`` passes such pictures on to it.
        """
        return self

    def tile_count(self, height: int, width: int, region: Region | None = None) -> int:
        """Number of tiles that ``bands`` runs for a picture, if the memory suffices."""
        return 1

    def estimate(
        self, height: int, width: int, region: Region | None = None, bits: int = 8
    ) -> Estimate:
        """Estimate the cost of a ``height`` x ``width`` picture of 8 or 16 bits per channel."""
        return Estimate(None, None, self.tile_count(height, width, region))

    @abstractmethod
    def bands(
        self,
        read: ReadRegion,
        height: int,
        width: int,
        on_tile: OnTile = ignore,
        region: Region | None = None,
    ) -> Iterator[Levels]:
        """Enlarge a picture with only some of its tiles in memory.

        Parameters
        ----------
        read
            Reads a rectangle of the picture.
        on_tile
            Called for every finished tile.
        region
            Enlarge only this rectangle; the result is that rectangle of the whole result.

        Yields
        ------
        Bands of rows from the top, ``[h, s * w, 3]``, of the type that ``read`` gives.
        """


class _AtOnce(Upscaler):
    """Base of upscalers that enlarge whole pictures only."""

    @abstractmethod
    def enlarge(self, lr: Levels) -> Levels:
        """``[h, w, 3]`` -> ``[sh, sw, 3]`` of the same type."""

    def bands(
        self,
        read: ReadRegion,
        height: int,
        width: int,
        on_tile: OnTile = ignore,
        region: Region | None = None,
    ) -> Iterator[Levels]:
        """Enlarge the whole picture, and give the region as one band."""
        area, scale = area_of(region, height, width), self.scale
        sr = self.enlarge(read(0, height, 0, width))
        rows = Span(0, height, area.top, area.bottom)
        on_tile(TileResult(rows, Span(0, width, area.left, area.right)))
        yield sr[area.top * scale : area.bottom * scale, area.left * scale : area.right * scale]


class BicubicUpscaler(_AtOnce):
    """Bicubic interpolation as in MATLAB, the first row of every table."""

    name = "bicubic"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def enlarge(self, lr: Levels) -> Levels:
        """``[h, w, 3]`` -> ``[sh, sw, 3]`` of the same type."""
        return enlarge(lr, self.scale)


class WholeUpscaler(_AtOnce):
    """A foreign graph, whose traits are unknown: it runs on whole pictures.

    Its scale is found by running a small picture.

    Parameters
    ----------
    for_deep
        Opens the runtime for pictures of 16 bits; None: this one.
    self_ensemble
        Take the mean over the eight symmetries of a picture.

    Raises
    ------
    UsageError
        The graph does not enlarge pictures.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        for_deep: Callable[[], Runtime] | None = None,
        *,
        self_ensemble: bool = False,
    ) -> None:
        self.name = name + "+" * self_ensemble
        self._runtime, self._for_deep = runtime, for_deep
        self._deep: Runtime | None = None
        self._symmetries = SYMMETRIES if self_ensemble else SYMMETRIES[:1]
        self._depth = DepthNote(self.name)
        self.ran_by = runtime.runtime
        output = runtime(np.zeros((_TRIAL, _TRIAL, 3), np.uint8))
        self.scale = output.shape[1] // _TRIAL
        if output.shape != (_TRIAL * self.scale, _TRIAL * self.scale, 3) or not self.scale:
            shape = "x".join(map(str, output.shape))
            raise UsageError(
                f"{name}: output {shape} of a {_TRIAL}x{_TRIAL} picture is no enlarged one"
            )

    def enlarge(self, lr: Levels) -> Levels:
        """``[h, w, 3]`` -> ``[sh, sw, 3]`` of the same type."""
        try:
            if lr.dtype == np.uint8 and len(self._symmetries) == 1:
                sr: Levels = self._runtime(lr)  # type: ignore[arg-type]
            else:
                sr = self._by_floats(lr)
        except UsageError as error:
            raise UsageError(
                f"{error} (it takes {_TRIAL}x{_TRIAL}: only multiples of a number?)"
            ) from error
        return checked(sr, lr.shape[0], lr.shape[1], self)

    def _by_floats(self, lr: Levels) -> Levels:
        runtime, floats = self._runtime, to_floats(lr)
        if lr.dtype == np.uint16:
            runtime = self._runtime_for_deep()

        def turned(symmetry: Symmetry) -> Floats:
            return symmetry.undo(runtime.floats(symmetry.apply(floats)[None])[0])

        mean = ensemble(self._symmetries, turned)
        if lr.dtype == np.uint16:
            self._depth.look(runtime, mean)
        return to_levels(mean, lr.dtype)

    def _runtime_for_deep(self) -> Runtime:
        if self._deep is None:
            self._deep = self._runtime if self._for_deep is None else self._for_deep()
        return self._deep


class DepthNote:
    """Says once that the results for pictures of 16 bits have less.

    Parameters
    ----------
    name
        Name of the model.
    input_bits
        Bits of the input of its first layer; None: unknown.
    """

    def __init__(self, name: str, input_bits: int | None = None) -> None:
        self._name, self._input_bits, self._done = name, input_bits, False

    def look(self, runtime: Runtime, sr: Floats) -> None:
        """Look at the first result, float32 ``[H, W, 3]``."""
        if self._done or sr.min() == sr.max():
            return
        self._done = True
        if not runtime.on_floats:
            note(f"{self._name} takes and gives 8 bits: the result of 16 bits has only 8")
        elif np.abs(sr * 255 - np.rint(sr * 255)).max() < 1e-3:
            note(f"{self._name} rounds its output to 8 bits: the result of 16 bits has only 8")
        elif self._input_bits is not None and self._input_bits < 16:
            note(
                f"{self._name} quantizes its input to {self._input_bits} bits: it does not see "
                "finer differences of a 16-bit picture"
            )


def area_of(region: Region | None, height: int, width: int) -> Region:
    """Return the region of a ``height`` x ``width`` picture, or all of it.

    Raises
    ------
    UsageError
        It goes beyond the picture.
    """
    if region is None:
        return Region(0, 0, height, width)
    region.check(height, width)
    return region


def ensemble(symmetries: Sequence[Symmetry], enlarge: Callable[[Symmetry], Floats]) -> Floats:
    """Mean of the float results of several symmetries, of which two are in memory."""
    total = enlarge(symmetries[0])
    for symmetry in symmetries[1:]:
        total = total + enlarge(symmetry)
    return total / np.float32(len(symmetries)) if len(symmetries) > 1 else total


def run_batch(
    runtime: PatchRuntime, lr: Levels, look: Callable[[Floats], None] | None = None
) -> Levels:
    """Enlarge a batch ``[N, h, w, 3]`` to ``[N, sh, sw, 3]``; 16 bits through floats, rounded once.

    Parameters
    ----------
    look
        Called with the floats.
    """
    if lr.dtype == np.uint8:
        levels: Levels = runtime.batch(lr)  # type: ignore[arg-type]
        return levels
    floats = runtime.floats(to_floats(lr))
    if look is not None:
        look(floats)
    return to_levels(floats, lr.dtype)


def empty_band(rows: Span, width: int, scale: int, dtype: np.dtype[L]) -> NDArray[L]:
    """Allocate the band of enlarged rows that a row of tiles keeps; the width is in LR pixels."""
    return np.empty(((rows.last - rows.first) * scale, width * scale, 3), dtype)


def checked(sr: NDArray[T], height: int, width: int, upscaler: Upscaler) -> NDArray[T]:
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


def kept(sr: NDArray[T], rows: Span, columns: Span, upscaler: Upscaler) -> NDArray[T]:
    """Return the part of an enlarged tile that is kept.

    Raises
    ------
    UsageError
        The tile does not have the scale that the model claims.
    """
    checked(sr, rows.stop - rows.start, columns.stop - columns.start, upscaler)
    scale = upscaler.scale
    top, left = (rows.first - rows.start) * scale, (columns.first - columns.start) * scale
    height, width = (rows.last - rows.first) * scale, (columns.last - columns.first) * scale
    return sr[top : top + height, left : left + width]


def _reader(lr: Levels) -> ReadRegion:
    return lambda top, bottom, left, right: lr[top:bottom, left:right]
