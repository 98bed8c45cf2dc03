"""The interface of all runtimes, and what tiling has to know of a network."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.errors import FailedError, SrqError, UsageError, first_line, out_of_memory

Pixels = NDArray[np.uint8]
RuntimeName = Literal["torch", "onnxruntime", "openvino"]
Shape = Sequence[int | None]
"""Sizes; None: any."""


@dataclass(frozen=True)
class Kernels:
    """Convolutions and matrix products that were executed, by their arithmetic."""

    integer: int
    floating: int
    float_names: tuple[str, ...] = ()
    """of those in float, as the runtime calls them"""


@dataclass(frozen=True)
class ModelTraits:
    """What callers have to know of a network besides its outputs."""

    name: str
    scale: int
    receptive_radius: int
    """LR pixels on each side that an output pixel depends on"""
    bytes_per_pixel: int
    """memory of a forward pass, per LR pixel"""
    least: int = 1
    """LR pixels per side of the smallest picture that it takes"""
    dynamic: bool = False
    """ranges follow from the picture, and so from the tile it is cut into"""
    alignment: int = 1
    """LR pixels of which tiles have to begin at a multiple"""

    @classmethod
    def of(cls, values: Any) -> Self:
        """ModelTraits as a file has them, each looked at.

        Raises
        ------
        ValueError
            With the one that is missing, unknown, or not what it can be.
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
        if type(traits.dynamic) is not bool:
            raise ValueError(f"dynamic = {traits.dynamic!r}: must be true or false")
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
"""What numbers among the traits can be."""


class Runtime(ABC):
    """A network that is ready to run, on whole pictures."""

    runtime: RuntimeName
    precision: str
    """of what is not on integers: fp32 or bf16"""

    @abstractmethod
    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""

    @abstractmethod
    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits that the latest run chose: ``[N, L]``, by inputs; None: they are fixed."""

    @abstractmethod
    def kernels(self) -> Kernels:
        """Run a small picture and count the kernels that it took."""


class PatchRuntime(ABC):
    """What runs patches of one size together."""

    runtime: RuntimeName
    batch_matters: bool = False
    """whether what becomes of a patch may depend on the others"""

    @abstractmethod
    def batch(self, lr: Pixels) -> Pixels:
        """Uint8 ``[N, h, w, 3]`` -> uint8 ``[N, sh, sw, 3]``."""

    @abstractmethod
    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits that the latest run chose: ``[N, L]``, by inputs; None: they are fixed."""


class GraphRuntime(Runtime):
    """A graph from a file: uint8 RGB ``[1, H, W, 3]``, or float RGB 0..1 ``[1, 3, H, W]``.

    Of its outputs the first is the picture; one that is called ``bits`` has those that it chose.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"no such model file: {path}")
        self.path = path
        self._bits: NDArray[np.float32] | None = None

    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits that the latest run chose: ``[1, L]``, by inputs; None: they are fixed."""
        return self._bits

    def check(self, inputs: Sequence[tuple[str, Shape]], outputs: list[str]) -> None:
        """Refuse a graph that does not take one picture of any size.

        Parameters
        ----------
        inputs
            Type, by numpy's name, and shape of each.
        outputs
            Names.

        Raises
        ------
        UsageError
            With what is needed, and what is there.
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
        self._on_floats = inputs[0][0] == "float32"
        self._outputs = outputs

    def unreadable(self, error: Exception) -> SrqError:
        """What to raise where the file cannot be loaded."""
        if out_of_memory(error):
            return FailedError(f"out of memory: {self.path} cannot be loaded")
        return UsageError(f"{self.path} is no readable network: {first_line(error)}")

    def refused(self, lr: Pixels, error: Exception) -> SrqError:
        """What to raise where a picture is not taken."""
        size = f"{lr.shape[1]}x{lr.shape[0]}"
        if out_of_memory(error):
            return FailedError(f"out of memory: {self.path}, with {size} pixels at once")
        return UsageError(f"{self.path} does not take a {size} RGB picture: {first_line(error)}")

    def to_batch(self, lr: Pixels) -> NDArray[Any]:
        """Uint8 ``[h, w, 3]`` as the graph takes it."""
        if not self._on_floats:
            return np.ascontiguousarray(lr[None])
        return np.ascontiguousarray(lr.transpose(2, 0, 1)[None], dtype=np.float32) / 255

    def to_pixels(self, outputs: Sequence[NDArray[Any]]) -> Pixels:
        """The picture as uint8 ``[h, w, 3]``: rounded half to even, and clipped; keeps the bits.

        Raises
        ------
        UsageError
            The first output is no picture.
        FailedError
            Some of its values are not finite.
        """
        named = dict(zip(self._outputs, outputs, strict=True))
        self._bits = np.array(named["bits"]) if "bits" in named else None
        output = outputs[0]
        if output.ndim != 4 or len(output) != 1 or output.dtype.kind != "uf"[self._on_floats]:
            raise UsageError(
                f"{self.path}: its output is {output.dtype} {list(output.shape)}, which is no "
                "picture in the form of its input"
            )
        if not self._on_floats:
            return np.array(output[0], np.uint8)
        if not np.isfinite(output).all():
            raise FailedError(f"{self.path}: its output is not a number, or infinite")
        levels = np.clip(np.rint(output[0].astype(np.float32) * 255), 0, 255)
        return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


_TAKEN: tuple[tuple[str, Shape], ...] = (
    ("float32", (None, 3, None, None)),
    ("uint8", (1, None, None, 3)),
)


def _fits(given: tuple[str, Shape], wanted: tuple[str, Shape]) -> bool:
    """Whether an input takes all that ``wanted`` stands for; a batch may be of one."""
    (kind, shape), (type_, sizes) = given, wanted
    return (
        kind == type_
        and len(shape) == len(sizes)
        and shape[0] in (None, 1)
        and all(n is None or n == size for n, size in zip(shape[1:], sizes[1:], strict=True))
    )


PROBE = np.arange(32 * 24 * 3, dtype=np.uint8).reshape(32, 24, 3)
"""Picture that kernels are counted on."""
