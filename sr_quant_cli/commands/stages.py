"""From what ``srq quantize`` is told to the model that it starts from, and the recipe.

Some methods start from a network that another one quantized. Where none is given, it is made first,
by the recipes that ``[before]`` names, each stage in a folder of its own below the run folder: it
resumes, and its model serves for other runs.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.commands import pretrain
from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import method_names
from sr_quant_cli.methods.base import Method
from sr_quant_cli.modelfiles.modelfile import Header, is_packed
from sr_quant_cli.modelfiles.named import (
    MODEL,
    full_precision_model,
    is_model_file,
    load_any,
    model_file,
)
from sr_quant_cli.networks import build, config_class
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, TENSORS, Operands, Placement
from sr_quant_cli.recipe.load import (
    Change,
    load_recipe,
    options_as_changes,
    origin_of,
    parse_changes,
    recipe_names,
    validate_recipe,
)
from sr_quant_cli.recipe.schema import (
    MOST_STEPS,
    PretrainRecipe,
    QuantizeRecipe,
    TrainingRecipe,
)
from sr_quant_cli.training.run import Options, locate, parse_duration
from sr_quant_cli.training.run_folder import TRAINABLE, check_free

_OF_ALL_STAGES = (
    "data.",
    "validation.",
    "train.batch",
    "train.precision",
    "train.log_every",
    "train.checkpoint_every",
)
"""Overrides that reach the stages before; those of calibration the ones that have it."""


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of ``srq quantize``, as given; None: as the recipe says."""

    model: Path | None = None
    scale: int | None = None
    method: str | None = None
    recipe: str | None = None
    w: int | None = None
    a: int | None = None
    placement: str | None = None
    iters: int | None = None


@dataclass(frozen=True)
class Start:
    """A model to quantize, and how."""

    model: Path
    network: Network
    header: Header
    recipe: QuantizeRecipe
    options: Request
    """what is left of the time, and the rest as given"""


@dataclass(frozen=True)
class Unfinished:
    """A stage that has to go on before the next one can begin."""

    report: dict[str, Any]


Run = Callable[[Request], dict[str, Any]]


def find_start(request: Request, run: Run) -> Start | Unfinished:
    """Open the model that is named, or make it.

    Parameters
    ----------
    run
        Runs the stage that quantizes.

    Raises
    ------
    UsageError
        Unknown method or recipe key, a model that the method does not start from.
    FailedError
        A stage failed.
    """
    origin = _origin(request)
    model = request.model or _embedded(origin, request.scale)
    if model is None:
        recipe = _with_options(origin, request)
        folder = _run_folder(request, recipe) / "pretrain"
        begun = time.monotonic()
        report = pretrain.pretrain(_pretrain_stage(request, recipe, folder))
        if not report["complete"]:
            return Unfinished(report)
        model, request = folder / MODEL, _less_time(request, begun)
    model = model_file(model)
    network, header = load_any(model, request.scale)
    recipe = _resolve(request, header, model)
    method = build_method(recipe.method)
    try:
        method.check(Bits(recipe.bits.w, recipe.bits.a))
    except ValueError as error:
        raise UsageError(f"{recipe.method.name}: {error}") from error
    needed = method.starts_from
    before = None if header.quantization is None else str(header.quantization.method["name"])
    if needed and before is None:
        folder = _run_folder(request, recipe) / needed
        begun = time.monotonic()
        report = run(_quantize_stage(request, recipe, model, folder))
        if not report["complete"]:
            return Unfinished(report)
        return find_start(
            replace(_less_time(request, begun), model=folder, run_dir=folder.parent), run
        )
    if before != needed:
        wanted = f"a model quantized by {needed}" if needed else "a full-precision model"
        raise UsageError(f"{model} is quantized already, by {before}; start from {wanted}")
    if needed:
        model = trainable_file(model.parent if model.name == MODEL else model)
        network, header = load_any(model)
    return Start(model, network, header, locate(recipe, request, model), request)


def trainable_file(model: Path) -> Path:
    """The file of float weights for a run folder, or for a model file.

    Raises
    ------
    UsageError
        It holds packed codes, which cannot be trained.
    """
    if model.is_dir():
        trainable = model / TRAINABLE
        model = trainable if trainable.is_file() else model_file(model)
    if is_model_file(model) and is_packed(model):
        raise UsageError(
            f"{model} holds packed codes, which cannot be trained; name its run folder or the "
            f"{TRAINABLE} beside it"
        )
    return model


def name_of_run(recipe: QuantizeRecipe) -> str:
    """Name of the run folder and the model."""
    full = "-full" if recipe.sites.placement == "full" else ""
    bits = Bits(recipe.bits.w, recipe.bits.a)
    return f"{recipe.network.name}-x{recipe.network.scale}-{recipe.method.name}-{bits}{full}"


