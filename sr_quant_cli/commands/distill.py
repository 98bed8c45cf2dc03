"""What ``srq distill`` does: a student refined to imitate a teacher."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.commands.stages import builtin_recipe, scale_schedule, trainable_file
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.modelfile import Card, save_model
from sr_quant_cli.modelfiles.named import load_any, model_file
from sr_quant_cli.networks.base import Network
from sr_quant_cli.recipe.load import (
    Change,
    load_recipe,
    origin_of,
    parse_changes,
    validate_recipe,
)
from sr_quant_cli.recipe.schema import DistillRecipe
from sr_quant_cli.system.terminal import file_name
from sr_quant_cli.training.objective import Objective, StudentLoss
from sr_quant_cli.training.run import Job, Options, locate, run_job
from sr_quant_cli.training.run_folder import TRAINABLE


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of ``srq distill``, as given; None: as the recipe says."""

    student: Path
    teacher: Path
    recipe: str | None = None
    iters: int | None = None


def distill(request: Request) -> dict[str, Any]:
    """Train a student on a teacher's outputs and features, and write its model.

    Returns
    -------
    The report that ``--json`` writes.

    Raises
    ------
    UsageError
        A file is no model, the student's weights are packed, the two do not go together.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    student = trainable_file(request.student)
    learner, header = load_any(student)
    teacher_file = model_file(request.teacher)
    model, _ = load_any(teacher_file, learner.scale)
    recipe = _resolve(request, header.network, student, teacher_file)

    def objective(_train: PairStore, device: torch.device, _resumed: bool) -> Objective:
        network, teacher = deepcopy(learner), deepcopy(model)
        how = network.quantization
        method = None if how is None else build_method(how.method)
        return StudentLoss(network.train(), recipe, method, teacher.place(device))

    def save(path: Path, network: Network, card: Card) -> None:
        save_model(path, network, card)
        if network.quantization is not None:
            save_model(path.with_name(TRAINABLE), network, card, packed=False)

    start = header.card.model_copy(update={"name": header.card.name or student.stem})
    return run_job(
        Job(recipe, f"{file_name(start.name)}-distilled", objective, save, start), request
    )


def _resolve(
    request: Request, network: dict[str, Any], student: Path, teacher: Path
) -> DistillRecipe:
    origin = request.recipe or builtin_recipe("distill", network["name"])
    changes = parse_changes(request.overrides)
    recipe = load_recipe(origin, changes, DistillRecipe)
    values = recipe.model_dump(by_alias=True)
    if not any(change.key == "data.patch_hr" for change in changes):
        values["data"]["patch_hr"] = recipe.patch_at(network["scale"])
    values["network"] = network
    values["teacher"]["model"] = str(teacher.resolve())
    if request.iters is not None:
        scale_schedule(values, request.iters)
        changes += (Change("train.iters", request.iters, f"--iters {request.iters}"),)
    resolved = validate_recipe(values, origin_of(origin), changes)
    assert isinstance(resolved, DistillRecipe)
    return locate(resolved, request, student)
