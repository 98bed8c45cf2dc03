"""The recipe of a quantization, from the options of ``srq quantize`` and the network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sr_quant_cli.commands.calibrate import choose_placement
from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.methods import REGISTRY as METHODS
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import method_names
from sr_quant_cli.modelfiles.named import Named
from sr_quant_cli.networks import REGISTRY as NETWORKS
from sr_quant_cli.networks import config_class
from sr_quant_cli.passes.apply import check_levels
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.load import (
    Change,
    load_recipe,
    options_as_changes,
    origin_of,
    parse_changes,
    validate_recipe,
)
from sr_quant_cli.recipe.schema import ANY, MOST_STEPS, QuantizeRecipe, TrainingRecipe
from sr_quant_cli.recipe.texts import has_recipe, recipe_names
from sr_quant_cli.training.run import TrainingOptions

DEPLOY = "deploy"
"""Recipe for all networks, and start of the names of those for single ones."""

R = TypeVar("R", bound=TrainingRecipe)


@dataclass(frozen=True, kw_only=True)
class QuantizeRequest(TrainingOptions):
    """Options of ``srq quantize``; None keeps the value of the recipe.

    Parameters
    ----------
    model
        Model or run folder to start from; None: the embedded model, or one that is trained first.
    scale
        Scale that the model must have.
    recipe
        Name or file of the recipe; None: the one of ``method`` for the network, or without a method
        the one for deployment.
    w, a
        Bits of weights and activations, or levels as ``29L``.
    placement
        ``paper`` or ``full``.
    iters
        Training steps, to which the schedule is scaled.
    max_drop
        Largest drop of PSNR by the calibration, dB: sites that lose most keep higher precision.
    report
        Measure the finished model for deployment.
    """

    model: Named | None = None
    scale: int | None = None
    method: str | None = None
    recipe: str | None = None
    w: int | str | None = None
    a: int | str | None = None
    placement: str | None = None
    iters: int | None = None
    max_drop: float | None = None
    report: bool | None = None


def resolve(request: QuantizeRequest, network: Mapping[str, Any], name: str) -> QuantizeRecipe:
    """Build the recipe that a request asks for, and check it.

    Parameters
    ----------
    network
        Configuration of the network to quantize.
    name
        Name of its model, for messages.

    Raises
    ------
    UsageError
        Unknown method, recipe or key; a recipe for another method or network; bits or sites that
        the method or the network does not have.
    """
    origin = request.recipe or default_recipe(request.method, network)
    changes = changes_of(request, origin)
    recipe = load_recipe(origin, changes, QuantizeRecipe)
    if request.method not in (None, recipe.method.name):
        raise UsageError(f"recipe {origin} is for {recipe.method.name}, not for {request.method}")
    if recipe.network.name not in (ANY, *_with_bases(network["name"])):
        raise UsageError(
            f"recipe {origin} is for {recipe.network.name}; {name} is {network['name']}"
        )
    resolved = fit(recipe, network, request.iters, origin, changes)
    method, bits = build_method(resolved.method), Bits(resolved.bits.w, resolved.bits.a)
    placement = choose_placement(resolved, method)
    try:
        method.check(bits)
        own = (w for operands in placement.values() for w in (operands.input, operands.weight))
        check_levels(method, (bits.w, bits.a, *own))
    except ValueError as error:
        raise UsageError(f"{resolved.method.name}: {error}") from error
    return resolved


def fit(
    recipe: R,
    network: Mapping[str, Any],
    iters: int | None,
    origin: str,
    changes: Sequence[Change],
) -> R:
    """Put a network into a recipe, with patches for its scale, and scale the schedule to ``iters``.

    Parameters
    ----------
    network
        Its configuration.
    iters
        Training steps; None: those of the recipe.
    origin
        Name or file of the recipe.
    changes
        Changes that were made to it; a patch that is among them stays.

    Raises
    ------
    UsageError
        The result is no valid recipe.
    """
    values = recipe.model_dump(by_alias=True)
    if not any(change.key == "data.patch_hr" for change in changes):
        values["data"]["patch_hr"] = recipe.patch_at(network["scale"])
    values["network"] = dict(network)
    if iters is not None:
        scale_schedule(values, iters)
    fitted = validate_recipe(values, origin_of(origin), changes)
    assert isinstance(fitted, type(recipe))
    return fitted


def requested_recipe(request: QuantizeRequest) -> str:
    """Name of the recipe that a request asks for, before its network is known.

    Raises
    ------
    UsageError
        There is no such method.
    """
    if request.recipe is not None:
        return request.recipe
    if request.method is None:
        return DEPLOY
    if request.method not in METHODS:
        raise unknown("method", request.method, method_names())
    return builtin_recipe(request.method, "edsr")


def changes_of(request: QuantizeRequest, origin: str) -> list[Change]:
    """List the changes that the options make to the recipe ``origin``, in order."""
    changes = options_as_changes({"bits.w": ("w", request.w), "bits.a": ("a", request.a)})
    if request.placement is not None:
        written = load_recipe(origin, (), QuantizeRecipe).sites.placement
        if request.placement != written:
            # The rest of the section belongs to the placement that is written there.
            sites = {"placement": request.placement}
            changes.append(Change.of("sites", sites, "placement", request.placement))
    return [*changes, *parse_changes(request.overrides)]


def run_name(recipe: QuantizeRecipe, model: str) -> str:
    """Name of the run folder and of the quantized model.

    Parameters
    ----------
    model
        Name of the model that is quantized; it stands for a network that has no name of its own.
    """
    full = "-full" if recipe.sites.placement == "full" else ""
    bits, network = Bits(recipe.bits.w, recipe.bits.a), recipe.network
    name = f"{network.name}-x{network.scale}"
    if network.name == ANY or network.name in NETWORKS.unlisted:
        name = re.sub(r"[^\w.-]+", "-", model).strip("-.") or name
    return f"{name}-{recipe.method.name}-{bits}{full}"


def default_recipe(method: str | None, network: Mapping[str, Any]) -> str:
    """Name of the built-in recipe of a method for a network.

    Without a method it is the one for deployment: the network's own, or the one for all networks.

    Raises
    ------
    UsageError
        There is no such method, or none for this network.
    """
    if method is None:
        own = f"{DEPLOY}-{network['name']}"
        return own if has_recipe(own) else DEPLOY
    if method not in METHODS:
        raise unknown("method", method, method_names())
    name = builtin_recipe(method, network["name"])
    if network.get("n_feats", 0) > 64 and has_recipe(f"{name}-full"):
        return f"{name}-full"
    if not has_recipe(name):
        there = [n for n in recipe_names() if n.startswith(f"{method}-")]
        there = there or [n for n in recipe_names() if n.endswith(f"-{network['name']}")]
        raise UsageError(
            f"no recipe of {method} for {network['name']}: copy {' or '.join(there) or 'another'} "
            "with 'srq recipes copy', change it, and name it with `recipe`"
        )
    return name


def builtin_recipe(task: str, network: str) -> str:
    """Name of the recipe of a task or method for a network, or for its nearest base with one.

    >>> builtin_recipe("quantsr", "quantsr_c"), builtin_recipe("pams", "quantsr_c")
    ('quantsr-quantsr_c', 'pams-edsr')
    """
    names = [f"{task}-{name}" for name in _with_bases(network)]
    return next(filter(has_recipe, names), names[0])


def scale_schedule(values: dict[str, Any], iters: int) -> None:
    """Set the steps of a recipe, and scale its schedule in proportion.

    Raises
    ------
    UsageError
        There are too few or too many steps.
    """
    if not 0 <= iters <= MOST_STEPS:
        raise UsageError(f"must be 0 to {MOST_STEPS}", field="iters", value=iters)
    published = values["train"]["iters"]
    if published and iters:
        schedule, factor = values["schedule"], iters / published
        for key in ("every", "warmup"):
            schedule[key] = max(round(schedule[key] * factor), min(schedule[key], 1))
        schedule["at"] = [max(round(step * factor), 1) for step in schedule["at"]]
    values["train"]["iters"] = iters


def _with_bases(network: str) -> list[str]:
    """List a network, its base, and the bases of that."""
    other = config_class(network).recipes_from
    return [network, *(_with_bases(other) if other else [])]