def choose_placement(recipe: QuantizeRecipe, method: Method) -> Placement:
    """Precision of every kind of site: the placement that the recipe names, and its changes.

    Raises
    ------
    UsageError
        The recipe sets a kind of site that the network does not have.
    """
    with torch.device("meta"):
        network = build(recipe.network)
        sites = (fold(network) if recipe.calibration.fold else network).sites()
    known = dict.fromkeys(site.kind for site in sites)
    for kind in recipe.sites.changes():
        if kind not in known:
            raise UsageError(
                f"sites.{kind}: {recipe.network.name} has no such site; it has {', '.join(known)}"
            )
    named = FULL if recipe.sites.placement == "full" else method.paper_placement()
    return recipe.sites.change(named)


def builtin_recipe(task: str, network: str) -> str:
    """Name that the recipe of a task or method has for a network, or for its nearest base with one.

    >>> builtin_recipe("quantsr", "quantsr_c"), builtin_recipe("pams", "quantsr_c")
    ('quantsr-quantsr_c', 'pams-edsr')
    """
    names = [f"{task}-{name}" for name in _with_bases(network)]
    return next((name for name in names if name in recipe_names()), names[0])


def _with_bases(network: str) -> list[str]:
    """A network, its base, the base of that."""
    other = config_class(network).recipes_from
    return [network, *(_with_bases(other) if other else [])]


def default_recipe(method: str, network: dict[str, Any]) -> str:
    """Name of the built-in recipe of a method for a network.

    Raises
    ------
    UsageError
        There is no such method, or none for this network.
    """
    if method not in method_names():
        raise unknown("method", method, method_names())
    name = builtin_recipe(method, network["name"])
    if network.get("n_feats", 0) > 64 and f"{name}-full" in recipe_names():
        return f"{name}-full"
    if name not in recipe_names():
        own = [n for n in recipe_names() if n.startswith(f"{method}-")]
        there = own or [n for n in recipe_names() if n.endswith(f"-{network['name']}")]
        raise UsageError(
            f"no recipe of {method} for {network['name']}: copy {' or '.join(there) or 'another'} "
            "with 'srq recipes copy', change it, and name it with --recipe"
        )
    return name


def _origin(request: Request) -> str:
    if request.recipe is not None:
        return request.recipe
    if request.method is None:
        raise UsageError(f"--method or --recipe is needed; methods: {', '.join(method_names())}")
    if request.method not in method_names():
        raise unknown("method", request.method, method_names())
    return builtin_recipe(request.method, "edsr")


def _embedded(origin: str, scale: int | None) -> Path | None:
    """The embedded model, where it is what the recipe is for, or there is no recipe to make one."""
    network = "edsr"
    if origin in recipe_names() or Path(origin).is_file():
        recipe = load_recipe(origin, (), QuantizeRecipe)
        if recipe.before.pretrain:
            network = recipe.network.name
            scale = scale or recipe.network.scale
    return full_precision_model(scale or 4) if network == "edsr" else None


def _with_options(origin: str, request: Request) -> QuantizeRecipe:
    return load_recipe(origin, _changes(origin, request), QuantizeRecipe)


def _changes(origin: str, request: Request) -> list[Change]:
    """What the options change, then what is set."""
    changes = options_as_changes({"bits.w": ("--w", request.w), "bits.a": ("--a", request.a)})
    if request.placement is not None:
        written = load_recipe(origin, (), QuantizeRecipe).sites.placement
        if request.placement != written:
            # What else is written in the section changes the other placement.
            sites = {"placement": request.placement}
            changes.append(Change("sites", sites, f"--placement {request.placement}"))
    return [*changes, *parse_changes(request.overrides)]


def _run_folder(request: Request, recipe: QuantizeRecipe) -> Path:
    folder = request.run_dir or Path("runs") / name_of_run(recipe)
    check_free(folder)  # before hours in a folder below it
    return folder


def _shortened(origin: str, kind: type[TrainingRecipe], factor: float) -> tuple[Change, ...]:
    """Changes that make a stage as much shorter than published as the one it is made for."""
    recipe = load_recipe(origin, (), kind)
    values = recipe.model_dump(by_alias=True)
    scale_schedule(values, max(round(recipe.train.iters * factor), 1))
    schedule = {f"schedule.{key}": values["schedule"][key] for key in ("every", "warmup", "at")}
    return _set({"train.iters": values["train"]["iters"], **schedule})


def _set(values: Mapping[str, Any]) -> tuple[Change, ...]:
    """Changes that a stage makes of its own accord."""
    return tuple(Change(key, value, f"{key} = {value}") for key, value in values.items())


