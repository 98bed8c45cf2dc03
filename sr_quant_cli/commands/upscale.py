"""``srq upscale``: picture files in, picture files out."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sr_quant_cli.commands.enlarge import PictureOptions, open_job, run, write
from sr_quant_cli.commands.jobs import UpscaleJob, check_places, exists, plan_jobs
from sr_quant_cli.errors import FailedError, SrqError, UsageError
from sr_quant_cli.imaging.io import thumbnail
from sr_quant_cli.inference.bitmap import draw_bit_map
from sr_quant_cli.inference.opening import open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.runtimes.registry import AUTO
from sr_quant_cli.system.interrupt import DeferredInterrupts
from sr_quant_cli.system.processes import collect, from_first, process_group, share
from sr_quant_cli.system.reporting import progress, result
from sr_quant_cli.system.terminal import printable


@dataclass(frozen=True)
class UpscaleRequest:
    """Request for ``upscale``.

    Attributes
    ----------
    image
        Picture, or folder of pictures.
    output
        File or folder of the results, see ``plan_jobs``.
    model
        What ``identify`` finds a model by.
    overwrite
        Replace existing files.
    bit_map
        Draw a map of the chosen bits beside each result.
    """

    image: Path
    output: str | Path | None = None
    model: Path | None = None
    scale: int | None = None
    overwrite: bool = False
    bit_map: bool = False
    options: RunOptions = field(default_factory=lambda: RunOptions(runtime=AUTO))


@dataclass(frozen=True)
class PictureResult:
    """Outcome of one job: sizes of the result in pixels, time in seconds, name of the runtime."""

    source: str
    target: str
    status: str
    """done or failed"""
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    not_kept: tuple[str, ...] = ()
    """properties of the input that the result does not have"""
    error: str = ""
    bit_map: str = ""
    runtime: str = ""


@dataclass(frozen=True)
class UpscaleReport:
    """Outcome of all jobs."""

    model: str
    scale: int
    pictures: tuple[PictureResult, ...]
    left_out: str = ""
    """files of the folder that were skipped, in words"""

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
        failed = [Path(done.source).name for done in self.pictures if done.status == "failed"]
        if failed:
            raise FailedError(f"{len(failed)} of {len(self.pictures)} failed: {', '.join(failed)}")


def upscale(request: UpscaleRequest) -> UpscaleReport:
    """Enlarge a picture, or all pictures of a folder.

    Every finished picture is reported as a result. The processes of a process group share the
    pictures; all return the whole report.

    Raises
    ------
    UsageError
        The input, model or output is not usable, or the options exclude each other. Of several
        pictures, one that is not usable fails alone.
    FailedError
        The only picture could not be enlarged or written.
    """
    check_places(request.image, request.output)
    if request.bit_map and request.options.patches is None:
        raise UsageError("only with `patchwise`", field="bit_map")
    upscaler = open_model(identify(request.model, request.scale), request.options)
    if request.bit_map:
        check_bit_maps(upscaler)
    plan = plan_jobs(request.image, upscaler.scale, request.output)
    with process_group() as here:
        if plan.left_out and not here.rank:
            result(plan.left_out)
        pictures = upscale_all(
            upscaler, plan.jobs, overwrite=request.overwrite, bit_maps=request.bit_map
        )
    return UpscaleReport(upscaler.name, upscaler.scale, tuple(pictures), plan.left_out)


def check_bit_maps(upscaler: Upscaler) -> None:
    """Refuse bit maps that would show nothing.

    Raises
    ------
    UsageError
        The bits of the model do not follow the picture.
    """
    if upscaler.meter is None or not upscaler.meter.dynamic:
        raise UsageError(f"the bits of {upscaler.name} do not follow the picture", field="bit_map")


def upscale_file(
    upscaler: Upscaler,
    job: UpscaleJob,
    *,
    overwrite: bool,
    bit_map: bool = False,
    interrupts: DeferredInterrupts | None = None,
) -> PictureResult:
    """Enlarge one picture; the output appears only when it is complete.

    Parameters
    ----------
    bit_map
        Draw a map of the chosen bits beside the output.
    interrupts
        Checked after every tile, and while the output is encoded.

    Raises
    ------
    UsageError
        The input is not readable, or the output exists or cannot hold the result.
    FailedError
        The output of the network is not a picture, or the file cannot be written.
    """
    for path in (job.target, job.bit_map) if bit_map else (job.target,):
        if exists(path) and not overwrite:
            raise UsageError(f"{path} exists; use `overwrite` to replace it")
    if job.target.resolve() == job.source.resolve():
        raise UsageError(f"{job.target} is the input itself")
    begun = time.perf_counter()
    interrupts = interrupts or DeferredInterrupts()
    opened = open_job(job.source, job.target, PictureOptions())
    with progress(opened.tile_count(upscaler), "tile", job.source.name) as bar:

        def note(_: TileResult) -> None:
            bar.update()
            interrupts.resume()

        enlarged = run(
            opened, upscaler, on_tile=note, cancelled=lambda: interrupts.received is not None
        )
        write(enlarged)
    if bit_map:
        assert upscaler.meter is not None
        title = printable(f"{job.source.name}: {upscaler.name}, x{upscaler.scale}")
        draw_bit_map(
            thumbnail(opened.picture),
            enlarged.tiles,
            upscaler.meter.candidates,
            title,
            job.bit_map,
        )
    return PictureResult(
        str(job.source),
        str(job.target),
        "done",
        enlarged.width,
        enlarged.height,
        round(time.perf_counter() - begun, 3),
        opened.losses,
        bit_map=str(job.bit_map) if bit_map else "",
        runtime=upscaler.ran_by or "",
    )


def upscale_all(
    upscaler: Upscaler, jobs: Sequence[UpscaleJob], *, overwrite: bool, bit_maps: bool = False
) -> list[PictureResult]:
    """Enlarge pictures one after another, and report each outcome as a result.

    If there are several pictures, one that fails does not stop the others. An interrupt abandons
    the current picture, of which nothing is left; finished ones stay. The processes of a process
    group share the pictures; all return the whole result, and outcomes of other processes are
    reported at the end.
    """
    jobs = from_first(jobs)  # a folder may fill while it is listed
    mine = []
    with DeferredInterrupts(patient=True) as interrupts:
        for job in share(jobs):
            try:
                done = upscale_file(
                    upscaler, job, overwrite=overwrite, bit_map=bit_maps, interrupts=interrupts
                )
            except SrqError as error:
                interrupts.resume()
                if len(jobs) == 1:
                    raise
                done = PictureResult(str(job.source), str(job.target), "failed", error=str(error))
            _report(done)
            mine.append(done)
            interrupts.resume()
    interrupts.resume()
    pictures = collect(mine)
    for done in pictures:
        if done not in mine:
            _report(done)
    return pictures


def _report(done: PictureResult) -> None:
    """Report one outcome as a result."""
    if done.status == "failed":
        result(f"{Path(done.source).name}: failed: {done.error}")
        return
    size = f"{done.width}x{done.height}"
    result(f"{done.source} -> {done.target}  {size}  {done.seconds:.1f} s, {done.runtime}")
    if done.bit_map:
        result(f"{done.source} -> {done.bit_map}")
    if done.not_kept:
        result(f"{done.source}: not kept: {', '.join(done.not_kept)}")
