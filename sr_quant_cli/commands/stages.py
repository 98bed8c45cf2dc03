"""Stages: the trainings before a quantization, kept in one store that all runs share.

Some methods start from a network that another method quantized. If the user names none, the
recipes in ``[before]`` make it. Each stage is a run folder below ``stages``, beside the run
folders, and its name ends in a hash of everything that decides its weights. A run that needs the
same stage takes it from there, or waits until the run that makes it is done.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.commands import pretrain
from sr_quant_cli.commands.calibrate import choose_placement
from sr_quant_cli.commands.quantize_recipe import (
    QuantizeRequest,
    changes_of,
    default_recipe,
    requested_recipe,
    resolve,
    scale_schedule,
)
from sr_quant_cli.data.benchmark import Pair
from sr_quant_cli.data.photographs import Photographs
from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.loading import load, name_of
from sr_quant_cli.modelfiles.modelfile import is_packed
from sr_quant_cli.modelfiles.named import (
    MODEL,
    RECIPE,
    Named,
    Source,
    full_precision_model,
    identify,
)
from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.sites import Kind, Operands, has_weight
from sr_quant_cli.recipe.load import Change, flat, load_recipe, parse_changes
from sr_quant_cli.recipe.schema import PretrainRecipe, QuantizeRecipe, TrainingRecipe
from sr_quant_cli.recipe.sites import quoted
from sr_quant_cli.recipe.texts import has_recipe
from sr_quant_cli.system.reporting import note
from sr_quant_cli.training.loop import CHECKPOINT_FORMAT
from sr_quant_cli.training.run import (
    TrainingJob,
    TrainingOptions,
    TrainingResult,
    photographs_of,
    run_job,
)
from sr_quant_cli.training.run_folder import TRAINABLE

_SHARED = (
    "recipe.seed",
    "data.",
    "validation.",
    "train.batch",
    "train.precision",
    "train.log_every",
    "train.checkpoint_every",
)
"""Overrides that apply to every stage; those of the calibration apply to every quantization."""

_NO_MATTER = ("train.log_every", "train.checkpoint_every")
"""Fields that do not change what a training makes."""

_BY_CONTENT = ("data.train", "train.init")
"""Paths, for which the hash of a stage has what lies there."""


@dataclass(frozen=True)
class Origin:
    """The network that the first quantization starts from.

    Parameters
    ----------
    network, name
        Its configuration, and its name for messages.
    title
        Name of its model.
    model
        Its model, or the training that makes it.
    """

    network: Mapping[str, Any]
    name: str
    title: str
    quantized: bool
    model: Path | TrainingJob[PretrainRecipe]


def find_origin(request: QuantizeRequest) -> Origin:
    """Open the model that a request names, else the embedded one, or plan its training.

    Raises
    ------
    UsageError
        Unknown method, recipe or key, or a model that is not usable.
    """
    recipe = requested_recipe(request)
    model = request.model or _embedded(recipe, request.scale)
    if model is None:
        training = pretrain.plan(_pretrain_stage(request, recipe))
        network = training.recipe.network.model_dump()
        return Origin(network, training.name, training.name, False, training)
    source = identify(model, request.scale)
    _, header = load(source)
    title, quantized = name_of(source, header), header.quantization is not None
    return Origin(header.network, str(source.path), title, quantized, source.path)


def requests_in_order(request: QuantizeRequest, origin: Origin) -> list[QuantizeRequest]:
    """List the quantizations that lead from a network to a request, which is the last one.

    Raises
    ------
    UsageError
        One of them is not possible; see ``resolve``.
    """
    recipe = resolve(request, origin.network, origin.name)
    if origin.quantized or build_method(recipe.method).starts_from is None:
        return [request]
    return [*requests_in_order(_quantize_stage(request, recipe), origin), request]


def run_stage(
    job: TrainingJob[Any], options: TrainingOptions, store: Path, inside: Path | None = None
) -> TrainingResult:
    """Make a stage, go on with it, or take it from the store if it is complete.

    Parameters
    ----------
    store
        Folder of the stages.
    inside
        Folder below the run folder, where earlier versions kept the stage; if it is there, it is
        used. None: there is none.

    Raises
    ------
    UsageError
        See ``run_job``.
    FailedError
        The stage failed, or another run still makes it when the time is up.
    """
    folder = stage_folder(job, options, store)
    if inside is not None and (inside / RECIPE).is_file():
        folder = inside
    steps = job.recipe.train.iters
    note(f"starts from {job.name}, {job.recipe.recipe.task} of {steps} steps, in {folder}")
    job = replace(job, name=folder.name if folder.parent == store else job.name)
    return run_job(job, replace(options, run_dir=folder, resume="auto"), shared=True)


def stage_folder(job: TrainingJob[Any], options: TrainingOptions, store: Path) -> Path:
    """Run folder of a stage in a store.

    Raises
    ------
    UsageError
        There are no photographs.
    """
    start = None if job.start is None else content_hash(job.start.network)
    photographs = photographs_of(job.recipe, options.data_root)
    return store / f"{job.name}-{stage_hash(job.recipe, photographs, start)}"


def stage_hash(recipe: TrainingRecipe, photographs: Photographs, start: str | None) -> str:
    """Hash of everything that decides the weights of a stage.

    These are the resolved recipe, the photographs by their names, sizes and times, and the network
    whose weights are the start, by its content.

    Parameters
    ----------
    start
        Hash of that network; None: fresh weights.
    """
    ignored = (*_NO_MATTER, *_BY_CONTENT)
    fields = flat(recipe.model_dump(by_alias=True))
    identity = [
        CHECKPOINT_FORMAT,
        {key: value for key, value in fields.items() if key not in ignored},
        [files_stated(part) for part in (photographs.train, photographs.validation)],
        start,
    ]
    return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def trainable_file(model: Named) -> Source:
    """Find the file with float weights for a run folder or a model file.

    Raises
    ------
    UsageError
        The file holds packed codes, which cannot be trained.
    """
    source = identify(model)
    trainable = source.path.with_name(TRAINABLE)
    if Path(model).is_dir() and source.path.name == MODEL and trainable.is_file():
        source = identify(trainable)
    if source.is_model_file and is_packed(source.path):
        raise UsageError(
            f"{source.path} holds packed codes, which cannot be trained; name its run folder, the "
            f"{TRAINABLE} beside it, or the checkpoint that it was imported from"
        )
    return source


def content_hash(network: Network) -> str:
    """Hash of a network: configuration, quantization and values, however its file stores them."""
    digest = sha256(repr((network.config, network.quantization)).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def files_stated(pairs: Iterable[Pair]) -> list[list[str | int]]:
    """Names, sizes and times of pictures, by which a change of them is noticed."""
    files = [path for pair in pairs for path in (pair.hr, pair.lr) if path is not None]
    stats = [path.stat() for path in files]
    return [[p.name, s.st_size, s.st_mtime_ns] for p, s in zip(files, stats, strict=True)]


def _embedded(origin: str, scale: int | None) -> Path | None:
    """Embedded model that the recipe ``origin`` starts from; None: one is trained first."""
    network = "edsr"
    if has_recipe(origin) or Path(origin).is_file():
        recipe = load_recipe(origin, (), QuantizeRecipe)
        if recipe.before.pretrain:
            network, scale = recipe.network.name, scale or recipe.network.scale
    return full_precision_model(scale or 4) if network == "edsr" else None


def _pretrain_stage(request: QuantizeRequest, origin: str) -> pretrain.PretrainRequest:
    """Request for the full-precision network that the recipe ``origin`` starts from."""
    recipe = load_recipe(origin, changes_of(request, origin), QuantizeRecipe)
    hyper = recipe.network.model_dump(exclude={"name", "scale"})
    return pretrain.PretrainRequest(
        network=recipe.network.name,
        recipe=recipe.before.pretrain,
        scale=request.scale or recipe.network.scale,
        overrides=(
            *shortened(recipe.before.pretrain, PretrainRecipe, _factor(request, recipe)),
            *_set({f"network.{key}": value for key, value in hyper.items()}),
            *_passed_on(request),
        ),
        **_options(request),
    )


def _quantize_stage(request: QuantizeRequest, recipe: QuantizeRecipe) -> QuantizeRequest:
    """Request for the network that the method of a recipe starts from."""
    before, method = recipe.before, build_method(recipe.method)
    if not before.quantize:
        raise UsageError(
            f"{recipe.method.name} starts from a model quantized by {method.starts_from}; name "
            "one, or the recipe that makes it as before.quantize"
        )
    theirs = build_method(load_recipe(before.quantize, (), QuantizeRecipe).method)
    if theirs.config.name != method.starts_from:
        raise UsageError(
            f"before.quantize = {before.quantize}: is for {theirs.config.name}; "
            f"{recipe.method.name} starts from {method.starts_from}"
        )
    ours = choose_placement(recipe, method)
    with torch.device("meta"):
        kinds: dict[str, Kind] = {}
        for site in build(recipe.network).sites():
            kinds |= {site.path: site.kind, site.kind: site.kind}
    # The same operands are quantized, no others.
    sites = {}
    for name in (*ours, *theirs.paper_placement()):
        if name in kinds:
            wanted = ours.get(name, Operands())
            weight = {"weight": wanted.weight} if has_weight(kinds[name]) else {}
            sites[f"sites.{quoted(name)}"] = {"input": wanted.input, **weight}
    return QuantizeRequest(
        recipe=before.quantize,
        w=before.w,
        a=before.a,
        placement=recipe.sites.placement,
        scale=request.scale,
        overrides=(
            *shortened(before.quantize, QuantizeRecipe, _factor(request, recipe)),
            *_set(sites),
            *_passed_on(request, "calibration."),
        ),
        **_options(request),
    )


def _factor(request: QuantizeRequest, recipe: QuantizeRecipe) -> float:
    """Steps of a request, relative to those of its recipe as published."""
    origin = request.recipe or default_recipe(recipe.method.name, recipe.network.model_dump())
    published = load_recipe(origin, (), QuantizeRecipe).train.iters
    iters = recipe.train.iters if request.iters is None else request.iters
    return iters / published if published else 1.0


def shortened(origin: str, kind: type[TrainingRecipe], factor: float) -> tuple[Change, ...]:
    """Changes that scale the steps and the schedule of a stage."""
    recipe = load_recipe(origin, (), kind)
    values = recipe.model_dump(by_alias=True)
    scale_schedule(values, max(round(recipe.train.iters * factor), 1))
    schedule = {f"schedule.{key}": values["schedule"][key] for key in ("every", "warmup", "at")}
    return _set({"train.iters": values["train"]["iters"], **schedule})


def _set(values: Mapping[str, Any]) -> tuple[Change, ...]:
    """Changes that follow from the run, and not from an option."""
    return tuple(Change(key, value, f"{key} = {value}") for key, value in values.items())


def _passed_on(request: QuantizeRequest, *more: str) -> tuple[Change, ...]:
    """Overrides of a request that apply to its stages, too."""
    shared = (*_SHARED, *more)
    return tuple(c for c in parse_changes(request.overrides) if c.key.startswith(shared))


def _options(request: QuantizeRequest) -> dict[str, Any]:
    names = ("data", "max_time", "device", "threads", "data_root", "trackers")
    return {name: getattr(request, name) for name in names}
