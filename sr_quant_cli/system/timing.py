"""Ways to do the same work, timed in turns."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from sr_quant_cli.system.reporting import track

WARM_UP = 3
"""Rounds that do not count: memory is taken, kernels are made, files are read."""

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
"""What decides how fast a processor multiplies, as torch names it."""


@dataclass(frozen=True)
class Variant:
    """One way to do the work: ``steps`` starts it, and every ``next`` does one step."""

    label: str
    steps: Callable[[], Generator[object, None, None]]


@dataclass(frozen=True)
class Row:
    """Seconds of one variant's steps, and how many times as fast as the reference it is."""

    variant: str
    median: float
    minimum: float
    steps_per_second: float
    speedup: float
    times: list[float]


def time_in_turns(
    variants: Sequence[Variant], rounds: int, device: torch.device, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Seconds of every step: in each round every variant does one.

    What else the machine does then falls on all of them alike. A batch that is loaded in a thread
    for longer than its step would go on in another variant's time, and so seem to cost less.
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
    """Put times side by side; the first variant is the reference.

    >>> [(row.median, row.speedup) for row in compare({"plain": [4.0, 2.0], "srq": [1.0, 1.0]})]
    [(3.0, 1.0), (1.0, 3.0)]
    """
    reference = next(iter(times.values()))
    return [
        Row(label, median(t), min(t), 1 / median(t), typical_ratio(reference, t), t)
        for label, t in times.items()
    ]


def typical_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of the ratio in a round: what slows a whole round down falls out.

    >>> typical_ratio([2.0, 30.0, 2.0], [1.0, 10.0, 1.0])
    2.0
    """
    return median(a / b for a, b in zip(times, others, strict=True))


def machine(device: torch.device) -> dict[str, Any]:
    """What times depend on, beside the work."""
    capabilities = torch.cpu.get_capabilities()
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "features": [name for name in _FEATURES if capabilities.get(name)],
    }


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
