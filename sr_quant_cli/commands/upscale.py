"""``srq upscale``: picture files in, picture files out."""

from collections.abc import Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from sr_quant_cli.commands.batch import Batch, BatchOptions, PictureResult, report, run_jobs
from sr_quant_cli.commands.jobs import (
    Naming,
    UpscaleJob,
    UpscalePlan,
    check_places,
    plan_jobs,
)
from sr_quant_cli.commands.outlook import look_at_batch
from sr_quant_cli.commands.places import STREAM, exists
from sr_quant_cli.commands.scaled_models import ScaledModels, find_models
from sr_quant_cli.errors import FailedError, SrqError, UsageError
from sr_quant_cli.imaging.formats import writable_formats
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.registry import AUTO
from sr_quant_cli.system.processes import collect, from_first, process_group
from sr_quant_cli.system.reporting import note, result
from sr_quant_cli.system.terminal import printable


@record
class UpscaleRequest:
    """Request for ``upscale``.

    Attributes
    ----------
    inputs
        Pictures, folders, patterns, or ``-``, see ``plan_jobs``.
    output
        File or folder of the results, or ``-``.
    recursive
        Enter subfolders.
    suffix
        Text after the names of pictures; None: by the size, such as ``_x4``.
    skip_existing
        Leave out pictures whose results exist.
    dry_run
        Report what would be done, and run nothing.
    model
        What ``identify`` finds a model by; None: the embedded ones.
    batch
        Options of all pictures.
    options
        Options of running the model.

    Raises
    ------
    UsageError
        Options exclude each other.
    """

    inputs: tuple[str, ...]
    output: str | Path | None = None
    recursive: bool = False
    suffix: str | None = None
    skip_existing: bool = False
    dry_run: bool = False
    model: str | None = None
    batch: BatchOptions = field(default_factory=BatchOptions)
    options: RunOptions = field(default_factory=lambda: RunOptions(runtime=AUTO))

    def __post_init__(self) -> None:
        if self.skip_existing and self.batch.overwrite:
            raise UsageError("cannot be combined with `overwrite`", field="skip_existing")
        if self.batch.bit_map and self.options.patches is None:
            raise UsageError("only with `patchwise`", field="bit_map")


@record
class UpscaleReport:
    """Outcome of all jobs."""

    model: str
    """names of the models that were opened"""
    scale: int | None
    """scale of the network; None: pictures have networks of different scales"""
    pictures: tuple[PictureResult, ...]
    left_out: str = ""
    """files of the folders that were left out, in words"""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def raise_failures(self) -> None:
        """End a batch some of whose jobs failed.

        Raises
        ------
        FailedError
            With their number and names.
        """
        names = [Path(done.source).name for done in self.pictures if done.status == "failed"]
        failed = [printable(name) for name in names]
        if failed:
            raise FailedError(f"{len(failed)} of {len(self.pictures)} failed: {', '.join(failed)}")


def upscale(request: UpscaleRequest) -> UpscaleReport:
    """Enlarge pictures.

    Every finished picture is reported as a result. The processes of a process group share the
    pictures; all return the whole report.

    Raises
    ------
    UsageError
        The inputs, model or output are not usable, or the options exclude each other. Of several
        pictures, one that is not usable fails alone.
    FailedError
        The only picture could not be enlarged or written.
    """
    check_places(request.inputs, request.output)
    models = find_models(request.model, request.batch.size, request.options)
    if request.batch.bit_map:
        check_bit_maps(models.named or models.open(models.scale_for(None)))
    with process_group() as here:
        plan = from_first(_plan(request, models))  # a folder may fill while it is listed
        if plan.left_out and not here.rank:
            result(plan.left_out)
        jobs, skipped = from_first(_split(request, plan.jobs))  # the others may write already
        if skipped and not here.rank:
            note(f"{len(skipped)} of {len(plan.jobs)} results exist, and are skipped")
        if len(jobs) == 1:  # refused before a model is opened, which may take seconds
            Batch(models, request.batch).look(jobs[0])
        if jobs:
            _announce(request, models, jobs)
        # What is left is incomplete: of several outputs some may exist.
        options = replace(request.batch, overwrite=request.batch.overwrite or request.skip_existing)
        if request.dry_run:
            outcomes = _rehearse(Batch(models, options), jobs)
        else:
            outcomes = _gather(run_jobs(models, jobs, options))
    pictures = (*skipped, *outcomes)
    names = ", ".join(upscaler.name for upscaler in models.in_use)
    scales = {upscaler.scale for upscaler in models.in_use}
    return UpscaleReport(names, scales.pop() if len(scales) == 1 else None, pictures, plan.left_out)


