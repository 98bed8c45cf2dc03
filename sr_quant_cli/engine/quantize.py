"""What ``srq quantize`` does: a full-precision model in, a quantized one out."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.engine.distributed import warn
from sr_quant_cli.engine.objective import Objective, StudentLoss
from sr_quant_cli.engine.session import Job, Options, locate, run_job
from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.inference.models import full_precision_model, load_any
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import method_names
from sr_quant_cli.methods.base import Method
from sr_quant_cli.networks import build, config_class
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.networks.modelfile import Card, Header, save_model
from sr_quant_cli.networks.sites import FULL, Placement
from sr_quant_cli.quant.apply import Bits, of_three_levels, quantize_network
from sr_quant_cli.quant.compensate import compensate
from sr_quant_cli.quant.equalize import equalize
from sr_quant_cli.recipe.load import load_recipe, recipe_names, validate_recipe
from sr_quant_cli.recipe.schema import QuantizeRecipe

TRAINABLE = "trainable.safetensors"
"""Model file beside the packed one in which weights are float, for training to go on."""


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


def quantize(request: Request) -> dict[str, Any]:
    """Calibrate, train where the recipe has steps, and write the quantized model.

    Returns
    -------
    The report that ``--json`` writes.

    Raises
    ------
    UsageError
        Unknown method or recipe key, a model that is quantized already, a combination of method,
        placement and network that quantizes nothing.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    model = request.model or full_precision_model(request.scale or 4)
    loaded, header = load_any(model, request.scale)
    if header.quantization is not None:
        raise UsageError(f"{model} is quantized already; start from a full-precision model")
    recipe = locate(_resolve(request, header, model), request, model)
    method = build_method(recipe.method)
    placement = choose_placement(recipe, method)
    bits = Bits(recipe.bits.w, recipe.bits.a)
    for caution in method.cautions(bits):
        warn(f"{recipe.method.name} at {bits}: {caution}")
    if recipe.train.iters and not method.trains:
        warn(
            f"{recipe.method.name} has no training of its own: {recipe.train.iters} steps train "
            "weights and ranges at the recipe's learning rates"
        )

    def objective(train: PairStore, device: torch.device, resumed: bool) -> Objective:
        teacher = deepcopy(loaded)
        if recipe.depth.includes_lower and not resumed:
            teacher.rank_blocks(calibration_batches(train, recipe))
        if recipe.calibration.fold:
            teacher = fold(teacher)
        if recipe.calibration.equalize:
            with _refused_as("calibration.equalize"):
                equalize(teacher, calibration_batches(train, recipe))
        network = deepcopy(teacher)
        try:
            quantize_network(network, method, placement, bits)
        except ValueError as error:
            raise UsageError(
                f"{recipe.method.name} at the {recipe.sites.placement} placement has no site in "
                f"{recipe.network.name}: {error}; try --placement full"
            ) from error
        if not resumed:
            method.calibrate(network, calibration_batches(train, recipe))
            if recipe.calibration.compensate:
                with _refused_as("calibration.compensate"):
                    compensate(network, teacher, list(calibration_batches(train, recipe)))
            if few := of_three_levels(network):
                warn(
                    f"a symmetric grid has three levels at 2 bits, two after ReLU: {', '.join(few)}"
                )
        learns = needs_teacher(recipe)
        return StudentLoss(network, recipe, method, teacher.place(device) if learns else None)

    def save(path: Path, network: Network, card: Card) -> None:
        save_model(path, network, card)
        save_model(path.with_name(TRAINABLE), network, card, packed=False)

    start = header.card.model_copy(update={"name": header.card.name or model.stem})
    full = "-full" if recipe.sites.placement == "full" else ""
    name = f"{recipe.network.name}-x{recipe.network.scale}-{recipe.method.name}-{bits}{full}"
    return run_job(Job(recipe, name, objective, save, start), request)


@contextmanager
def _refused_as(field: str) -> Iterator[None]:
    """Name the recipe's field that asks for what cannot be done."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{field}: {error}") from error


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


def needs_teacher(recipe: QuantizeRecipe) -> bool:
    """Whether a loss compares with the full-precision model."""
    return recipe.loss.target == "teacher" or recipe.loss.feature != "none"


def builtin_recipe(task: str, network: str) -> str:
    """Name that the recipe of a task or method has for a network, or for one that it is made from.

    >>> builtin_recipe("quantsr", "quantsr_c"), builtin_recipe("pams", "quantsr_c")
    ('quantsr-quantsr_c', 'pams-edsr')
    """
    name, base = f"{task}-{network}", config_class(network).base
    return f"{task}-{base}" if base and name not in recipe_names() else name


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
        made = [n for n in recipe_names() if n.startswith(f"{method}-")]
        raise UsageError(
            f"no recipe of {method} for {network['name']}; there are {', '.join(made)}: "
            "copy one with 'srq recipes copy' and name it with --recipe"
        )
    return name


def _resolve(request: Request, header: Header, model: Path) -> QuantizeRecipe:
    if request.method is None and request.recipe is None:
        raise UsageError(f"--method or --recipe is needed; methods: {', '.join(method_names())}")
    origin = request.recipe or default_recipe(str(request.method), header.network)
    options = {"bits.w": request.w, "bits.a": request.a}
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    if request.placement is not None:
        given.append(f'sites.placement="{request.placement}"')
    recipe = load_recipe(origin, [*given, *request.overrides], QuantizeRecipe)
    if request.method not in (None, recipe.method.name):
        raise UsageError(f"recipe {origin} is for {recipe.method.name}, not for {request.method}")
    network = header.network["name"]
    if recipe.network.name not in (network, config_class(network).base):
        raise UsageError(f"recipe {origin} is for {recipe.network.name}; {model} is {network}")
    values = recipe.model_dump(by_alias=True)
    if not any(override.startswith("data.patch_hr") for override in request.overrides):
        values["data"]["patch_hr"] = recipe.patch_at(header.network["scale"])
    values["network"] = header.network
    if request.iters is not None:
        scale_schedule(values, request.iters)
    resolved = validate_recipe(values, origin)
    assert isinstance(resolved, QuantizeRecipe)
    return resolved


def scale_schedule(values: dict[str, Any], iters: int) -> None:
    """Shorten or lengthen a recipe, its schedule and its checks in proportion."""
    if iters < 0:
        raise UsageError(f"--iters {iters}: must be 0 or more")
    published = values["train"]["iters"]
    if published and iters:
        schedule, factor = values["schedule"], iters / published
        for key in ("every", "warmup"):
            schedule[key] = max(round(schedule[key] * factor), min(schedule[key], 1))
        schedule["at"] = [max(round(step * factor), 1) for step in schedule["at"]]
    values["train"]["iters"] = iters


def calibration_batches(train: PairStore, recipe: QuantizeRecipe) -> Iterator[Tensor]:
    """LR batches ``[N, 3, p, p]``, 0..1, the same on every process."""
    calibration = recipe.calibration
    batch = min(calibration.batch, calibration.images)
    sampler = PatchSampler(
        train,
        seed=recipe.recipe.seed,
        batch=batch,
        patch_hr=calibration.patch_lr * recipe.network.scale,
        augment=(),
    )
    for index in range(-(-calibration.images // batch)):
        lr, _ = sampler.batch(index)
        yield to_tensor(lr, torch.device("cpu"))
