"""Runtimes without a network, whose results show every mistake in tiles."""

import numpy as np

from sr_quant_cli.errors import OutOfMemoryError
from sr_quant_cli.imaging.levels import to_floats
from sr_quant_cli.runtimes.base import Kernels, ModelTraits, PatchRuntime, Runtime

WINDOWS = ModelTraits("windows", 2, receptive_radius=5, bytes_per_pixel=100, alignment=4)


class Windows(Runtime, PatchRuntime):
    """Sums neighbours, then windows of 4 from the corner of what it sees, in exact integers.

    Parameters
    ----------
    most
        LR pixels for which there is memory; None: any number.
    """

    runtime = "windows"
    precision = "fp32"

    def __init__(self, most=None):
        self.most = most
        self.shapes = []

    def __call__(self, lr):
        return self.batch(lr[None])[0]

    def batch(self, lr):
        return (self._enlarge(lr.astype(np.int64)) % 251).astype(np.uint8)

    def floats(self, lr):
        levels = self._enlarge(np.rint(lr * 65535).astype(np.int64)) % 65521
        return (levels / 65535).astype(np.float32)

    def latest_bits(self):
        return None

    def kernels(self):
        return Kernels(0, 0)

    def _enlarge(self, lr):
        self.shapes.append(lr.shape)
        count, height, width, _ = lr.shape
        if self.most is not None and count * height * width > self.most:
            raise OutOfMemoryError(f"out of memory: {width}x{height}")
        padded = np.pad(lr, ((0, 0), (2, 2), (2, 2), (0, 0)))
        near = sum(
            (3 * row + column + 1) * padded[:, row : row + height, column : column + width]
            for row in range(5)
            for column in range(5)
        )
        rows, columns = -height % 4, -width % 4
        full = np.pad(near, ((0, 0), (0, rows), (0, columns), (0, 0)))
        sums = full.reshape(count, len(full[0]) // 4, 4, -1, 4, 3).sum((2, 4))
        sums = sums.repeat(4, 1).repeat(4, 2)[:, :height, :width]
        return (near + sums).repeat(2, 1).repeat(2, 2)


class Ramp(Runtime):
    """Repeats pixels, as a model in full precision."""

    runtime = "ramp"
    precision = "fp32"

    def __call__(self, lr):
        return lr.repeat(2, 0).repeat(2, 1)

    def floats(self, lr):
        return lr.repeat(2, 1).repeat(2, 2)

    def latest_bits(self):
        return None

    def kernels(self):
        return Kernels(0, 0)


def gradient(height, width):
    """A smooth picture of 16 bits: uint16 ``[height, width, 3]``."""
    y, x = np.mgrid[:height, :width]
    first = 20000 + 331 * x + 57 * y
    return np.stack([first, 62000 - first, 9000 + 101 * y + 211 * x], axis=2).astype(np.uint16)


def floats_of(network, lr):
    """Float output of a runtime for a picture of 16 bits: float64 ``[H, W, 3]`` of levels."""
    return network.floats(to_floats(lr)[None])[0].astype(np.float64) * 65535
