"""One training, whatever is trained: from its recipe to its model file."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from sr_quant_cli import __version__
from sr_quant_cli.data.photographs import Photographs, find_photographs, is_named_set
from sr_quant_cli.data.store import PairStore, pack_pairs
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.modelfiles.card import Card, TrainingRun
from sr_quant_cli.modelfiles.modelfile import read_header
from sr_quant_cli.modelfiles.named import MODEL, RECIPE, Named, identify
from sr_quant_cli.networks.base import Network
from sr_quant_cli.recipe.load import Change, dump_recipe, flat, load_recipe, validate_recipe
from sr_quant_cli.recipe.schema import DistillRecipe, TrainingRecipe
from sr_quant_cli.system.choices import TrackerName
from sr_quant_cli.system.device import keep_freed_memory, pick_device, pick_precision, set_threads
from sr_quant_cli.system.files import finite, replacing
from sr_quant_cli.system.processes import first_of_machine, from_first, process_group, world
from sr_quant_cli.system.reporting import result
from sr_quant_cli.training.checkpoint import Checkpoints, DamagedError, read
from sr_quant_cli.training.loop import CHECKPOINT_FORMAT, Trainer
from sr_quant_cli.training.objective import Objective
from sr_quant_cli.training.run_folder import CHECKPOINTS, check_free, locked

_MAY_CHANGE = (
    "train.iters",
    "train.log_every",
    "train.checkpoint_every",
    "validation.every",
    "validation.report",
)
"""Fields that may change when a run goes on."""
_MAY_MOVE = ("data.train", "train.init")
"""Paths in the recipe of a stage, whose folder is named by a hash of what lies there."""

_AGAIN = "run the same command again to continue"
_FROM_START = "nothing was kept yet: run the same command again to start over"

R = TypeVar("R", bound=TrainingRecipe)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options that all training commands share.

    Parameters
    ----------
    data
        Folder or name of the training photographs; None: the recipe's.
    overrides
        Changes of recipe fields, also as texts ``key=value``.
    run_dir
        Run folder; None: below ``runs``, by the name of the run.
    resume
        ``auto`` goes on with a run that is there, ``no`` refuses to.
    max_time
        Seconds after which training is saved and stopped.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads
        CPU threads; None: one for each core.
    data_root
        Folder of the data sets; None: ``SRQ_DATA``, else ``./datasets``.
    trackers
        Names of trackers that get the values of the log.
    """

    data: str | None = None
    overrides: tuple[Change | str, ...] = ()
    run_dir: Path | None = None
    resume: str = "auto"
    max_time: float | None = None
    device: str = "auto"
    threads: int | None = None
    data_root: Path | None = None
    trackers: tuple[TrackerName, ...] = ()


@dataclass(frozen=True)
class Start:
    """The model whose weights a training starts from."""

    network: Network
    card: Card


@dataclass(frozen=True)
class TrainingJob(Generic[R]):
    """One training, ready to run.

    Parameters
    ----------
    name
        Name of the run folder and the model.
    objective
        Makes what is trained, from the training pairs and for a device; the last argument is True
        if a checkpoint replaces its state, so that no calibration is needed.
    save
        Writes the model file.
    start
        None: training starts from fresh weights.
    """

    recipe: R
    name: str
    objective: Callable[[PairStore, torch.device, bool], Objective]
    save: Callable[[Path, Network, Card], None]
    start: Start | None


@dataclass(frozen=True)
class TrainingResult:
    """State of a training when its command ends."""

    run: TrainingRun
    complete: bool
    """all steps of the recipe are done"""
    model: Path

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {**self.run.model_dump(), "complete": self.complete, "model": str(self.model)}


