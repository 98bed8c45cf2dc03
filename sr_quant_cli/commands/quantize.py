"""What ``srq quantize`` does: a full-precision model in, a quantized one out."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_quant_cli.commands.stages import (
    Request,
    Unfinished,
    choose_placement,
    find_start,
    name_of_run,
)
from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.modelfile import Card, save_model
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.passes.apply import of_three_levels, quantize_network, without_quantizers
from sr_quant_cli.passes.compensate import compensate
from sr_quant_cli.passes.equalize import equalize
from sr_quant_cli.passes.mix import mix
from sr_quant_cli.quant.plan import Bits, plan_sites
from sr_quant_cli.recipe.schema import QuantizeRecipe
from sr_quant_cli.system.reporting import warn
from sr_quant_cli.training.objective import Objective, StudentLoss
from sr_quant_cli.training.run import Job, run_job
from sr_quant_cli.training.run_folder import TRAINABLE


def quantize(request: Request) -> dict[str, Any]:
    """Calibrate, train where the recipe has steps, and write the quantized model.

    Returns
    -------
    The report that ``--json`` writes.

    Raises
    ------
    UsageError
        Unknown method or recipe key, a model that the method does not start from, a combination of
        method, placement and network that quantizes nothing.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    found = find_start(request, quantize)
    if isinstance(found, Unfinished):
        return found.report
    recipe, model = found.recipe, found.model
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
        teacher = deepcopy(found.network)
        batches = list(calibration_batches(train, recipe))
        if method.starts_from:
            network = without_quantizers(teacher)
            _put_quantizers(network)
            if not resumed:
                with _refused_as(str(model)):
                    method.inherit(network, teacher, batches)
            return _student(network, teacher, device)
        if recipe.depth.includes_lower and not resumed:
            teacher.rank_blocks(batches)
        if recipe.calibration.fold:
            teacher = fold(teacher)
        if recipe.calibration.equalize:
            with _step("equalize"):
                equalize(teacher, batches)
        if recipe.calibration.mix:
            plan = plan_sites(teacher.sites(), placement, bits)
            with _step("mix"):
                mix(
                    teacher,
                    batches,
                    {entry.site.path: entry.input_bits for entry in plan if not entry.given},
                )
        network = deepcopy(teacher)
        _put_quantizers(network)
        if not resumed:
            method.calibrate(network, batches)
            if recipe.calibration.compensate:
                with _step("compensate"):
                    compensate(network, teacher, batches)
            if few := of_three_levels(network):
                warn(
                    f"a symmetric grid has three levels at 2 bits, two after ReLU: {', '.join(few)}"
                )
        return _student(network, teacher, device)

    def _put_quantizers(network: Network) -> None:
        try:
            quantize_network(network, method, placement, bits)
        except ValueError as error:
            raise UsageError(
                f"{recipe.method.name} at the {recipe.sites.placement} placement has no site in "
                f"{recipe.network.name}: {error}; try --placement full"
            ) from error

    def _student(network: Network, teacher: Network, device: torch.device) -> Objective:
        learns = needs_teacher(recipe)
        return StudentLoss(network, recipe, method, teacher.place(device) if learns else None)

    def save(path: Path, network: Network, card: Card) -> None:
        save_model(path, network, card)
        save_model(path.with_name(TRAINABLE), network, card, packed=False)

    card = found.header.card
    start = card.model_copy(update={"name": card.name or model.stem})
    return run_job(Job(recipe, name_of_run(recipe), objective, save, start), found.options)


@contextmanager
def _refused_as(what: str, advice: str = "") -> Iterator[None]:
    """Name what cannot be used, or done."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{what}: {error}{advice}") from error


def _step(name: str) -> AbstractContextManager[None]:
    """A step of the calibration that the recipe asks for."""
    field = f"calibration.{name}"
    return _refused_as(field, f"; go without: --set {field}=false")


def needs_teacher(recipe: QuantizeRecipe) -> bool:
    """Whether a loss compares with the full-precision model."""
    return recipe.loss.target == "teacher" or recipe.loss.feature != "none"


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
        advice="lower calibration.patch_lr",
    )
    last = -(-calibration.images // batch) - 1
    for index in range(last + 1):
        pixels, _ = sampler.batch(index)
        lr = to_tensor(pixels, torch.device("cpu"))
        if calibration.colours and index == last:
            # With photographs in one batch: steps that sample values take as many of each batch.
            flat = flat_patches(calibration.patch_lr)
            lr = torch.cat([lr, *[flat] * max(calibration.images // 32, 1)])
        yield lr


def flat_patches(side: int) -> Tensor:
    """Flat patches ``[9, 3, side, side]``, 0..1: the corners of the colour cube, and grey.

    Photographs hardly have saturated colours, which clip where ranges come from them alone.
    """
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    colours = torch.cat([corners, torch.full((1, 3), 0.5)])
    return colours[:, :, None, None].expand(-1, -1, side, side).contiguous()
