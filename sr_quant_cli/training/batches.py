"""Batches of a training run, loaded ahead of their use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from sr_quant_cli.data.sampler import DevicePatches, PatchSampler
from sr_quant_cli.imaging.convert import to_tensor

Batch = tuple[Tensor, Tensor]
"""LR ``[N, 3, p, p]`` and HR ``[N, 3, sp, sp]``, float32 0..1, on the training device."""


class BatchSource(Protocol):
    """Source of the batches of a training loop."""

    def of(self, steps: range) -> Iterator[Batch]:
        """Give the batches of consecutive steps."""


class Batches:
    """Batches of patches by step.

    On CUDA the decoded photographs are kept in device memory, if they fit into half of what is
    free and patches are not degraded, and patches are cropped there. Otherwise a thread crops
    the next batch in the background.

    Parameters
    ----------
    layout
        Memory layout of the tensors.
    """

    def __init__(
        self, sampler: PatchSampler, device: torch.device, layout: torch.memory_format
    ) -> None:
        self._device = device
        self._layout = layout
        self._patches: PatchSampler | DevicePatches = sampler
        self._prefetch = True
        if (
            device.type == "cuda"
            and not sampler.degradations.active
            and sampler.store.pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        ):
            self._patches = DevicePatches(sampler, device)
            self._prefetch = False

    def __getitem__(self, step: int) -> Batch:
        """Make the batch of one step."""
        lr, hr = (to_tensor(pixels, self._device) for pixels in self._patches.batch(step))
        return lr.contiguous(memory_format=self._layout), hr.contiguous(memory_format=self._layout)

    def of(self, steps: range) -> Iterator[Batch]:
        """Give the batches of consecutive steps."""
        if not self._prefetch:
            yield from map(self.__getitem__, steps)
            return
        with ThreadPoolExecutor(1) as loader:
            coming = loader.submit(self.__getitem__, steps.start)
            for step in steps:
                batch = coming.result()
                if step + 1 < steps.stop:
                    coming = loader.submit(self.__getitem__, step + 1)
                yield batch
