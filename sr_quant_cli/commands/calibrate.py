"""Calibration: a quantized network from a full-precision one, a recipe and a few LR pictures."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_quant_cli.data.degrade import CLEAN, Degradations
from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import PairStore, PictureStore
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods.base import Method
from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.passes.apply import quantize_network, ternary_operands, without_quantizers
from sr_quant_cli.passes.compensate import compensate
from sr_quant_cli.passes.equalize import can_equalize, equalize
from sr_quant_cli.passes.mix import can_mix, mix
from sr_quant_cli.quant.plan import Bits, plan_sites
from sr_quant_cli.quant.sites import FULL, Placement
from sr_quant_cli.recipe.schema import IfPossible, QuantizeRecipe
from sr_quant_cli.system.reporting import progress, warn

_WITH_FLOATS: Placement = {
    kind: replace(FULL[kind], input="fp32")
    for kind in ("act_in", "block_in", "block_out", "body_out", "long_skip")
}
"""In networks with operations in float, such as attention, activation functions and sums read float
as well: OpenVINO computes them before it rounds, in the same time."""

OTHER_COLOUR = 0.1
"""Mean difference of 0..1 from which on a flat picture counts as one of another colour."""


@dataclass(frozen=True)
class TeacherStudent:
    """A quantized network, and the network whose outputs and features it is compared with."""

    teacher: Network
    student: Network


def calibrate(
    network: Network, recipe: QuantizeRecipe, batches: Iterable[Tensor]
) -> TeacherStudent:
    """Quantize a network and find its ranges, without training.

    Parameters
    ----------
    network
        A full-precision network, or one quantized by the method that the recipe's method starts
        from, whose ranges are inherited. It is left unchanged.
    recipe
        Method, bits, sites, and the steps of the calibration.
    batches
        LR pictures ``[N, 3, h, w]``, 0..1, on the CPU.

    Returns
    -------
    The quantized network as ``student``; as ``teacher`` the network it was made from, folded,
    equalized and mixed where the recipe says so.

    Raises
    ------
    UsageError
        The method does not start from such a network, the placement quantizes nothing of it, or a
        step of the calibration is not possible.
    """
    batches = _reproduced(network, batches)
    made = _prepare(network, recipe, batches)
    method = build_method(recipe.method)
    if network.quantization is not None:
        with _named("the network to start from"):
            method.inherit(made.student, made.teacher, batches)
        return made
    with progress(1, "pass", "finding ranges") as bar:
        method.calibrate(made.student, batches)
        bar.update()
    if recipe.calibration.compensate:
        with _step("compensate"):
            compensate(made.student, made.teacher, batches)
    if ternary := ternary_operands(made.student):
        warn(f"a symmetric grid has three levels at 2 bits, two after ReLU: {', '.join(ternary)}")
    return made


def prepare(network: Network, recipe: QuantizeRecipe, batches: Sequence[Tensor]) -> TeacherStudent:
    """Do what ``calibrate`` does up to the point where ranges are found.

    The result has the structure and the teacher of a calibrated network. The state of the student
    may then come from a checkpoint.

    Raises
    ------
    UsageError
        As for ``calibrate``.
    """
    return _prepare(network, recipe, _reproduced(network, batches))


def _prepare(network: Network, recipe: QuantizeRecipe, batches: Sequence[Tensor]) -> TeacherStudent:
    method = build_method(recipe.method)
    check_start("the network", network, method)
    teacher = deepcopy(network)
    if network.quantization is None:
        teacher = _transformed(teacher, recipe, batches)
        student = deepcopy(teacher)
    else:
        student = without_quantizers(teacher)
    try:
        quantize_network(student, method, choose_placement(recipe, method), _bits(recipe))
    except ValueError as error:
        raise UsageError(
            f"{recipe.method.name} at the {recipe.sites.placement} placement has no site in "
            f"{recipe.network.name}: {error}; try `placement` full"
        ) from error
    return TeacherStudent(teacher, student)


def check_start(name: str, network: Network, method: Method) -> None:
    """Refuse a quantized network that a method does not start from.

    Parameters
    ----------
    name
        Name of the network, for the message.

    Raises
    ------
    UsageError
        The network was quantized by another method than ``method.starts_from``.
    """
    if network.quantization is None:
        return
    before, needed = network.quantization.method.name, method.starts_from
    if before != needed:
        wanted = f"a model quantized by {needed}" if needed else "a full-precision model"
        raise UsageError(f"{name} is quantized already, by {before}; start from {wanted}")


def choose_placement(recipe: QuantizeRecipe, method: Method) -> Placement:
    """Build the placement that a recipe names, with its changes.

    Raises
    ------
    UsageError
        The recipe sets a site or a kind of sites that the network does not have.
    """
    with torch.device("meta"):
        network = build(recipe.network)
        sites = (fold(network) if recipe.calibration.fold else network).sites()
    if recipe.sites.placement == "full":
        full = FULL if network.on_codes else FULL | _WITH_FLOATS
        return recipe.sites.change(full, sites)
    named = method.paper_placement()
    if method.config.variant == "code":
        named = recipe.code_sites.change(named, sites)
    return recipe.sites.change(named, sites)


def calibration_batches(train: PairStore, recipe: QuantizeRecipe) -> Iterator[Tensor]:
    """Draw LR batches ``[N, 3, p, p]``, 0..1, from training photographs; the same on every rank.

    Raises
    ------
    UsageError
        A photograph is smaller than a patch.
    """
    return _batches(train, recipe, recipe.degradations)


def picture_batches(
    pictures: Sequence[NDArray[np.uint8]], recipe: QuantizeRecipe
) -> Iterator[Tensor]:
    """Draw the batches of ``calibration_batches`` from LR pictures, uint8 ``[h, w, 3]``.

    Raises
    ------
    UsageError
        A picture is smaller than a patch.
    """
    return _batches(PictureStore(pictures), recipe, CLEAN)


def _batches(
    store: PairStore, recipe: QuantizeRecipe, degradations: Degradations
) -> Iterator[Tensor]:
    calibration = recipe.calibration
    batch = min(calibration.batch, calibration.images)
    sampler = PatchSampler(
        store,
        seed=recipe.recipe.seed,
        batch=batch,
        patch_hr=calibration.patch_lr * store.scale,
        augment=(),
        degradations=degradations,
        advice="lower calibration.patch_lr",
    )
    last = -(-calibration.images // batch) - 1
    for index in range(last + 1):
        pixels, _ = sampler.batch(index)
        lr = to_tensor(pixels, torch.device("cpu"))
        if calibration.colours and index == last:
            # In one batch with photographs: steps that sample values take equally many per batch.
            flat = flat_patches(calibration.patch_lr)
            lr = torch.cat([lr, *[flat] * max(calibration.images // 32, 1)])
        yield lr


def flat_patches(side: int) -> Tensor:
    """Make flat patches ``[9, 3, side, side]``, 0..1: the corners of the RGB cube, and grey.

    Photographs rarely have saturated colours, which would clip if ranges came from them alone.
    """
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    colours = torch.cat([corners, torch.full((1, 3), 0.5)])
    return colours[:, :, None, None].expand(-1, -1, side, side).contiguous()


@torch.no_grad()
def _reproduced(network: Network, batches: Iterable[Tensor]) -> list[Tensor]:
    """Leave out pictures of one colour that come out of the network in another one.

    Networks that have never seen such a colour may give values thousands of times as large as for
    photographs, and ranges that include these leave no levels for photographs.
    """
    training = network.training
    network.eval()
    kept = []
    for batch in batches:
        colour = batch[:, :, :1, :1]
        flat = (batch == colour).flatten(1).all(1)
        if flat.any():
            error = (network(batch[flat]) - colour[flat]).abs().flatten(1).mean(1)
            good = ~flat
            good[flat] = error <= OTHER_COLOUR
            batch = batch[good]
        kept.append(batch)
    network.train(training)
    return kept


def _transformed(network: Network, recipe: QuantizeRecipe, batches: Sequence[Tensor]) -> Network:
    """Rank, fold, equalize and mix a float network as the recipe says; it may be changed."""
    if recipe.depth.includes_lower:
        network.rank_blocks(batches)
    if recipe.calibration.exact_input:
        network.make_input_exact()
    if recipe.calibration.fold:
        network = fold(network)
    method, steps = build_method(recipe.method), recipe.calibration
    if _wanted(steps.equalize, can_equalize(network)):
        with _step("equalize"):
            equalize(network, batches)
    placement = choose_placement(recipe, method)
    plan = plan_sites(network.sites(), placement, _bits(recipe), dynamic=method.chooses_bits)
    bits = {entry.site.path: entry.input_bits for entry in plan if not entry.given}
    if _wanted(steps.mix, can_mix(network, bits)):
        with _step("mix"):
            mix(network, batches, bits)
    return network


def _wanted(step: IfPossible, possible: bool) -> bool:
    """Tell if a step of the calibration is to be done."""
    return possible if step == "auto" else bool(step)


def _bits(recipe: QuantizeRecipe) -> Bits:
    return Bits(recipe.bits.w, recipe.bits.a)


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Name a step of the calibration that is not possible, and how to go without it."""
    with _named(f"calibration.{name}", f"; go without: `overrides` calibration.{name}=false"):
        yield


@contextmanager
def _named(what: str, advice: str = "") -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{what}: {error}{advice}") from error
