"""The work on one cell of a study: make its model, score it, time it."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sr_quant_cli import __version__
from sr_quant_cli.commands import pretrain
from sr_quant_cli.commands.bench_upscale import bench_picture, parse_size
from sr_quant_cli.commands.info import InfoRequest, info
from sr_quant_cli.commands.quantize import plan
from sr_quant_cli.commands.quantize_report import time_graphs
from sr_quant_cli.commands.scoring import model_candidate, score_candidates
from sr_quant_cli.commands.stages import run_stage, stage_folder
from sr_quant_cli.commands.study_plan import Chain
from sr_quant_cli.commands.study_records import CALIBRATIONS, STAGES, Records
from sr_quant_cli.data.benchmark import BenchmarkSet
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.inference.opening import open_model, open_network
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.metrics import get_protocol
from sr_quant_cli.modelfiles.loading import load
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.quant.cost import FLOAT_BITS
from sr_quant_cli.recipe.study import BenchSection, EvaluateSection
from sr_quant_cli.runtimes.registry import AUTO, TORCH, get_runtime
from sr_quant_cli.system.device import set_threads
from sr_quant_cli.system.files import finite
from sr_quant_cli.system.processor import processor_name
from sr_quant_cli.training.run import TrainingOptions, TrainingResult
from sr_quant_cli.training.run_folder import read_log


@dataclass(frozen=True)
class Task:
    """Work for one process.

    Attributes
    ----------
    name
        Name of the cell, or of the stage.
    chain
        Trainings that lead to the model.
    parts
        Parts of the record to make; empty: the model of a stage, which has no record.
    fingerprints
        Fingerprints of these parts.
    sets
        Benchmark sets to score on.
    minutes
        Longest training; None: without limit.
    """

    name: str
    chain: Chain
    parts: tuple[str, ...]
    fingerprints: Mapping[str, str]
    sets: tuple[BenchmarkSet, ...]
    evaluate: EvaluateSection
    bench: BenchSection | None
    minutes: float | None
    options: TrainingOptions


def work(task: Task, out: Path) -> None:
    """Do a task, and record every part of it as soon as it is done.

    Raises
    ------
    UsageError
        The cell is not possible.
    FailedError
        Training diverged, or something cannot be written.
    """
    set_threads(task.options.threads)
    records = Records(out)
    if not task.parts:
        _made(task, out)
        return
    if "model" in task.parts:
        _note(records, task, "model", _model(task, out))
    file = out / records.read(task.name)["model"]["file"]
    if "scores" in task.parts:
        _note(records, task, "scores", {"sets": _scores(task, file)})
    if "times" in task.parts:
        _note(records, task, "times", _times(task, file))


def _note(records: Records, task: Task, part: str, values: Mapping[str, Any]) -> None:
    record = records.read(task.name)
    record.pop("failed", None)
    fingerprint = {"fingerprint": task.fingerprints[part], "version": __version__}
    records.write(task.name, {**record, part: {**fingerprint, **finite(values)}})


def _model(task: Task, out: Path) -> dict[str, Any]:
    begun = time.monotonic()
    if task.chain.is_given:
        assert isinstance(task.chain.start, Path)
        file, run = task.chain.start, {"steps": 0, "complete": True, "seconds": 0.0}
    else:
        made = _made(task, out)
        file = made.model
        seconds = max(time.monotonic() - begun, made.run.seconds)
        run = {"steps": made.run.steps, "complete": made.complete, "seconds": round(seconds, 1)}
    found = info(InfoRequest(str(file)))
    counted = found.quantization
    bitops = (
        2.0 * found.macs_counted * FLOAT_BITS * FLOAT_BITS
        if counted is None
        else counted.bitops_counted
    )
    return {**run, "bytes": found.bytes, "bitops": bitops, "file": _from(out, file)}


def _from(folder: Path, file: Path) -> str:
    """Path of a file from a folder, so that both can move; the whole one on another drive."""
    try:
        return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return str(file)


def _made(task: Task, out: Path) -> TrainingResult:
    """Make a model with all stages that are not there yet; only the last one is cut short."""
    options, store = task.options, out / STAGES
    model, made = task.chain.start, None
    if not isinstance(model, Path):
        made = run_stage(pretrain.plan(model), options, store)
        model = made.model
    for index, request in enumerate(task.chain.requests, start=1):
        job = plan(request, model, out / CALIBRATIONS)
        if task.minutes is not None and index == len(task.chain.requests):
            log = read_log(stage_folder(job, options, store))
            spent = log[-1]["seconds"] if log else 0.0
            options = replace(options, max_time=max(60 * task.minutes - spent, 1e-3))
        made = run_stage(job, options, store)
        model = made.model
    assert made is not None
    return made


def _scores(task: Task, file: Path) -> list[dict[str, Any]]:
    protocol = get_protocol(task.evaluate.protocol)
    options = RunOptions(
        runtime=TORCH,
        device=task.options.device,
        precision="fp32",
        threads=task.options.threads,
        patches=Patches() if task.evaluate.patchwise else None,
    )
    source = identify(str(file))
    upscaler: Upscaler
    if task.evaluate.kernels:
        upscaler = open_network(load(source)[0], task.name, replace(options, runtime=AUTO))
    else:
        upscaler = open_model(source, options)
    results = score_candidates([model_candidate(upscaler)], task.sets, protocol)
    return [
        {
            "bench": result.bench,
            "protocol": protocol.name,
            "images": len(result.pictures),
            "runtime": result.runtime,
            "psnr": round(result.psnr, 4),
            "ssim": round(result.ssim, 5),
            "fab": None if result.cost is None else round(result.cost.fab, 4),
        }
        for result in results
    ]


def _times(task: Task, file: Path) -> dict[str, Any]:
    bench = task.bench
    assert bench is not None
    network, _ = load(identify(str(file)))
    kind = "float" if network.quantization is None else "quantized"
    graphs = [(network, kind, [get_runtime(name) for name in bench.runtimes])]
    picture = bench_picture(*parse_size(bench.size))
    times: Sequence[Any] = [
        {
            "runtime": each.runtime,
            "ms": None if each.ms is None else round(each.ms, 3),
            **({"problem": each.problem} if each.problem else {}),
        }
        for each in time_graphs(graphs, picture, bench.runs, bench.threads)
    ]
    return {
        "size": bench.size,
        "threads": bench.threads,
        "processor": processor_name(),
        "runtimes": times,
    }
