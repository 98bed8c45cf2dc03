"""Which runtime runs a model where the user leaves that open."""

import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from sr_quant_cli.errors import FailedError, SrqError
from sr_quant_cli.inference.graph_cache import Prepared, alone, open_graph
from sr_quant_cli.runtimes.base import Pixels, Runtime, RuntimeName
from sr_quant_cli.runtimes.opening import Precision
from sr_quant_cli.system.files import read_sealed, write_sealed
from sr_quant_cli.system.reporting import warn

AGREES = 0.05
"""dB of PSNR, RGB: how much a runtime may lose against the model on the small picture."""

MARGIN = 0.15
"""Share of the time by which another runtime must be faster than the one before it."""

_ROUNDS = 5
_ENOUGH = 4.0
"""Seconds of runs after which no further round begins."""


@dataclass(frozen=True)
class Trial:
    """How a runtime did on the small picture."""

    runtime: RuntimeName
    loss: float
    """dB of PSNR (RGB) less than the model's own"""
    seconds: float
    """the shortest of several runs"""


def choose(prepared: Prepared, precision: Precision) -> RuntimeName:
    """The runtime that is fastest of those as good as the model; else torch.

    Measured once on a small picture, on one thread, and remembered: a machine gives one picture,
    whatever the threads. Processes that ask at once wait for the first one.
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


def _remembered(record: Path) -> RuntimeName | None:
    try:
        runtime: RuntimeName = read_sealed(record)["runtime"]
    except (TypeError, KeyError):
        return None
    return runtime if runtime in get_args(RuntimeName) and find_spec(runtime) else None


def _best(trials: list[Trial]) -> RuntimeName:
    agreeing = [trial for trial in trials if trial.loss <= AGREES]
    if not agreeing:
        return "torch"
    best = agreeing[0]
    for trial in agreeing[1:]:
        if trial.seconds < (1 - MARGIN) * best.seconds:
            best = trial
    return best.runtime


def _measure(prepared: Prepared, precision: Precision) -> list[Trial]:
    """Those that cannot run it on this machine are left out, which is told."""
    from sr_quant_cli.lowering.samples import sample_pairs
    from sr_quant_cli.metrics import rgb_psnr

    _, lr, hr = sample_pairs(prepared.traits.scale)[0]
    names: tuple[RuntimeName, ...] = ("openvino",)
    if precision != "bf16":
        names += ("onnxruntime",)
    runtimes: dict[RuntimeName, Runtime] = {}
    losses = {}
    for name in filter(find_spec, names):
        try:
            runtimes[name] = open_graph(name, prepared, 1, precision)
            losses[name] = prepared.psnr - rgb_psnr(runtimes[name](lr), hr)
        except SrqError as error:
            warn(f"{name} is left out here: {error}")
    seconds = _times([runtimes[name] for name in losses], lr)
    return [
        Trial(name, losses[name], shortest) for name, shortest in zip(losses, seconds, strict=True)
    ]


def _times(runtimes: list[Runtime], lr: Pixels) -> list[float]:
    """The shortest run of each, in turns, so that whatever else runs disturbs them alike."""
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
