"""Timing of several variants of the same work, in turns."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

from sr_quant_cli.system.processor import processor_name
from sr_quant_cli.system.reporting import track

WARM_UP = 3
"""Untimed rounds at the start, which allocate memory, compile kernels and read files."""

_FEATURES = (
    "avx2",
    "avx512_f",
    "avx512_bf16",
    "avx512_vnni",
    "amx_bf16",
    "amx_int8",
    "neon",
    "sve",
)
"""Features that decide how fast a processor multiplies, by torch's names."""


@dataclass(frozen=True)
class Variant:
    """Variant of the work: ``steps`` starts it, and every ``next`` runs one step."""

    label: str
    steps: Callable[[], Generator[object, None, None]]

    @classmethod
    def of_calls(cls, label: str, call: Callable[[], object]) -> "Variant":
        """Variant with one call in every step."""

        def steps() -> Generator[object, None, None]:
            while True:
                yield call()

        return cls(label, steps)


@dataclass(frozen=True)
class Row:
    """Seconds of one variant's steps, and its speedup over the reference."""

    variant: str
    median: float
    minimum: float
    steps_per_second: float
    speedup: float
    times: list[float]

    @property
    def p95(self) -> float:
        """95th percentile of the times, between the two nearest of them.

        >>> Row("", 2.0, 1.0, 0.5, 1.0, [1.0, 2.0, 3.0]).p95
        2.9
        """
        if len(self.times) == 1:
            return self.times[0]
        return quantiles(self.times, n=20, method="inclusive")[-1]


def time_in_turns(
    variants: Sequence[Variant], rounds: int, device: torch.device, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Measure the seconds of every step, with one step of every variant in each round.

    Other load on the machine then affects all variants alike. Work that a variant leaves to a
    background thread beyond its step, such as loading a batch, is charged to the next variant.
    """
    times: dict[str, list[float]] = {variant.label: [] for variant in variants}
    with ExitStack() as stack:
        running = {v.label: stack.enter_context(closing(v.steps())) for v in variants}
        for turn in track(range(warm_up + rounds), warm_up + rounds, "round", "rounds"):
            for label, steps in running.items():
                _wait_for(device)
                begun = time.perf_counter()
                next(steps)
                _wait_for(device)
                if turn >= warm_up:
                    times[label].append(time.perf_counter() - begun)
    return times


def compare(times: Mapping[str, list[float]]) -> list[Row]:
    """Compare times; the first variant is the reference.

    >>> [(row.median, row.speedup) for row in compare({"plain": [4.0, 2.0], "srq": [1.0, 1.0]})]
    [(3.0, 1.0), (1.0, 3.0)]
    """
    reference = next(iter(times.values()))
    return [
        Row(label, median(t), min(t), 1 / median(t), typical_ratio(reference, t), t)
        for label, t in times.items()
    ]


def typical_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio in a round, so slow rounds cancel out.

    >>> typical_ratio([2.0, 30.0, 2.0], [1.0, 10.0, 1.0])
    2.0
    """
    return median(a / b for a, b in zip(times, others, strict=True))


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine that times were measured on."""
    capabilities = torch.cpu.get_capabilities()
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "features": [name for name in _FEATURES if capabilities.get(name)],
    }


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