def locate(recipe: R, options: TrainingOptions, init: Named | None) -> R:
    """Put the photographs and the start model of a training into its recipe.

    Paths become absolute, so that the recipe in the run folder works from everywhere.
    """
    photographs = options.data or recipe.data.train
    if not is_named_set(photographs):
        photographs = str(Path(photographs).resolve())
    start = recipe.train.init if init is None else str(init)
    start = start and str(identify(start).path.resolve())
    changes = {
        "data": recipe.data.model_copy(update={"train": photographs}),
        "train": recipe.train.model_copy(update={"init": start}),
    }
    return recipe.model_copy(update=changes)


def photographs_of(recipe: TrainingRecipe, data_root: Path | None) -> Photographs:
    """Find the photographs that a recipe names; see ``find_photographs``."""
    data = recipe.data
    return find_photographs(
        data.train, recipe.network.scale, validation=data.validation, lr=data.lr, root=data_root
    )


def run_job(
    job: TrainingJob[R], options: TrainingOptions, *, shared: bool = False
) -> TrainingResult:
    """Train, or continue training, and write ``model.safetensors`` into the run folder.

    Parameters
    ----------
    shared
        The run folder belongs to all runs that need its model: one that is complete is used as it
        is, and one that another run is writing is waited for.

    Raises
    ------
    UsageError
        Unknown device or data set, or a run folder of another recipe.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    if options.resume not in ("auto", "no"):
        raise UsageError("must be auto or no", field="resume", value=options.resume)
    recipe = job.recipe
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
    photographs = photographs_of(recipe, options.data_root)
    limit = options.max_time
    patience = (float("inf") if limit is None else limit) if shared else 0.0
    with process_group(device):
        found = _complete_model(run_dir, recipe) if shared else None
        if found is not None:
            return found
        begun = time.monotonic()
        with locked(run_dir, patience):
            found = _complete_model(run_dir, recipe) if shared else None
            if found is not None:
                return found
            left = None if limit is None else limit - (time.monotonic() - begun)
            with advice_on_stop(run_dir):
                ended = _run(job, options, photographs, run_dir, left, device, moved=shared)
            return from_first(ended)  # the others wait until the model is written


@contextmanager
def advice_on_stop(run_dir: Path) -> Iterator[None]:
    """Say how to go on with a run if the user stops what is in the context."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        result(_AGAIN if any(run_dir.glob(CHECKPOINTS)) else _FROM_START)
        raise


def _run(
    job: TrainingJob[R],
    options: TrainingOptions,
    photographs: Photographs,
    run_dir: Path,
    limit: float | None,
    device: torch.device,
    *,
    moved: bool,
) -> TrainingResult:
    recipe, is_first = job.recipe, world().rank == 0
    scale = recipe.network.scale
    checkpoints = Checkpoints(run_dir)
    # Other ranks may not see the run folder: they get what rank 0 reads.
    may_change = (*_MAY_CHANGE, *_MAY_MOVE) if moved else _MAY_CHANGE
    state = None
    if is_first:
        state = _state_to_resume(checkpoints, options.resume, recipe, may_change)
    state = from_first(state)
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
        recipe,
        objective,
        train,
        validation,
        run_dir,
        device,
        precision,
        trackers=options.trackers,
    )
    if state is not None:
        trainer.restore(state)
    processes = f", {world().size} processes" if world().size > 1 else ""
    result(
        f"{recipe.recipe.task} {job.name} on {len(train)} photographs of {photographs.name} "
        f"({photographs.lr_origin}), validated on {len(validation)}; "
        f"{device}, {precision}{processes}; step {trainer.step} of {recipe.train.iters}; {run_dir}"
    )

    trainer.run(limit)

    run = TrainingRun(
        task=recipe.recipe.task,
        steps=trainer.step,
        seconds=round(trainer.seconds, 1),
        device=device.type,
        precision=precision,
        data=photographs.name,
        photographs=len(train),
        started_from=None if job.start is None else job.start.card.name,
        validation_psnr=finite(trainer.best),
        recipe=portable(recipe),
    )
    ended = TrainingResult(run, trainer.step >= recipe.train.iters, run_dir / MODEL)
    if is_first:
        if checkpoints.best_path.is_file():
            trainer.restore(_best(checkpoints))
        earlier = job.start.card.training if job.start else ()
        card = Card(name=job.name, data=photographs.name, training=[*earlier, run])
        job.save(ended.model, trainer.trained, card)
    _announce(ended, recipe.train.iters)
    return ended


