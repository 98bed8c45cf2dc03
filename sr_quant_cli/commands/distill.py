"""``srq distill``: a student that is trained to imitate a teacher."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.commands.quantize import save_quantized
from sr_quant_cli.commands.quantize_recipe import builtin_recipe, fit
from sr_quant_cli.commands.stages import trainable_file
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.loading import load, name_of
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import Named, identify
from sr_quant_cli.recipe.load import Change, load_recipe, parse_changes
from sr_quant_cli.recipe.schema import DistillRecipe
from sr_quant_cli.system.terminal import file_name
from sr_quant_cli.training.objective import Objective, StudentLoss
from sr_quant_cli.training.run import (
    Start,
    TrainingJob,
    TrainingOptions,
    TrainingResult,
    locate,
    run_job,
)


@dataclass(frozen=True, kw_only=True)
class DistillRequest(TrainingOptions):
    """Options of ``srq distill``; None keeps the value of the recipe.

    Parameters
    ----------
    student, teacher
        What ``identify`` finds models by.
    recipe
        Name or file of the recipe; None: the one for the student's network.
    iters
        Training steps, to which the schedule is scaled.
    """

    student: Named
    teacher: Named
    recipe: str | None = None
    iters: int | None = None


def distill(request: DistillRequest) -> TrainingResult:
    """Train a student on a teacher's outputs and features, and write its model.

    Raises
    ------
    UsageError
        A file is no model, the student's weights are packed, or the two do not match.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    source = trainable_file(request.student)
    student, header = load(source)
    teacher_source = identify(request.teacher, student.scale)
    teacher, _ = load(teacher_source)
    recipe = _resolve(request, header.network, source.path, teacher_source.path)

    def objective(_train: PairStore, device: torch.device, _resumed: bool) -> Objective:
        network = deepcopy(student).train()
        quantization = network.quantization
        method = None if quantization is None else build_method(quantization.method)
        return StudentLoss(network, recipe, method, deepcopy(teacher).place(device))

    save = save_model if student.quantization is None else save_quantized
    card = header.card.model_copy(update={"name": name_of(source, header)})
    name = f"{file_name(card.name)}-distilled"
    return run_job(TrainingJob(recipe, name, objective, save, Start(student, card)), request)


def _resolve(
    request: DistillRequest, network: dict[str, Any], student: Path, teacher: Path
) -> DistillRecipe:
    origin = request.recipe or builtin_recipe("distill", network["name"])
    changes = parse_changes(request.overrides)
    recipe = load_recipe(origin, changes, DistillRecipe)
    imitated = recipe.teacher.model_copy(update={"model": str(teacher.resolve())})
    recipe = recipe.model_copy(update={"teacher": imitated})
    if request.iters is not None:
        changes += (Change.of("train.iters", request.iters, "iters"),)
    return locate(fit(recipe, network, request.iters, origin, changes), request, student)
