"""A training command from its recipe to its model file, whatever is trained."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from sr_quant_cli import __version__
from sr_quant_cli.data.photographs import Photographs, find_photographs, is_named_set
from sr_quant_cli.data.store import PairStore, pack_pairs
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.modelfiles.modelfile import Card, TrainingRun
from sr_quant_cli.modelfiles.named import MODEL, RECIPE, model_file
from sr_quant_cli.networks.base import Network
from sr_quant_cli.recipe.load import Change, dump_recipe, validate_recipe
from sr_quant_cli.recipe.schema import DistillRecipe, TrainingRecipe
from sr_quant_cli.system.device import keep_freed_memory, pick_device, pick_precision, set_threads
from sr_quant_cli.system.files import finite, replacing
from sr_quant_cli.system.processes import first_of_machine, from_first, process_group, world
from sr_quant_cli.system.reporting import result
from sr_quant_cli.training.checkpoint import Checkpoints, DamagedError, read
from sr_quant_cli.training.loop import CHECKPOINT_FORMAT, Outcome, Trainer
from sr_quant_cli.training.objective import Objective
from sr_quant_cli.training.run_folder import check_free, locked

_MAY_CHANGE = ("train.iters", "train.log_every", "train.checkpoint_every", "validation.every")

R = TypeVar("R", bound=TrainingRecipe)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that all training commands share, as given."""

    data: str | None = None
    overrides: tuple[Change | str, ...] = ()
    run_dir: Path | None = None
    resume: str = "auto"
    max_time: str | None = None
    device: str = "auto"
    threads: int | None = None
    data_root: Path | None = None
    tensorboard: bool = False


@dataclass(frozen=True)
class Job(Generic[R]):
    """What differs between training commands.

    Parameters
    ----------
    name
        Of the run folder and the model.
    objective
        Makes what is trained, from the training pairs and for a device; the last argument tells
        that a checkpoint will replace its state, so that calibration is not needed.
    save
        Writes the model file.
    start
        Card of the model whose weights are the start.
    """

    recipe: R
    name: str
    objective: Callable[[PairStore, torch.device, bool], Objective]
    save: Callable[[Path, Network, Card], None]
    start: Card | None


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``2h`` or ``1h30m``.

    >>> parse_duration("1h30m")
    5400.0

    Raises
    ------
    UsageError
        It is no duration, or zero.
    """
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip())
    try:
        values = [float(part or 0) for part in parts.groups()] if parts else []
    except ValueError:
        values = []
    seconds = sum(value * unit for value, unit in zip(values, (3600, 60, 1), strict=False))
    if not seconds:
        raise UsageError(f"--max-time {text}: must be a duration as 90s, 30m, 2h or 1h30m")
    return seconds


def locate(recipe: R, options: Options, init: Path | None) -> R:
    """Put what the options say of data and start into a recipe.

    Paths become whole, so that the recipe in the run folder means the same wherever it is used.
    """
    photographs = options.data or recipe.data.train
    if not is_named_set(photographs):
        photographs = str(Path(photographs).resolve())
    start = recipe.train.init if init is None else str(init)
    start = start and str(model_file(Path(start)).resolve())
    changes = {
        "data": recipe.data.model_copy(update={"train": photographs}),
        "train": recipe.train.model_copy(update={"init": start}),
    }
    return recipe.model_copy(update=changes)


def run_job(job: Job[R], options: Options) -> dict[str, Any]:
    """Train, or continue training, and write ``model.safetensors`` into the run folder.

    Returns
    -------
    The report that ``--json`` writes.

    Raises
    ------
    UsageError
        Unknown device or data set, or a run folder of another recipe.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    if options.resume not in ("auto", "no"):
        raise UsageError(f"--resume {options.resume}: must be auto or no")
    recipe = job.recipe
    limit = None if options.max_time is None else parse_duration(options.max_time)
    device = pick_device(options.device)
    set_threads(options.threads)
    keep_freed_memory()
    if recipe.train.batch % world().size:
        raise UsageError(
            f"train.batch = {recipe.train.batch}: must be a multiple of the {world().size} "
            "processes that share it"
        )
    run_dir = options.run_dir or Path("runs") / job.name
    check_free(run_dir)
    photographs = find_photographs(
        recipe.data.train,
        recipe.network.scale,
        validation=recipe.data.validation,
        lr=recipe.data.lr,
        root=options.data_root,
    )
    with process_group(device) as here, locked(run_dir) if here.rank == 0 else nullcontext():
        return _run(job, options, photographs, run_dir, limit, device)