def _complete_model(run_dir: Path, recipe: TrainingRecipe) -> TrainingResult | None:
    """Find the model of a training that is complete, and check that it is of the same recipe."""
    found = None
    model = run_dir / MODEL
    if world().rank == 0 and model.is_file() and (run_dir / RECIPE).is_file():
        run = read_header(model).card.training[-1]
        if run.steps == recipe.train.iters:
            written = load_recipe(str(run_dir / RECIPE))
            _check_same(written, recipe, run_dir, (*_MAY_CHANGE, *_MAY_MOVE))
            found = TrainingResult(run, True, model)
    return from_first(found)


def _best(checkpoints: Checkpoints) -> dict[str, Any]:
    try:
        return read(checkpoints.best_path)
    except DamagedError as error:
        raise FailedError(
            f"{error}; move it away, and the same command takes the newest weights"
        ) from error


def _state_to_resume(
    checkpoints: Checkpoints, resume: str, recipe: TrainingRecipe, may_change: Sequence[str]
) -> dict[str, Any] | None:
    state = checkpoints.newest()
    if state is None:
        return None
    if resume == "no":
        raise UsageError(
            f"{checkpoints.folder} holds a run at step {state['step']}; continue it with "
            "`resume` auto, or choose another folder with `run_dir`"
        )
    if state.get("format") != CHECKPOINT_FORMAT:
        raise UsageError(
            f"{checkpoints.folder} holds checkpoints of another version of srq "
            f"({state.get('version')}, this is {__version__}); choose another folder with `run_dir`"
        )
    # Fields that are newer than the checkpoint have their defaults.
    before = validate_recipe(state["recipe"], f"recipe of {checkpoints.folder}")
    _check_same(before, recipe, checkpoints.folder, may_change)
    checkpoints.set_aside(state["step"])
    return state


def _check_same(
    before: TrainingRecipe, now: TrainingRecipe, run_dir: Path, may_change: Sequence[str]
) -> None:
    """Refuse to go on with a run by another recipe."""
    was, is_now = (flat(recipe.model_dump(by_alias=True)) for recipe in (before, now))
    changed = [
        f"{key} ({was.get(key)!r} -> {is_now.get(key)!r})"
        for key in sorted(was.keys() | is_now.keys())
        if was.get(key) != is_now.get(key) and key not in may_change
    ]
    if changed:
        raise UsageError(
            f"{run_dir} holds a run of another recipe: {', '.join(changed)}; "
            "choose another folder with `run_dir`"
        )


def portable(recipe: TrainingRecipe) -> dict[str, Any]:
    """Values of a recipe for a file that others read: no defaults, only the names of paths."""
    values = recipe.model_dump(by_alias=True, exclude_defaults=True)
    for name in ("network", "method"):
        if name in values:
            values[name]["name"] = getattr(recipe, name).name
    values.setdefault("data", {})["train"] = Path(recipe.data.train).name
    values.setdefault("train", {})["init"] = Path(recipe.train.init).name
    if isinstance(recipe, DistillRecipe):
        values["teacher"]["model"] = Path(recipe.teacher.model).name
    return values


def _announce(ended: TrainingResult, iters: int) -> None:
    psnr, steps = ended.run.validation_psnr, ended.run.steps
    best = "not validated yet" if psnr is None else f"best validation {psnr:.2f} dB"
    done = f"step {steps} of {iters}"
    if steps > iters:
        done = f"done already: step {steps}, asked for are {iters}"
    result(f"{done}, {best}: {ended.model}")
    if not ended.complete:
        result(_AGAIN)
