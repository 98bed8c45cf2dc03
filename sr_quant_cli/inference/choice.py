"""Choice of the runtime for a model where the user asks for ``auto``."""

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sr_quant_cli.errors import FailedError, SrqError, UnsupportedGraphError
from sr_quant_cli.inference.graph_cache import Prepared, alone, folder_of, open_graph
from sr_quant_cli.modelfiles.named import Source
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.base import Pixels, Runtime
from sr_quant_cli.runtimes.registry import TORCH, runtimes
from sr_quant_cli.system.choices import PrecisionChoice
from sr_quant_cli.system.files import read_sealed, write_sealed
from sr_quant_cli.system.reporting import warn

AGREES = 0.05
"""largest loss of PSNR (RGB, dB) against the model on the small picture"""

MARGIN = 0.15
"""share of the time by which a runtime must be faster than a preferred one"""

_SIDE = 128
"""LR pixels per side of an empty picture, for runtimes that take as long for any"""

_SHIPPED = "shipped.json"
"""File with the time of a program, in the folder that the graph would have"""

_ROUNDS = 5
_ENOUGH = 4.0
"""seconds of runs after which no further round begins"""


@record
class Trial:
    """Result of a runtime on the small picture."""

    runtime: str
    loss: float
    """loss of PSNR (RGB, dB) against the model"""
    seconds: float
    """shortest of several runs"""
    pixels: int
    """LR pixels of the picture"""


def choose(prepared: Prepared, precision: PrecisionChoice) -> str:
    """Choose the fastest runtime that agrees with the model; torch if none does.

    Times are measured once, on a small picture and one thread, and the choice is kept: a machine
    gives the same picture however many threads it uses. Processes that ask at the same time wait
    for the first one.
    """
    record = prepared.folder / f"choice-{precision}.json"
    chosen = _remembered(record)
    if chosen is None:
        with alone(prepared.folder):
            chosen = _remembered(record)
            if chosen is None:
                trials = _measure(prepared, precision)
                chosen = _best(trials)
                known = {"runtime": chosen, "trials": [asdict(trial) for trial in trials]}
                try:
                    write_sealed(record, known)
                except FailedError as error:
                    warn(f"{error}; which runtime is the faster one is measured each time")
    return chosen


def pixel_seconds(prepared: Prepared, precision: PrecisionChoice, runtime: str) -> float | None:
    """Seconds for an LR pixel on one thread, if the choice was once made; None: unknown."""
    trial = _trials(prepared.folder / f"choice-{precision}.json").get(runtime)
    return trial.seconds / trial.pixels if trial is not None and trial.pixels else None


def seconds_per_pixel(runtime: Runtime) -> float:
    """Measure the seconds that a runtime, with the threads that it has, takes for an LR pixel."""
    lr = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    (shortest,) = _times([runtime], lr)
    return shortest / _SIDE**2


def measured_seconds(prepared: Prepared, precision: PrecisionChoice = "auto") -> float | None:
    """Time of the chosen runtime on the small picture and one thread; None: not measured."""
    record = prepared.folder / f"choice-{precision}.json"
    trial = _trials(record).get(_remembered(record) or "")
    return None if trial is None else trial.seconds


def shipped_seconds(source: Source) -> float | None:
    """Time of the program in a model file on the small picture and one thread; None: not kept.

    Raises
    ------
    UsageError
        The file is not readable.
    """
    seconds = read_sealed(folder_of(source) / _SHIPPED)
    return seconds if isinstance(seconds, float) else None


def keep_shipped_seconds(source: Source, seconds: float) -> None:
    """Keep that time.

    Raises
    ------
    FailedError
        The cache cannot be written.
    """
    write_sealed(folder_of(source) / _SHIPPED, seconds)


def _trials(record: Path) -> dict[str, Trial]:
    """Trials of a choice by the names of the runtimes; none if it was not made."""
    try:
        trials = [Trial(**trial) for trial in read_sealed(record)["trials"]]
    except (TypeError, KeyError):
        return {}
    return {trial.runtime: trial for trial in trials}


def _remembered(record: Path) -> str | None:
    try:
        chosen = read_sealed(record)["runtime"]
    except (TypeError, KeyError):
        return None
    here = [entry.name for entry in runtimes() if entry.installed]
    return str(chosen) if chosen in here else None


def _best(trials: list[Trial]) -> str:
    agreeing = [trial for trial in trials if trial.loss <= AGREES]
    if not agreeing:
        return TORCH
    best = agreeing[0]
    for trial in agreeing[1:]:
        if trial.seconds < (1 - MARGIN) * best.seconds:
            best = trial
    return best.runtime


def _measure(prepared: Prepared, precision: PrecisionChoice) -> list[Trial]:
    """Time every runtime that races; one that fails is left out with a warning."""
    from sr_quant_cli.lowering.samples import sample_pairs
    from sr_quant_cli.metrics import rgb_psnr

    _, lr, hr = sample_pairs(prepared.traits.scale)[0]
    opened: dict[str, Runtime] = {}
    losses = {}
    racing = [entry for entry in runtimes() if entry.races and entry.offers(precision)]
    for name in [entry.name for entry in racing if entry.installed]:
        try:
            opened[name] = open_graph(name, prepared, 1, precision)
            losses[name] = prepared.psnr - rgb_psnr(opened[name](lr), hr)
        except UnsupportedGraphError:
            continue
        except SrqError as error:
            warn(f"{name} is left out here: {error}")
    seconds = _times([opened[name] for name in losses], lr)
    return [
        Trial(name, losses[name], shortest, lr.shape[0] * lr.shape[1])
        for name, shortest in zip(losses, seconds, strict=True)
    ]


def _times(runtimes: list[Runtime], lr: Pixels) -> list[float]:
    """Shortest run of each; they run in turns, so that other load disturbs all of them alike."""
    shortest = [float("inf")] * len(runtimes)
    begun = time.perf_counter()
    for _ in range(_ROUNDS):
        for index, runtime in enumerate(runtimes):
            start = time.perf_counter()
            runtime(lr)
            shortest[index] = min(shortest[index], time.perf_counter() - start)
        if time.perf_counter() - begun > _ENOUGH:
            break
    return shortest
