"""Networks in torch: the reference, with fake quantization."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_quant_cli.errors import OutOfMemoryError, out_of_memory
from sr_quant_cli.imaging.convert import to_pixels, to_tensor
from sr_quant_cli.imaging.levels import Floats
from sr_quant_cli.methods import build
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.layers import QuantMatMul
from sr_quant_cli.runtimes.base import (
    Kernels,
    ModelTraits,
    PatchRuntime,
    Pixels,
    Runtime,
)
from sr_quant_cli.system.choices import Precision
from sr_quant_cli.system.device import autocast


class TorchRuntime(Runtime, PatchRuntime):
    """A network on a device of torch.

    Parameters
    ----------
    network
        Moved to the device.
    """

    runtime = "torch"

    def __init__(
        self,
        network: Network,
        device: torch.device,
        precision: Precision = "fp32",
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.network = network.eval().place(device, layout)
        self.device = device
        self.precision: Precision = precision
        quantization = network.quantization
        # In the methods' released code the ranges of a sample may depend on its batch.
        self.batch_matters = (
            quantization is not None
            and build(quantization.method).dynamic
            and quantization.method.variant != "corrected"
        )

    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        sr: Pixels = self.batch(lr[None])[0]
        return sr

    def batch(self, lr: Pixels) -> Pixels:
        """Uint8 ``[N, h, w, 3]`` -> uint8 ``[N, sh, sw, 3]``."""
        with torch.inference_mode(), self._memory(lr), autocast(self.precision, self.device):
            return to_pixels(self.network(to_tensor(lr, self.device)))

    def floats(self, lr: Floats) -> Floats:
        """Float32 ``[N, h, w, 3]``, 0..1 -> float32 ``[N, sh, sw, 3]``, always computed in fp32."""
        precise = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), self._memory(lr), precise:
            sr: Tensor = self.network(to_tensor(lr, self.device))
            floats: Floats = sr.movedim(-3, -1).contiguous().cpu().numpy()
        return floats

    def free_memory(self) -> int | None:
        """Free memory of a CUDA device, in bytes; None on a CPU."""
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        return free

    @contextmanager
    def _memory(self, lr: NDArray[Any]) -> Iterator[None]:
        """Turn torch's lack of memory into one line, and give back what it keeps."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            size = f"{lr.shape[2]}x{lr.shape[1]}"
            failed = OutOfMemoryError(f"out of memory: torch, with {size} pixels at once")
        else:
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise failed

    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits chosen by the latest run, ``[N, L]``, a column for each input; None: fixed bits."""
        provider = self.network.bit_provider
        return None if provider is None else provider.chosen().cpu().numpy()

    def kernels(self) -> Kernels:
        """Count all layers as float: quantization is simulated."""
        layers = (torch.nn.Conv2d, torch.nn.Linear, QuantMatMul)
        weighted = [m for m in self.network.modules() if hasattr(m, "weight_quantizer")]
        return Kernels(
            0, len(weighted) + sum(isinstance(m, layers) for m in self.network.modules())
        )


def traits_of_network(network: Network, name: str, least: int = 1) -> ModelTraits:
    """Traits of a network."""
    quantization = network.quantization
    # The output is copied a few times as floats, beside the network's own feature maps.
    floats = network.floats_per_pixel + 12 * network.scale**2
    return ModelTraits(
        name=name,
        scale=network.scale,
        receptive_radius=network.receptive_radius,
        bytes_per_pixel=4 * floats,
        least=max(least, network.least_side),
        dynamic=network.bit_provider is not None
        or (quantization is not None and build(quantization.method).dynamic),
        alignment=network.alignment,
        whole=network.sees_everything,
    )
