"""Random training patches as a pure function of seed and step."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.data.store import PairStore
from sr_quant_cli.errors import UsageError


class PatchSampler:
    """Draws batches of aligned LR and HR patches.

    Every pixel of the collection is about equally likely: pictures are drawn by their area. What
    step ``t`` draws depends on nothing but ``(seed, t)``, so a resumed run sees the same data.

    Parameters
    ----------
    patch_hr
        Side of an HR patch in pixels, a multiple of the scale.
    augment
        Any of ``hflip``, ``vflip``, ``transpose``; each is applied with probability 1/2.

    Raises
    ------
    UsageError
        A picture is smaller than a patch.
    """

    def __init__(
        self, store: PairStore, *, seed: int, batch: int, patch_hr: int, augment: Iterable[str]
    ) -> None:
        self._store = store
        self._seed = seed
        self._batch = batch
        self._patch = patch_hr // store.scale
        self._augment = frozenset(augment)
        self._probabilities = store.lr_pixels / store.lr_pixels.sum()
        for index in range(len(store)):
            height, width, _ = store.pair(index)[0].shape
            if min(height, width) < self._patch:
                raise UsageError(
                    f"training picture {index + 1} of {len(store)} is {width}x{height} in LR, "
                    f"smaller than a patch of {self._patch}x{self._patch}; "
                    "lower data.patch_hr or remove it"
                )

    def batch(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Patches of one step: LR ``[N, p, p, 3]``, HR ``[N, sp, sp, 3]``, uint8."""
        random = np.random.Generator(np.random.Philox(key=[self._seed, step]))
        chosen = random.choice(len(self._store), size=self._batch, p=self._probabilities)
        patches = [self._patch_of(int(index), random) for index in chosen]
        lr, hr = zip(*patches, strict=True)
        return np.stack(lr), np.stack(hr)

    def _patch_of(
        self, index: int, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        lr, hr = self._store.pair(index)
        size, scale = self._patch, self._store.scale
        top = int(random.integers(lr.shape[0] - size + 1))
        left = int(random.integers(lr.shape[1] - size + 1))
        hflip, vflip, transpose = random.random(3) < 0.5
        return (
            self._augmented(lr[top : top + size, left : left + size], hflip, vflip, transpose),
            self._augmented(
                hr[top * scale : (top + size) * scale, left * scale : (left + size) * scale],
                hflip,
                vflip,
                transpose,
            ),
        )

    def _augmented(
        self, patch: NDArray[np.uint8], hflip: bool, vflip: bool, transpose: bool
    ) -> NDArray[np.uint8]:
        if hflip and "hflip" in self._augment:
            patch = patch[:, ::-1]
        if vflip and "vflip" in self._augment:
            patch = patch[::-1]
        if transpose and "transpose" in self._augment:
            patch = patch.transpose(1, 0, 2)
        return patch
