"""``srq bench kernels``: one convolution on srq's own kernels, with every instruction set."""

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from sr_quant_cli.errors import UsageError
from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.library import PORTABLE, Isa, available, kernels_of, library, peak
from sr_quant_cli.kernels.packing import CHANNELS
from sr_quant_cli.kernels.program import Codes, Convolution, Place, Program

LAYERS = 8
"""equal convolutions, one after the other, of which the mean is taken"""
MAX_CHANNELS = 256
"""most channels of a convolution that is timed"""


@dataclass(frozen=True)
class Format:
    """Codes of a convolution: inputs ``0 .. high``, weights ``-largest .. largest``."""

    name: str
    high: int
    largest: int


FORMATS = (
    Format("8 bits", 255, 127),
    Format("29 levels, 6 bits", 63, 14),
    Format("4 bits", 15, 7),
    Format("2 bits", 3, 1),
)


@dataclass(frozen=True)
class KernelTiming:
    """Time of one convolution of 3x3.

    Attributes
    ----------
    algorithm
        ``"direct"``, or Winograd's by its outputs and window.
    seconds
        Shortest of the runs.
    peak
        Multiply-adds of 8 bits a second that the processor can do in one thread; None: plain C.
    work
        Multiply-adds of the convolution a second, as its definition counts them.
    """

    isa: str
    format: str
    algorithm: str
    seconds: float
    work: float
    peak: float | None


@dataclass(frozen=True)
class KernelTimings:
    """Times of one thread."""

    rows: tuple[KernelTiming, ...]
    channels: int
    width: int
    height: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def bench_kernels(width: int, height: int, channels: int, runs: int) -> KernelTimings:
    """Time a convolution from ``channels`` to as many, in one thread.

    Raises
    ------
    UsageError
        The kernels are not there, or have no such number of channels.
    """
    if channels % CHANNELS or not CHANNELS <= channels <= MAX_CHANNELS:
        problem = f"must be a multiple of {CHANNELS}, at most {MAX_CHANNELS}"
        raise UsageError(problem, field="channels", value=channels)
    library()
    rows = []
    for name in available():
        isas = kernels_of(name)
        most = None if name == PORTABLE else peak(isas)
        rows += [_time(kind, isas, most, (height, width), channels, runs) for kind in FORMATS]
    return KernelTimings(tuple(rows), channels, width, height)


def _time(
    kind: Format,
    isas: list[Isa],
    most: float | None,
    size: tuple[int, int],
    channels: int,
    runs: int,
) -> KernelTiming:
    random = np.random.default_rng(0)
    ends = -kind.largest, kind.largest + 1
    pictures = [Codes(f"{i}", channels, 1, 0, 0, kind.high) for i in range(LAYERS + 1)]
    pictures[0] = Codes("0", 3, 1, 0, 0, kind.high)
    steps = tuple(
        Convolution(
            Place(before),
            Place(after),
            weights=random.integers(*ends, (channels, before.channels, 3, 3)).astype(np.int8),
            scale=np.full(channels, 1e-3, np.float32),
            bias=np.full(channels, kind.high / 2, np.float32),
            slope=None,
            zero=0.0,
            low=0,
            high=kind.high,
        )
        for before, after in pairwise(pictures)
    )
    tables = np.arange(256, dtype=np.uint8).clip(max=kind.high)[None].repeat(3, 0)
    lr = random.integers(0, 256, (*size, 3), dtype=np.uint8)

    one, all_ = (
        Executor(Program(1, 0, tables, pictures[0], steps[:count], pictures[count]), 1, isas)
        for count in (1, LAYERS)
    )

    def shortest(executor: Executor) -> float:
        times = []
        for _ in range(runs + 1):
            start = time.perf_counter()
            executor(lr)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    seconds = (shortest(all_) - shortest(one)) / (LAYERS - 1)
    work = size[0] * size[1] * 9 * channels**2 / seconds
    tile = max(all_.tiles())
    algorithm = f"F({tile}x{tile},3x3)" if tile else "direct"
    return KernelTiming(isas[0].name, kind.name, algorithm, seconds, work, most)
