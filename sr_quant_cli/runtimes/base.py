"""Interface of all runtimes, and the traits of a network that tiling depends on."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.errors import (
    FailedError,
    OutOfMemoryError,
    SrqError,
    UsageError,
    first_line,
    out_of_memory,
)
from sr_quant_cli.imaging.levels import Floats, to_floats, to_levels
from sr_quant_cli.records import record
from sr_quant_cli.system.choices import Precision, PrecisionChoice

Pixels = NDArray[np.uint8]
"""uint8 ``[h, w, 3]``, sRGB"""
Shape = Sequence[int | None]
"""sizes of an input; None: any"""


@record
class Kernels:
    """Counts of executed convolutions and matrix products, by their arithmetic."""

    integer: int
    floating: int
    float_names: tuple[str, ...] = ()
    """the runtime's names of the float ones"""


@record
class ModelTraits:
    """Properties of a network that callers need for tiling and for messages."""

    name: str
    scale: int
    receptive_radius: int
    """LR pixels on each side that an output pixel depends on"""
    bytes_per_pixel: int
    """memory of a forward pass, per LR pixel"""
    least: int = 1
    """smallest picture that the network takes, in LR pixels per side"""
    dynamic: bool = False
    """ranges or bits depend on the picture, and therefore on the tile"""
    alignment: int = 1
    """tiles must start at a multiple of this many LR pixels"""
    whole: bool = False
    """output pixels depend on the whole picture, and therefore on the tile"""

    @classmethod
    def of(cls, values: Any) -> Self:
        """Traits read from a file, with every value checked.

        Raises
        ------
        ValueError
            A value is missing, unknown or out of range.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{values!r}: must be a table")
        try:
            traits = cls(**values)
        except TypeError as error:
            raise ValueError(f"a value is missing or unknown: {first_line(error)}") from error
        for key, (least, most) in _BOUNDS.items():
            value = getattr(traits, key)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{key} = {value!r}: must be an integer from {least} to {most}")
        for key in ("dynamic", "whole"):
            if type(value := getattr(traits, key)) is not bool:
                raise ValueError(f"{key} = {value!r}: must be true or false")
        if not isinstance(traits.name, str) or not traits.name.isprintable():
            raise ValueError(f"name = {traits.name!r}: must be printable text")
        return traits


_BOUNDS = {
    "scale": (2, 16),
    "receptive_radius": (0, 4096),
    "bytes_per_pixel": (1, 2**30),
    "least": (1, 4096),
    "alignment": (1, 4096),
}
"""smallest and largest values of the integer traits"""


class Runtime(ABC):
    """A network that is ready to run on whole pictures."""

    runtime: str
    """registered name"""
    precision: Precision
    """arithmetic of everything that does not run on integers"""
    on_floats: bool = True
    """False: it takes and gives 8-bit pixels only, so that ``floats`` rounds to them"""

    @abstractmethod
    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``.

        Raises
        ------
        OutOfMemoryError
            The picture is too large for the memory.
        """

    def part(self, lr: Pixels, rows: slice, columns: slice) -> Pixels | None:
        """Enlarge ``lr[rows, columns]`` as a part of ``lr``; None: whole pictures are as fast.

        Raises
        ------
        OutOfMemoryError
            The picture is too large for the memory.
        """
        return None

    @abstractmethod
    def floats(self, lr: Floats) -> Floats:
        """Float32 ``[N, h, w, 3]``, 0..1 -> float32 ``[N, sh, sw, 3]``, not clipped.

        Raises
        ------
        OutOfMemoryError
            The pictures are too large for the memory.
        """

    @abstractmethod
    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits chosen by the latest run, ``[N, L]``, a column for each input; None: fixed bits."""

    @abstractmethod
    def kernels(self) -> Kernels:
        """Run a small picture and count the executed kernels."""

    def peak(self) -> float | None:
        """Multiply-adds of 8 bits a second that the processor can do; None: not measured."""
        return None


class PatchRuntime(ABC):
    """A network that is ready to run on batches of equally large patches."""

    runtime: str
    """registered name"""
    batch_matters: bool = False
    """the result for a patch may depend on the others in its batch"""

    @abstractmethod
    def batch(self, lr: Pixels) -> Pixels:
        """Uint8 ``[N, h, w, 3]`` -> uint8 ``[N, sh, sw, 3]``."""

    @abstractmethod
    def floats(self, lr: Floats) -> Floats:
        """Float32 ``[N, h, w, 3]``, 0..1 -> float32 ``[N, sh, sw, 3]``, not clipped."""

    def free_memory(self) -> int | None:
        """Free memory of its device, in bytes; None: batches gain nothing on that device."""
        return None

    @abstractmethod
    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits chosen by the latest run, ``[N, L]``, a column for each input; None: fixed bits."""


