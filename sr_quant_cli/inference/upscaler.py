"""One interface over everything that enlarges a picture: bicubic, a network, an ONNX file."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.engine.device import Precision, autocast, thread_limit
from sr_quant_cli.engine.distributed import warn
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.convert import to_pixels, to_tensor
from sr_quant_cli.imaging.tiling import core_size, spans
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.networks.base import Network

Pixels = NDArray[np.uint8]
ReadRegion = Callable[[int, int, int, int], Pixels]
"""``(top, bottom, left, right)`` in LR pixels -> uint8 ``[h, w, 3]``."""

TILE_MEMORY = 768 * 2**20
"""Bytes of float32 activations that one tile may take."""

MAX_TILE = 640
"""LR pixels per side of the largest tile: a band of finished rows is in memory, too."""


class Upscaler(ABC):
    """Enlarges 8-bit RGB pictures by an integer factor."""

    name: str
    scale: int

    @abstractmethod
    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""


class BicubicUpscaler(Upscaler):
    """MATLAB's bicubic enlargement, the first row of every table."""

    name = "bicubic"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        return enlarge(lr, self.scale)


class NetworkUpscaler(Upscaler):
    """A network in torch, run tile by tile with a result that equals the whole picture's.

    Where a method has dynamic ranges, these are of each tile, and the first picture with tiles
    gives a warning.

    Parameters
    ----------
    tile
        LR pixels that a tile keeps per side; None: as many as ``TILE_MEMORY`` allows.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        device: torch.device,
        precision: Precision = "fp32",
        tile: int | None = None,
    ) -> None:
        self.name = name
        self.scale = network.scale
        self._network = network.eval().place(device)
        self._device = device
        self._precision = precision
        self._tile = tile
        how = network.quantization
        self._tiles_matter = how is not None and build_method(how.method).dynamic

    def tile_size(self, height: int, width: int) -> int:
        """LR pixels per side that a tile of a ``height`` x ``width`` picture keeps."""
        # Pixels go through a few float copies of the output beside the network's own maps.
        floats = self._network.floats_per_pixel + 12 * self.scale**2
        budget = min(TILE_MEMORY // (4 * floats), MAX_TILE**2)
        return self._tile or core_size(height, width, self._network.receptive_radius, budget)

    def tile_count(self, height: int, width: int) -> int:
        """Tiles that ``bands`` runs for a picture."""
        core = self.tile_size(height, width)
        return -(-height // core) * -(-width // core)

    def bands(
        self,
        read: ReadRegion,
        height: int,
        width: int,
        on_tile: Callable[[], Any] = lambda: None,
    ) -> Iterator[Pixels]:
        """Enlarge a picture of which only tiles are in memory.

        Yields
        ------
        Bands of rows from the top, uint8 ``[h, scale * width, 3]``.
        """
        core, halo = self.tile_size(height, width), self._network.receptive_radius
        if self._tiles_matter and core < max(height, width):
            warn(f"{self.name}: its ranges are those of each tile, not of the whole picture")
            self._tiles_matter = False  # once is enough
        for rows in spans(height, core, halo):
            band = np.empty(
                ((rows.last - rows.first) * self.scale, width * self.scale, 3), np.uint8
            )
            for columns in spans(width, core, halo):
                sr = self._forward(read(rows.start, rows.stop, columns.start, columns.stop))
                top = (rows.first - rows.start) * self.scale
                left = (columns.first - columns.start) * self.scale
                kept_width = (columns.last - columns.first) * self.scale
                start = columns.first * self.scale
                band[:, start : start + kept_width] = sr[
                    top : top + len(band), left : left + kept_width
                ]
                on_tile()
            yield band

    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        height, width, _ = lr.shape
        return np.concatenate(list(self.bands(_region_of(lr), height, width)))

    def _forward(self, lr: Pixels) -> Pixels:
        with torch.inference_mode(), autocast(self._precision, self._device):
            return to_pixels(self._network(to_tensor(lr[None], self._device))[0])


class OnnxUpscaler(Upscaler):
    """An ONNX file with one picture input, RGB 0..1 ``[N, 3, H, W]``, run by ONNX Runtime.

    Raises
    ------
    UsageError
        The file cannot be loaded or is no such network.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import onnxruntime

        if not path.is_file():
            raise UsageError(f"no such model file: {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_limit(threads) or 0
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise UsageError(f"{path} is no readable ONNX file: {_first_line(error)}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise UsageError(f"{path}: needs one float input [N, 3, H, W] (RGB 0..1)")
        self.name = path.name
        self._path = path
        self._input = inputs[0].name
        self.scale = self._measure_scale()

    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        return to_pixels(torch.from_numpy(self._run(lr)[0]))

    def _run(self, lr: Pixels) -> NDArray[np.float32]:
        batch = np.ascontiguousarray(lr.transpose(2, 0, 1)[None], dtype=np.float32) / 255
        try:
            output: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        except Exception as error:  # as above
            raise UsageError(
                f"{self._path} does not take a {lr.shape[1]}x{lr.shape[0]} RGB picture: "
                f"{_first_line(error)}"
            ) from error
        return output

    def _measure_scale(self) -> int:
        probe = self._run(np.zeros((48, 48, 3), np.uint8))
        scale = probe.shape[-1] // 48 if probe.ndim == 4 else 0
        if probe.shape != (1, 3, 48 * scale, 48 * scale) or scale < 1:
            raise UsageError(f"{self._path}: output {list(probe.shape)} is no enlarged RGB picture")
        return scale


def _region_of(lr: Pixels) -> ReadRegion:
    return lambda top, bottom, left, right: lr[top:bottom, left:right]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