def check_bit_maps(upscaler: Upscaler) -> None:
    """Refuse bit maps that would show nothing.

    Raises
    ------
    UsageError
        The bits of the model do not follow the picture.
    """
    if upscaler.meter is None or not upscaler.meter.dynamic:
        raise UsageError(f"the bits of {upscaler.name} do not follow the picture", field="bit_map")


def _plan(request: UpscaleRequest, models: ScaledModels) -> UpscalePlan:
    tag = request.suffix
    if tag is None:
        tag = request.batch.size.tag or f"_x{models.scale_for(None)}"
    save = request.batch.picture.save
    suffix = writable_formats()[save.format].suffix if save.format else None
    if request.batch.picture.frames == "first" or list(request.inputs) == [str(STREAM)]:
        suffix = suffix or ".png"
    naming = Naming(tag, suffix)
    plan = plan_jobs(request.inputs, naming, request.output, recursive=request.recursive)
    for drawing in ("preview", "bit_map"):
        if getattr(request.batch, drawing) and any(job.target == STREAM for job in plan.jobs):
            raise UsageError(
                "not with standard output, beside which there is no place", field=drawing
            )
    for job in {job.target.suffix: job for job in plan.jobs}.values():
        form = save.format_for(None if job.target == STREAM else job.target)
        if job.target != STREAM and job.target.suffix.lower() not in form.suffixes:
            raise UsageError(f"{job.target} is no name of a {form} file", field="output")
    return plan


def _split(
    request: UpscaleRequest, jobs: Sequence[UpscaleJob]
) -> tuple[list[UpscaleJob], list[PictureResult]]:
    """Separate the jobs to do from those whose results exist and are to be skipped."""
    if not request.skip_existing:
        return list(jobs), []
    todo, skipped = [], []
    for job in jobs:
        if all(path != STREAM and exists(path) for path in request.batch.outputs(job)):
            skipped.append(PictureResult.of(job, "skipped"))
        else:
            todo.append(job)
    return todo, skipped


def _announce(request: UpscaleRequest, models: ScaledModels, jobs: Sequence[UpscaleJob]) -> None:
    """Say what a large batch costs; this opens its models."""
    outlook = look_at_batch(jobs, Batch(models, request.batch).look, models)
    if outlook.is_large or request.dry_run:
        note(str(outlook))


def _rehearse(batch: Batch, jobs: Sequence[UpscaleJob]) -> list[PictureResult]:
    """Read what is needed to say what would be done, and report it."""
    outcomes = []
    for job in jobs:
        try:
            outlook = batch.read(job).outlook
        except SrqError as error:
            if len(jobs) == 1:
                raise
            outcome = PictureResult.of(job, "failed", str(error))
        else:
            outcome = PictureResult(
                str(job.source),
                str(job.target),
                "planned",
                outlook.result_width,
                outlook.result_height,
                network_scale=outlook.scale,
                resampled=outlook.size is not None,
            )
        report(outcome)
        outcomes.append(outcome)
    return outcomes


def _gather(mine: list[PictureResult]) -> list[PictureResult]:
    """Collect the outcomes of all processes, and report those of the others."""
    outcomes = collect(mine)
    for outcome in outcomes:
        if outcome not in mine:
            report(outcome)
    return outcomes
