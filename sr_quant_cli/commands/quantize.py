"""``srq quantize``: a quantized model from a full-precision one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.commands.calibrate import (
    calibrate,
    calibration_batches,
    check_start,
    prepare,
)
from sr_quant_cli.commands.max_drop import check_limit, limit_drop
from sr_quant_cli.commands.pack import add_program
from sr_quant_cli.commands.quantize_recipe import QuantizeRequest, resolve, run_name
from sr_quant_cli.commands.quantize_report import DeploymentReport, report_deployment
from sr_quant_cli.commands.shared_calibration import shared_calibration
from sr_quant_cli.commands.stages import (
    Origin,
    find_origin,
    requests_in_order,
    run_stage,
    trainable_file,
)
from sr_quant_cli.data.store import PairStore, pack_pairs
from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.loading import load, name_of
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.modelfiles.named import MODEL, identify
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.schema import QuantizeRecipe
from sr_quant_cli.system.device import pick_device, set_threads
from sr_quant_cli.system.processes import first_of_machine, process_group, world
from sr_quant_cli.system.reporting import warn
from sr_quant_cli.training.objective import Objective, StudentLoss, needs_teacher
from sr_quant_cli.training.run import (
    Start,
    TrainingJob,
    TrainingResult,
    advice_on_stop,
    locate,
    photographs_of,
    run_job,
)
from sr_quant_cli.training.run_folder import STORE, TRAINABLE, check_free


@dataclass(frozen=True)
class QuantizeResult(TrainingResult):
    """State of a quantization when its command ends, and the report on the finished model."""

    report: DeploymentReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        report = {} if self.report is None else {"report": self.report.to_json()}
        return {**super().to_json(), **report}


def quantize(request: QuantizeRequest) -> QuantizeResult:
    """Calibrate, train where the recipe has steps, and write the quantized model.

    What the method starts from is made first, if no model is given: each stage in the folder
    ``stages`` beside the run folder, or taken from there.

    Returns
    -------
    The result of the run, or of the stage that the time did not suffice for.

    Raises
    ------
    UsageError
        Unknown method or recipe key, a model that the method does not start from, or a placement
        that quantizes nothing of the network.
    FailedError
        The run folder cannot be written, training diverged, or the drop of PSNR cannot be limited
        as asked for.
    """
    begun = time.monotonic()
    if request.max_drop is not None:
        check_limit(request.max_drop)
    origin = find_origin(request)
    requests = requests_in_order(request, origin)
    recipes = [resolve(each, origin.network, origin.name) for each in requests]
    if request.max_drop is not None:
        _check_limited(recipes[-1])
    folder = request.run_dir or Path("runs") / run_name(recipes[-1], origin.title)
    check_free(folder)  # before hours of stages

    def stage(job: TrainingJob[Any], *names: str) -> TrainingResult:
        """Make a stage; ``names`` are its folders below the run folder in earlier versions."""
        left = _time_left(request, begun)
        return run_stage(job, left, folder.parent / STORE, folder.joinpath(*names))

    methods = [recipe.method.name for recipe in recipes[:-1]]
    places = [("pretrain",), *(tuple(reversed(methods[i:])) for i in range(len(methods)))]
    with process_group(pick_device(request.device)):
        start = make_start(origin, requests[:-1], lambda job, index: stage(job, *places[index]))
        if isinstance(start, TrainingResult):
            return _result(start)
        job = plan(request, start)
        if request.max_drop is not None:
            with advice_on_stop(folder):
                job = _limited(job, request, request.max_drop)
        ended = run_job(job, replace(_time_left(request, begun), run_dir=folder))
        wanted = job.recipe.validation.report if request.report is None else request.report
        report = None
        if wanted and ended.complete and world().rank == 0:
            report = _report(job, ended, request)
        return _result(ended, report)


def make_start(
    origin: Origin,
    requests: Sequence[QuantizeRequest],
    stage: Callable[[TrainingJob[Any], int], TrainingResult],
) -> Path | TrainingResult:
    """Make the model that a quantization starts from, one stage after another.

    Parameters
    ----------
    requests
        Stages behind the full-precision network, in order.
    stage
        Makes a stage, or takes it from where it is kept; the index of the full-precision one is 0.

    Returns
    -------
    The model, or the first stage that is not complete.
    """
    model = origin.model
    if isinstance(model, TrainingJob):
        made = stage(model, 0)
        if not made.complete:
            return made
        model = made.model
    for index, request in enumerate(requests, start=1):
        made = stage(plan(request, model), index)
        if not made.complete:
            return made
        model = made.model
    return model


def plan(
    request: QuantizeRequest, model: Path, calibrations: Path | None = None
) -> TrainingJob[QuantizeRecipe]:
    """Prepare the quantization of a model that its method starts from; nothing is written.

    Parameters
    ----------
    calibrations
        Folder of calibrations that runs share; None: the run makes its own.

    Raises
    ------
    UsageError
        The file is no model, or the request is not possible with it.
    """
    source = identify(model, request.scale)
    network, header = load(source)
    recipe = resolve(request, header.network, str(source.path))
    method = build_method(recipe.method)
    check_start(str(source.path), network, method)
    if network.quantization is not None:
        run_dir, name = source.path.parent, source.path.name
        source = trainable_file(run_dir if name == MODEL else source.path)
        network, header = load(source)
    recipe = locate(recipe, request, source.path)
    bits = Bits(recipe.bits.w, recipe.bits.a)
    for caution in method.cautions(bits):
        warn(f"{recipe.method.name} at {bits}: {caution}")
    if recipe.train.iters and not method.trains:
        warn(
            f"{recipe.method.name} has no training of its own: {recipe.train.iters} steps train "
            "weights and ranges at the recipe's learning rates"
        )

    def objective(train: PairStore, device: torch.device, resumed: bool) -> Objective:
        batches = list(calibration_batches(train, recipe))
        # What a calibration finds is in the checkpoint.
        if resumed:
            made = prepare(network, recipe, batches)
        elif calibrations is not None:
            made = shared_calibration(network, recipe, batches, calibrations)
        else:
            made = calibrate(network, recipe, batches)
        teacher = made.teacher.place(device) if needs_teacher(recipe.loss) else None
        return StudentLoss(made.student, recipe, method, teacher)

    card = header.card.model_copy(update={"name": name_of(source, header)})
    name = run_name(recipe, card.name)
    return TrainingJob(recipe, name, objective, save_quantized, Start(network, card))


def _check_limited(recipe: QuantizeRecipe) -> None:
    """Refuse to limit the drop of PSNR of what is not just calibrated."""
    method = build_method(recipe.method)
    if recipe.train.iters:
        raise UsageError("`max_drop` is for a calibration without training: add `iters` 0")
    if method.starts_from is not None or method.chooses_bits:
        name = recipe.method.name
        raise UsageError(f"`max_drop`: {name} has bits that follow the picture, not the site")


def _limited(
    job: TrainingJob[QuantizeRecipe], request: QuantizeRequest, limit: float
) -> TrainingJob[QuantizeRecipe]:
    """Find the sites that must keep higher precision, and put them into the recipe of a job."""
    recipe, start = job.recipe, job.start
    assert start is not None
    set_threads(request.threads)
    with first_of_machine():
        train, held_out = _pairs(recipe, request)
    batches = list(calibration_batches(train, recipe))
    found = limit_drop(start.network, recipe, batches, held_out, limit)
    method = build_method(recipe.method)

    def objective(_train: PairStore, device: torch.device, _resumed: bool) -> Objective:
        teacher = found.made.teacher.place(device) if needs_teacher(recipe.loss) else None
        return StudentLoss(found.made.student, found.recipe, method, teacher)

    return replace(job, recipe=found.recipe, objective=objective)


def _report(
    job: TrainingJob[QuantizeRecipe], ended: TrainingResult, request: QuantizeRequest
) -> DeploymentReport:
    assert job.start is not None
    _, held_out = _pairs(job.recipe, request)
    after, _ = load_model(ended.model)
    files = Path(job.recipe.train.init), ended.model
    return report_deployment(job.start.network, after, job.recipe, held_out, files, request.threads)


def _pairs(recipe: QuantizeRecipe, request: QuantizeRequest) -> tuple[PairStore, PairStore]:
    """Pairs to calibrate on, and those held out for validation."""
    photographs = photographs_of(recipe, request.data_root)
    scale, held_out = recipe.network.scale, photographs.validation[: recipe.validation.max_images]
    return pack_pairs(photographs.train, scale), pack_pairs(held_out, scale)


def _result(ended: TrainingResult, report: DeploymentReport | None = None) -> QuantizeResult:
    return QuantizeResult(ended.run, ended.complete, ended.model, report)


def save_quantized(path: Path, network: Network, card: Card) -> None:
    """Write the packed model, and beside it the one with float weights.

    The packed model comes last: where it is, both are. It has a program for srq's own kernels, if
    they run it.
    """
    save_model(path.with_name(TRAINABLE), network, card, packed=False)
    save_model(path, network, card)
    add_program(path)


def _time_left(request: QuantizeRequest, begun: float) -> QuantizeRequest:
    """Options with the time that is left since ``begun``, at least a second."""
    if request.max_time is None:
        return request
    return replace(request, max_time=max(request.max_time + begun - time.monotonic(), 1.0))