def _factor(request: Request, recipe: QuantizeRecipe) -> float:
    origin = request.recipe or default_recipe(recipe.method.name, recipe.network.model_dump())
    published = load_recipe(origin, (), QuantizeRecipe).train.iters
    iters = recipe.train.iters if request.iters is None else request.iters
    return iters / published if published else 1.0


def _shared(request: Request, *more: str) -> tuple[Change, ...]:
    shared = (*_OF_ALL_STAGES, *more)
    return tuple(c for c in parse_changes(request.overrides) if c.key.startswith(shared))


def _options(request: Request, folder: Path) -> dict[str, Any]:
    names = ("data", "resume", "max_time", "device", "threads", "data_root", "tensorboard")
    return {name: getattr(request, name) for name in names} | {"run_dir": folder}


def _pretrain_stage(request: Request, recipe: QuantizeRecipe, folder: Path) -> pretrain.Request:
    origin = recipe.before.pretrain
    short = _shortened(origin, PretrainRecipe, _factor(request, recipe))
    hyper = recipe.network.model_dump(exclude={"name", "scale"})
    network = _set({f"network.{key}": value for key, value in hyper.items()})
    return pretrain.Request(
        network=recipe.network.name,
        recipe=origin,
        scale=request.scale or recipe.network.scale,
        overrides=(*short, *network, *_shared(request)),
        **_options(request, folder),
    )


def _quantize_stage(request: Request, recipe: QuantizeRecipe, model: Path, folder: Path) -> Request:
    before = recipe.before
    if not before.quantize:
        needed = build_method(recipe.method).starts_from
        raise UsageError(
            f"{recipe.method.name} starts from a model quantized by {needed}; name one, or the "
            "recipe that makes it as before.quantize"
        )
    short = _shortened(before.quantize, QuantizeRecipe, _factor(request, recipe))
    method = build_method(recipe.method)
    theirs = build_method(load_recipe(before.quantize, (), QuantizeRecipe).method)
    if theirs.config.name != method.starts_from:
        raise UsageError(
            f"before.quantize = {before.quantize}: is for {theirs.config.name}; "
            f"{recipe.method.name} starts from {method.starts_from}"
        )
    ours = choose_placement(recipe, method)
    with torch.device("meta"):
        kinds = {site.kind for site in build(recipe.network).sites()}
    # The same operands are quantized, no others.
    sites = {}
    for kind in (*ours, *theirs.paper_placement()):
        if kind in kinds:
            wanted = ours.get(kind, Operands())
            weight = {} if kind in (*TENSORS, "matmul") else {"weight": wanted.weight}
            sites[f"sites.{kind}"] = {"input": wanted.input, **weight}
    return Request(
        model=model,
        recipe=before.quantize,
        w=before.w,
        a=before.a,
        placement=recipe.sites.placement,
        scale=request.scale,
        overrides=(*short, *_set(sites), *_shared(request, "calibration.")),
        **_options(request, folder),
    )


def _less_time(request: Request, begun: float) -> Request:
    """The options for the next stage: what is left of ``--max-time``, at least a second."""
    if request.max_time is None:
        return request
    left = parse_duration(request.max_time) - (time.monotonic() - begun)
    return replace(request, max_time=f"{max(left, 1):.1f}s")


def _resolve(request: Request, header: Header, model: Path) -> QuantizeRecipe:
    origin = request.recipe or default_recipe(str(request.method), header.network)
    changes = _changes(origin, request)
    recipe = load_recipe(origin, changes, QuantizeRecipe)
    if request.method not in (None, recipe.method.name):
        raise UsageError(f"recipe {origin} is for {recipe.method.name}, not for {request.method}")
    network = header.network["name"]
    if recipe.network.name not in _with_bases(network):
        raise UsageError(f"recipe {origin} is for {recipe.network.name}; {model} is {network}")
    values = recipe.model_dump(by_alias=True)
    if not any(change.key == "data.patch_hr" for change in changes):
        values["data"]["patch_hr"] = recipe.patch_at(header.network["scale"])
    values["network"] = header.network
    if request.iters is not None:
        scale_schedule(values, request.iters)
    resolved = validate_recipe(values, origin_of(origin), changes)
    assert isinstance(resolved, QuantizeRecipe)
    return resolved


def scale_schedule(values: dict[str, Any], iters: int) -> None:
    """Shorten or lengthen a recipe, its schedule and its checks in proportion."""
    if not 0 <= iters <= MOST_STEPS:
        raise UsageError(f"--iters {iters}: must be 0 to {MOST_STEPS}")
    published = values["train"]["iters"]
    if published and iters:
        schedule, factor = values["schedule"], iters / published
        for key in ("every", "warmup"):
            schedule[key] = max(round(schedule[key] * factor), min(schedule[key], 1))
        schedule["at"] = [max(round(step * factor), 1) for step in schedule["at"]]
    values["train"]["iters"] = iters