class GraphRuntime(Runtime):
    """A graph from a file: uint8 RGB ``[1, H, W, 3]``, or float RGB ``[1, 3, H, W]``.

    The first output is the picture. An output named ``bits`` holds the bits that the graph chose.

    Attributes
    ----------
    white
        Value of white in a float graph: 1, or 255.
    """

    white: int = 1

    @classmethod
    def open(
        cls, path: Path, threads: int | None, precision: PrecisionChoice, cache: Path | None
    ) -> Self:
        """Load a graph file; a runtime with a choice of precision or a cache overrides this.

        Parameters
        ----------
        threads
            None: one for each core.
        precision
            One that the runtime was registered with, or auto.
        cache
            Folder in which the runtime may keep what it compiled; None: nowhere.
        """
        return cls(path, threads)

    @classmethod
    def write(cls, graph: bytes, path: Path, metadata: str | None) -> None:
        """Convert an ONNX graph to a file of the runtime's own format.

        Parameters
        ----------
        metadata
            Text of the entry ``srq``; None: there is none.

        Raises
        ------
        FailedError
            The file cannot be written.
        """
        raise NotImplementedError

    @classmethod
    def metadata(cls, path: Path) -> str | None:
        """Text of the entry ``srq`` of a file of the runtime's own format; None: it has none.

        Raises
        ------
        UsageError
            The file is not readable.
        """
        raise NotImplementedError

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        if isinstance(path, Path) and not path.is_file():
            raise UsageError(f"no such model file: {path}")
        self.path = Path(path)
        self._threads = threads
        self._bits: NDArray[np.float32] | None = None

    @abstractmethod
    def run(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the graph on an input of its form, and return all its outputs.

        Raises
        ------
        UsageError, FailedError
            From ``refused``.
        """

    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        return self.to_pixels(self.run(self.to_batch(lr)))

    def floats(self, lr: Floats) -> Floats:
        """Float32 ``[N, h, w, 3]``, 0..1 -> float32 ``[N, sh, sw, 3]``, one by one."""
        if not self.on_floats:
            return np.stack([to_floats(self(to_levels(picture, np.uint8))) for picture in lr])
        return np.stack([self._picture(self.run(self.to_batch(picture))) for picture in lr])

    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits chosen by the latest run, ``[1, L]``, a column for each input; None: fixed bits."""
        return self._bits

    def check(self, inputs: Sequence[tuple[str, Shape]], outputs: list[str]) -> None:
        """Refuse a graph that does not take one picture of any size.

        Parameters
        ----------
        inputs
            Type (numpy's name) and shape of each input.
        outputs
            Names of the outputs.

        Raises
        ------
        UsageError
            With the input that is needed, and the inputs of the graph.
        """
        if len(inputs) != 1 or not any(_fits(inputs[0], taken) for taken in _TAKEN):
            there = ", ".join(
                f"{kind} [{', '.join('?' if n is None else str(n) for n in shape)}]"
                for kind, shape in inputs
            )
            raise UsageError(
                f"{self.path}: needs one input, float32 [N, 3, H, W] (RGB 0..1) or uint8 "
                f"[1, H, W, 3] of any height and width; it has {there or 'none'}"
            )
        self.on_floats = inputs[0][0] == "float32"
        self._outputs = outputs

    def unreadable(self, error: Exception) -> SrqError:
        """Build the error for a file that cannot be loaded."""
        if out_of_memory(error):
            return OutOfMemoryError(f"out of memory: {self.path} cannot be loaded")
        return UsageError(f"{self.path} is no readable network: {first_line(error)}")

    def refused(self, batch: NDArray[Any], error: Exception) -> SrqError:
        """Build the error for an input that the graph does not take."""
        size = self.size(batch)
        if out_of_memory(error):
            return OutOfMemoryError(f"out of memory: {self.path}, with {size} pixels at once")
        return UsageError(f"{self.path} does not take a {size} RGB picture: {first_line(error)}")

    def size(self, batch: NDArray[Any]) -> str:
        """Width and height of an input of the graph, in words."""
        height, width = batch.shape[2:] if self.on_floats else batch.shape[1:3]
        return f"{width}x{height}"

    def to_batch(self, lr: Pixels | Floats) -> NDArray[Any]:
        """Convert ``[h, w, 3]``, uint8 or float32 0..1, to the input of the graph."""
        if not self.on_floats:
            return np.ascontiguousarray(lr[None])
        planes = np.ascontiguousarray(lr.transpose(2, 0, 1)[None], dtype=np.float32)
        factor = np.float32(self.white)
        return planes / (255 / factor) if lr.dtype == np.uint8 else planes * factor

    def to_pixels(self, outputs: Sequence[NDArray[Any]]) -> Pixels:
        """Convert outputs to uint8 ``[h, w, 3]``, rounded half to even and clipped; keep the bits.

        Raises
        ------
        UsageError
            The first output is not a picture.
        FailedError
            Some of its values are not finite.
        """
        output = self._first(outputs)
        if not self.on_floats:
            return np.array(output[0], np.uint8)
        return np.ascontiguousarray(to_levels(self._picture(outputs), np.uint8))

    def _picture(self, outputs: Sequence[NDArray[Any]]) -> Floats:
        """Convert outputs to float32 ``[h, w, 3]``, 0..1; keep the bits."""
        output = self._first(outputs)
        if not np.isfinite(output).all():
            raise FailedError(f"{self.path}: its output is not a number, or infinite")
        picture: Floats = output[0].astype(np.float32, copy=False).transpose(1, 2, 0)
        return picture if self.white == 1 else picture / np.float32(self.white)

    def _first(self, outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the output that is the picture, ``[1, ...]``; keep the bits."""
        named = dict(zip(self._outputs, outputs, strict=True))
        self._bits = np.array(named["bits"]) if "bits" in named else None
        output = outputs[0]
        if output.ndim != 4 or len(output) != 1 or output.dtype.kind != "uf"[self.on_floats]:
            raise UsageError(
                f"{self.path}: its output is {output.dtype} {list(output.shape)}, which is no "
                "picture in the form of its input"
            )
        return output


_TAKEN: tuple[tuple[str, Shape], ...] = (
    ("float32", (None, 3, None, None)),
    ("uint8", (1, None, None, 3)),
)


def _fits(given: tuple[str, Shape], wanted: tuple[str, Shape]) -> bool:
    """True if an input takes everything that ``wanted`` stands for; its batch size may be 1."""
    (kind, shape), (type_, sizes) = given, wanted
    return (
        kind == type_
        and len(shape) == len(sizes)
        and shape[0] in (None, 1)
        and all(n is None or n == size for n, size in zip(shape[1:], sizes[1:], strict=True))
    )


PROBE = np.arange(32 * 24 * 3, dtype=np.uint8).reshape(32, 24, 3)
"""picture on which kernels are counted"""
