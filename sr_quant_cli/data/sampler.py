"""Random training patches, as a pure function of the seed and the step."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_quant_cli.data.degrade import CLEAN, SURROUNDINGS, Degradations
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.errors import UsageError


class Draw(NamedTuple):
    """Position of one patch in the LR picture of a pair, and its augmentation.

    Flips are applied before the transposition.
    """

    pair: int
    top: int
    left: int
    hflip: bool
    vflip: bool
    transpose: bool


class PatchSampler:
    """Sampler of aligned LR and HR patches.

    Pictures are drawn in proportion to their area, so that every pixel of the collection is about
    equally likely. The patches of step ``t`` depend on ``(seed, t)`` alone, so a resumed run sees
    the same data.

    Parameters
    ----------
    patch_hr
        Side of an HR patch in pixels, a multiple of the scale.
    augment
        Any of ``hflip``, ``vflip`` and ``transpose``, each applied with probability 1/2.
    degradations
        Degradations of LR patches.
    advice
        Advice for the error about pictures that are too small, besides removing them.
    part
        ``(rank, size)``: return the share of process ``rank`` of ``size``, which must divide the
        batch.

    Raises
    ------
    UsageError
        Pictures are smaller than a patch.
    """

    def __init__(
        self,
        store: PairStore,
        *,
        seed: int,
        batch: int,
        patch_hr: int,
        augment: Iterable[str],
        degradations: Degradations = CLEAN,
        advice: str = "lower data.patch_hr",
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.store = store
        self.patch = patch_hr // store.scale
        """Side of an LR patch in pixels."""
        self.degradations = degradations
        self._seed = seed
        self._batch = batch
        rank, size = part
        self._share = slice(rank * (batch // size), (rank + 1) * (batch // size))
        names = ("hflip", "vflip", "transpose")
        self._augment = np.array([name in frozenset(augment) for name in names])
        self._probabilities = store.lr_pixels / store.lr_pixels.sum()
        small = [
            f"{file.name} ({width}x{height})"
            for file, (height, width) in zip(store.files, store.lr_sizes, strict=True)
            if min(height, width) < self.patch
        ]
        if small:
            more = f" and {len(small) - 3} others" if len(small) > 3 else ""
            raise UsageError(
                f"{', '.join(small[:3])}{more} of {len(store)} training pictures: in LR smaller "
                f"than a patch of {self.patch}x{self.patch}; {advice}, or remove them"
            )

    def draw(self, step: int) -> list[Draw]:
        """Draw the patches of one step, this process's share of them."""
        random = np.random.Generator(np.random.Philox(key=[self._seed, step]))
        chosen = random.choice(len(self.store), size=self._batch, p=self._probabilities)
        return [self._draw_in(int(index), random) for index in chosen][self._share]

    def batch(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the patches of one step: LR ``[N, p, p, 3]``, HR ``[N, s*p, s*p, 3]``, uint8."""
        first = self._share.start
        cut = (self._cut(draw, step, first + i) for i, draw in enumerate(self.draw(step)))
        lr, hr = zip(*cut, strict=True)
        return np.stack(lr), np.stack(hr)

    def _draw_in(self, index: int, random: np.random.Generator) -> Draw:
        height, width = self.store.lr_sizes[index]
        top = int(random.integers(height - self.patch + 1))
        left = int(random.integers(width - self.patch + 1))
        hflip, vflip, transpose = ((random.random(3) < 0.5) & self._augment).tolist()
        return Draw(index, top, left, hflip, vflip, transpose)

    def _cut(
        self, draw: Draw, step: int, place: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Cut one patch; ``place`` is its index in the batch of all processes."""
        s, side = self.store.scale, self.patch
        lr, hr = self.store.pair(draw.pair)
        hr_patch = hr[draw.top * s :, draw.left * s :][: side * s, : side * s]
        if self.degradations.active:
            # A counter of its own for each patch, beyond the one that draws positions.
            philox = np.random.Philox(key=[self._seed, step], counter=[0, 0, 0, 1 + place])
            lr_patch = self._degraded(lr, hr, draw, np.random.Generator(philox))
        else:
            lr_patch = lr[draw.top :, draw.left :][:side, :side]
        return _turned(lr_patch, draw), _turned(hr_patch, draw)

    def _degraded(
        self,
        lr: NDArray[np.uint8],
        hr: NDArray[np.uint8],
        draw: Draw,
        random: np.random.Generator,
    ) -> NDArray[np.uint8]:
        """Degrade a patch together with its surroundings.

        Above and to the left they are of random size, so that the blocks of JPEG begin anywhere.
        """
        s, side = self.store.scale, self.patch
        above, before = (SURROUNDINGS - random.integers(8, size=2)).tolist()
        top, left = max(draw.top - above, 0), max(draw.left - before, 0)
        bottom, right = draw.top + side + SURROUNDINGS, draw.left + side + SURROUNDINGS
        window = self.degradations.degrade(
            lr[top:bottom, left:right], hr[top * s : bottom * s, left * s : right * s], random
        )
        return window[draw.top - top :, draw.left - left :][:side, :side]


class DevicePatches:
    """Patches cut on a device that holds all pictures of a sampler.

    The values equal those of ``PatchSampler.batch`` without degradations.
    """

    def __init__(self, sampler: PatchSampler, device: torch.device) -> None:
        self._sampler = sampler
        self._device = device
        for index in range(len(sampler.store)):
            sampler.store.pair(index)  # looks at the checksum
        pixels = sampler.store.pixels
        self._pixels = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(pixels), _UPLOAD):
            part = np.array(pixels[start : start + _UPLOAD])
            self._pixels[start : start + len(part)] = torch.from_numpy(part)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the patches of one step: LR ``[N, p, p, 3]``, HR ``[N, s*p, s*p, 3]``, uint8."""
        store, patch = self._sampler.store, self._sampler.patch
        draws = self._sampler.draw(step)
        table = torch.tensor(draws, dtype=torch.int64).to(self._device, non_blocking=True)
        index = [draw.pair for draw in draws]
        starts = np.stack(
            [store.lr_starts[index], store.hr_starts[index], store.lr_sizes[index, 1]]
        )
        lr_start, hr_start, width = torch.from_numpy(starts).to(self._device, non_blocking=True)
        lr = self._gather(table, lr_start, width, patch, 1)
        hr = self._gather(table, hr_start, width, patch, store.scale)
        return lr, hr

    def _gather(self, draws: Tensor, start: Tensor, width: Tensor, patch: int, s: int) -> Tensor:
        _, top, left, hflip, vflip, transpose = draws[:, :, None].unbind(1)  # each [N, 1]
        along = torch.arange(patch * s, device=self._device)
        rows = top * s + torch.where(vflip > 0, along.flip(0), along)  # [N, sp]
        columns = left * s + torch.where(hflip > 0, along.flip(0), along)
        pixel = rows[:, :, None] * (width * s)[:, None, None] + columns[:, None, :]
        pixel = torch.where(transpose[:, :, None] > 0, pixel.transpose(1, 2), pixel)
        return self._pixels[pixel + start[:, None, None]]


_UPLOAD = 2**26
"""Pixels sent to the device at once, so that decoded photographs need not fit in host memory."""


def _turned(patch: NDArray[np.uint8], draw: Draw) -> NDArray[np.uint8]:
    if draw.hflip:
        patch = patch[:, ::-1]
    if draw.vflip:
        patch = patch[::-1]
    if draw.transpose:
        patch = patch.transpose(1, 0, 2)
    return patch
