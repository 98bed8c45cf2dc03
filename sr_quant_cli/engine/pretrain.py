"""What ``srq pretrain`` does: recipe, data, network, loop, model file."""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sr_quant_cli import __version__
from sr_quant_cli.data.photographs import Photographs, find_photographs, is_named_set
from sr_quant_cli.data.store import pack_pairs
from sr_quant_cli.engine.checkpoint import Checkpoints, read
from sr_quant_cli.engine.device import pick_device, pick_precision, set_threads
from sr_quant_cli.engine.distributed import first_of_machine, from_first, process_group, world
from sr_quant_cli.engine.objective import PixelLoss
from sr_quant_cli.engine.rundir import MODEL, RECIPE, locked
from sr_quant_cli.engine.train import CHECKPOINT_FORMAT, Outcome, Trainer
from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.files import replacing
from sr_quant_cli.networks import build, network_names
from sr_quant_cli.networks.base import Network, check_scale
from sr_quant_cli.networks.modelfile import Card, TrainingRun, load_model, save_model
from sr_quant_cli.recipe.load import dump_recipe, load_recipe
from sr_quant_cli.recipe.schema import PretrainRecipe

_MAY_CHANGE = ("train.iters", "train.log_every", "train.checkpoint_every", "validation.every")


@dataclass(frozen=True)
class Request:
    """The options of ``srq pretrain``, as given."""

    network: str
    scale: int | None
    data: str | None
    recipe: str
    overrides: tuple[str, ...] = ()
    run_dir: Path | None = None
    resume: str = "auto"
    init: Path | None = None
    max_time: str | None = None
    device: str = "auto"
    threads: int | None = None
    data_root: Path | None = None
    tensorboard: bool = False


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


def pretrain(request: Request) -> dict[str, Any]:
    """Train, or continue training, and write ``model.safetensors`` into the run folder.

    Returns
    -------
    The report that ``--json`` writes.

    Raises
    ------
    UsageError
        Unknown network, recipe key, data set; or a run folder of another recipe.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    recipe = _resolve(request)
    limit = None if request.max_time is None else parse_duration(request.max_time)
    device = pick_device(request.device)
    set_threads(request.threads)
    if recipe.train.batch % world().size:
        raise UsageError(
            f"train.batch = {recipe.train.batch}: must be a multiple of the {world().size} "
            "processes that share it"
        )
    name = f"{recipe.network.name}-x{recipe.network.scale}"
    run_dir = request.run_dir or Path("runs") / name
    photographs = find_photographs(recipe.data, recipe.network.scale, request.data_root)
    with process_group(device) as here, locked(run_dir) if here.rank == 0 else nullcontext():
        return _train(request, recipe, photographs, run_dir, limit, device)


def _train(
    request: Request,
    recipe: PretrainRecipe,
    photographs: Photographs,
    run_dir: Path,
    limit: float | None,
    device: torch.device,
) -> dict[str, Any]:
    is_first = world().rank == 0
    scale = recipe.network.scale
    checkpoints = Checkpoints(run_dir)
    # The others may not see the run folder: they get what the first process reads.
    state = from_first(_state_to_resume(checkpoints, request.resume, recipe) if is_first else None)
    with first_of_machine():
        train = pack_pairs(photographs.train, scale, progress=True)
        held_out = photographs.validation[: recipe.validation.max_images]
        validation = pack_pairs(held_out, scale)

    torch.manual_seed(recipe.recipe.seed)
    network = build(recipe.network)
    start = _start_from(network, Path(recipe.train.init)) if recipe.train.init else None
    if is_first:
        with replacing(run_dir / RECIPE) as temporary:
            temporary.write_text(dump_recipe(recipe), encoding="utf-8")
    precision = pick_precision(recipe.train.precision, device)
    trainer = Trainer(
        PixelLoss(network, recipe.train),
        recipe,
        train,
        validation,
        run_dir,
        device,
        precision,
        tensorboard=request.tensorboard,
    )
    if state is not None:
        trainer.restore(state)
    processes = f", {world().size} processes" if world().size > 1 else ""
    print(
        f"training {recipe.network.name} x{scale} on {len(train)} photographs of "
        f"{photographs.name}, validated on {len(validation)}; {device}, {precision}{processes}; "
        f"step {trainer.step} of {recipe.train.iters}; {run_dir}",
        flush=True,
    )

    outcome = trainer.run(limit)

    run = TrainingRun(
        task="pretrain",
        steps=outcome.step,
        seconds=round(outcome.seconds, 1),
        device=device.type,
        precision=precision,
        data=photographs.name,
        photographs=len(train),
        started_from=None if start is None else start.name,
        validation_psnr=outcome.validation_psnr,
        recipe=_portable(recipe),
    )
    model = run_dir / MODEL
    if is_first:
        if checkpoints.best_path.is_file():
            trainer.restore(read(checkpoints.best_path))
        card = Card(
            name=f"{recipe.network.name}-x{scale}",
            data=photographs.name,
            training=[*(start.training if start else ()), run],
        )
        save_model(model, trainer.trained, card)
    _announce(outcome, recipe, model)
    return {**run.model_dump(), "complete": outcome.complete, "model": str(model)}


def _resolve(request: Request) -> PretrainRecipe:
    if request.network not in network_names():
        raise unknown("network", request.network, network_names())
    if request.scale is not None:
        check_scale(request.scale)
    if request.resume not in ("auto", "no"):
        raise UsageError(f"--resume {request.resume}: must be auto or no")
    scale = [] if request.scale is None else [f"network.scale={request.scale}"]
    recipe = load_recipe(request.recipe, [*scale, *request.overrides])
    if recipe.network.name != request.network:
        raise UsageError(
            f"recipe {request.recipe} is for {recipe.network.name}, not for {request.network}"
        )
    # Whole paths, so that the recipe in the run folder means the same wherever it is used from.
    photographs = request.data or recipe.data.train
    if not is_named_set(photographs):
        photographs = str(Path(photographs).resolve())
    init = recipe.train.init if request.init is None else str(request.init)
    changes = {
        "data": recipe.data.model_copy(update={"train": photographs}),
        "train": recipe.train.model_copy(update={"init": init and str(Path(init).resolve())}),
    }
    return recipe.model_copy(update=changes)


def _state_to_resume(
    checkpoints: Checkpoints, resume: str, recipe: PretrainRecipe
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
    was, now = _flat(state["recipe"]), _flat(recipe.model_dump(by_alias=True))
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
    return state


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _start_from(network: Network, path: Path) -> Card:
    other, header = load_model(path)
    try:
        network.start_from(other)
    except ValueError as error:
        raise UsageError(f"{path}, to start from, is a different network: {error}") from error
    return header.card.model_copy(update={"name": header.card.name or path.stem})


def _portable(recipe: PretrainRecipe) -> dict[str, Any]:
    """Values of a recipe for a file that others read: paths by their last part."""
    values = recipe.model_dump(by_alias=True)
    values["data"]["train"] = Path(recipe.data.train).name
    values["train"]["init"] = Path(recipe.train.init).name
    return values


def _announce(outcome: Outcome, recipe: PretrainRecipe, model: Path) -> None:
    psnr = (
        "not validated" if outcome.validation_psnr is None else f"{outcome.validation_psnr:.2f} dB"
    )
    print(f"step {outcome.step} of {recipe.train.iters}, best validation {psnr}: {model}")
    if not outcome.complete:
        print("run the same command again to continue")