def _run(
    job: Job[R],
    options: Options,
    photographs: Photographs,
    run_dir: Path,
    limit: float | None,
    device: torch.device,
) -> dict[str, Any]:
    recipe, is_first = job.recipe, world().rank == 0
    scale = recipe.network.scale
    checkpoints = Checkpoints(run_dir)
    # The others may not see the run folder: they get what the first process reads.
    state = from_first(_state_to_resume(checkpoints, options.resume, recipe) if is_first else None)
    with first_of_machine():
        train = pack_pairs(photographs.train, scale)
        held_out = photographs.validation[: recipe.validation.max_images]
        validation = pack_pairs(held_out, scale)

    torch.manual_seed(recipe.recipe.seed)
    objective = job.objective(train, device, state is not None)
    if is_first:
        with replacing(run_dir / RECIPE) as temporary:
            temporary.write_text(dump_recipe(recipe), encoding="utf-8")
    precision = pick_precision(recipe.train.precision, device)
    trainer = Trainer(
        objective, train, validation, run_dir, device, precision, tensorboard=options.tensorboard
    )
    if state is not None:
        trainer.restore(state)
    processes = f", {world().size} processes" if world().size > 1 else ""
    result(
        f"{recipe.recipe.task} {job.name} on {len(train)} photographs of {photographs.name}, "
        f"validated on {len(validation)}; {device}, {precision}{processes}; "
        f"step {trainer.step} of {recipe.train.iters}; {run_dir}"
    )

    outcome = trainer.run(limit)

    run = TrainingRun(
        task=recipe.recipe.task,
        steps=outcome.step,
        seconds=round(outcome.seconds, 1),
        device=device.type,
        precision=precision,
        data=photographs.name,
        photographs=len(train),
        started_from=None if job.start is None else job.start.name,
        validation_psnr=finite(outcome.validation_psnr),
        recipe=_portable(recipe),
    )
    model = run_dir / MODEL
    if is_first:
        if checkpoints.best_path.is_file():
            trainer.restore(_best(checkpoints))
        card = Card(
            name=job.name,
            data=photographs.name,
            training=[*(job.start.training if job.start else ()), run],
        )
        job.save(model, trainer.trained, card)
    _announce(outcome, recipe, model)
    return {**run.model_dump(), "complete": outcome.complete, "model": str(model)}


def _best(checkpoints: Checkpoints) -> dict[str, Any]:
    try:
        return read(checkpoints.best_path)
    except DamagedError as error:
        raise FailedError(
            f"{error}; move it away, and the same command takes the newest weights"
        ) from error


def _state_to_resume(
    checkpoints: Checkpoints, resume: str, recipe: TrainingRecipe
) -> dict[str, Any] | None:
    state = checkpoints.newest()
    if state is None:
        return None
    if resume == "no":
        raise UsageError(
            f"{checkpoints.folder} holds a run at step {state['step']}; continue it with "
            "--resume auto, or choose another folder with --run"
        )
    if state.get("format") != CHECKPOINT_FORMAT:
        raise UsageError(
            f"{checkpoints.folder} holds checkpoints of another version of srq "
            f"({state.get('version')}, this is {__version__}); choose another folder with --run"
        )
    # Fields that are new since an older version wrote the checkpoint have their defaults.
    before = validate_recipe(state["recipe"], f"recipe of {checkpoints.folder}")
    was, now = (_flat(r.model_dump(by_alias=True)) for r in (before, recipe))
    changed = [
        f"{key} ({was.get(key)!r} -> {now.get(key)!r})"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key) and key not in _MAY_CHANGE
    ]
    if changed:
        raise UsageError(
            f"{checkpoints.folder} holds a run of another recipe: {', '.join(changed)}; "
            "choose another folder with --run"
        )
    checkpoints.set_aside(state["step"])
    return state


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _portable(recipe: TrainingRecipe) -> dict[str, Any]:
    """Values of a recipe for a file that others read: no defaults, paths by their last part."""
    values = recipe.model_dump(by_alias=True, exclude_defaults=True)
    for name in ("network", "method"):
        if name in values:
            values[name]["name"] = getattr(recipe, name).name
    values.setdefault("data", {})["train"] = Path(recipe.data.train).name
    values.setdefault("train", {})["init"] = Path(recipe.train.init).name
    if isinstance(recipe, DistillRecipe):
        values["teacher"]["model"] = Path(recipe.teacher.model).name
    return values


def _announce(outcome: Outcome, recipe: TrainingRecipe, model: Path) -> None:
    psnr = outcome.validation_psnr
    best = "not validated yet" if psnr is None else f"best validation {psnr:.2f} dB"
    done = f"step {outcome.step} of {recipe.train.iters}"
    if outcome.step > recipe.train.iters:
        done = f"done already: step {outcome.step}, asked for are {recipe.train.iters}"
    result(f"{done}, {best}: {model}")
    if not outcome.complete:
        result("run the same command again to continue")
