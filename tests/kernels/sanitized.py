"""Kernels built with sanitizers; ``test_sanitizers.py`` runs this in a process of its own.

``python -m tests.kernels.sanitized LIBRARY sums|programs|tiles|overrun``
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

from sr_quant_cli.kernels import library as kernels

if __name__ == "__main__":
    kernels.LIBRARY = Path(sys.argv[1])  # before test_sums looks for it

from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.packing import pack
from sr_quant_cli.kernels.program_file import from_plain, to_plain
from tests.kernels import test_sums
from tests.kernels.programs import every_step, few_bits

GAP = 4096
"""bytes before, between and behind pictures of codes that no kernel may touch"""
SIZES = [(1, 1), (2, 5), (7, 3), (13, 18), (24, 31)]
MUTATIONS = 150
EXTREMES = [-(2**31), -1, 0, 1, 2, 3, 15, 16, 17, 255, 256, 2**31, 2**63, 1e12, -1e12, 0.5]


class Guarded(Executor):
    """An executor whose pictures lie apart, with memory between them that must not be touched."""

    def _layout(self, height, width):
        pictures, size = super()._layout(height, width)
        starts = sorted({picture.address for picture in pictures.values()})
        ends = [*starts[1:], size]
        moved = {at: at + GAP * (index + 1) for index, at in enumerate(starts)}
        self._gaps = [0, *(moved[at] + end - at for at, end in zip(starts, ends, strict=True))]
        placed = {
            name: type(picture)(**{**vars(picture), "address": moved[picture.address]})
            for name, picture in pictures.items()
        }
        return placed, size + GAP * (len(starts) + 1)

    def _execute(self, plan):
        memory = ctypes.CDLL(None)
        whole = ctypes.c_void_p(self._arena.ctypes.data), ctypes.c_size_t(len(self._arena))
        memory["__asan_unpoison_memory_region"](*whole)
        for gap in self._gaps:
            start = ctypes.c_void_p(self._arena.ctypes.data + gap)
            memory["__asan_poison_memory_region"](start, ctypes.c_size_t(GAP))
        super()._execute(plan)


def sums():
    """Every kernel, on random codes and on those at the extremes of their ranges."""
    for isa in kernels.available():
        for name in test_sums.FORMATS:
            for shape in test_sums.SHAPES:
                for extreme in (False, True):
                    test_sums.test_sums_are_exact(isa, name, shape, extreme)
        for algorithm in test_sums.ALGORITHMS:
            test_sums.test_what_follows_the_sums(isa, *algorithm)


def programs():
    """Every kind of step at odd sizes, and programs with hostile numbers that are accepted."""
    random = np.random.default_rng(0)

    def run(program, isa, sizes):
        for threads in (1, 2):
            for size in sizes:
                # A new one each time, so that the gaps are those of this size.
                enlarge = Guarded(program, threads, kernels.kernels_of(isa))
                enlarge(random.integers(0, 256, (*size, 3), np.uint8))

    for isa in kernels.available():
        run(every_step(), isa, SIZES)
        run(few_bits(), isa, SIZES)
    plain, arrays = to_plain(every_step())
    accepted = 0
    for _ in range(MUTATIONS):
        values = json.loads(json.dumps(plain))
        changed = {name: array.copy() for name, array in arrays.items()}
        for _ in range(random.integers(1, 3)):
            mutate(random, values, changed)
        try:
            program = from_plain(values, changed)
        except ValueError:
            continue
        accepted += 1
        run(program, random.choice(kernels.available()), SIZES[1:3])
    assert accepted > MUTATIONS / 10


def mutate(random, values, arrays):
    """Change one number of a program, or one array, to an extreme."""
    if random.random() < 0.3:
        array = arrays[random.choice(sorted(arrays))]
        if array.dtype.kind == "f":
            array[...] = random.choice([-1e12, -1e-30, 0, 1e12])
        else:
            limits = np.iinfo(array.dtype)
            array[...] = random.choice([limits.min, limits.max])
        return
    places = list(numbers(values))
    where, key = places[random.integers(len(places))]
    value = EXTREMES[random.integers(len(EXTREMES))]
    where[key] = type(where[key])(value)


def numbers(values):
    """Yield each container and key of a number."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict | list):
            yield from numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield values, key


def tiles():
    """Every transform of training at odd sizes, between memory that must not be touched."""
    for kind in range(4):
        to_tiles = kind % 2 == 0
        for height, width in SIZES:
            shape = images, _, _, channels = 3, height, width, 16
            count = images * -(-height // 4) * -(-width // 4)
            picture, transformed = np.ones(shape, np.float32), np.ones((36, count, channels), "f4")
            source, made = (picture, transformed)[:: 1 if to_tiles else -1]
            bias = np.ones(channels, np.float32) if kind == 1 else None
            addresses = [
                each if each is None else each.ctypes.data for each in (source, bias, made)
            ]
            made[:] = np.nan
            for first, end in ((0, 1), (1, 3)):
                kernels.tile_transform()(kind, *addresses, *shape, first, end)
            assert np.isfinite(made).all()


def overrun():
    """A kernel that is told a width that its picture does not have."""
    weights = np.ones((16, 16, 3, 3), np.int8)
    packed = pack(weights, test_sums.codes(0, 255, 0), kernels.all_kernels())
    picture = np.zeros((4, 5, 16), np.uint8)
    test_sums.run(packed, picture, 0, 1, 0, size=3, stride=10**6)


if __name__ == "__main__":
    {"sums": sums, "programs": programs, "tiles": tiles, "overrun": overrun}[sys.argv[2]]()
