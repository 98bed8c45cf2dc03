"""One batch of pictures: reading, network and writing overlap, and outcomes are reported."""

import time
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import BinaryIO

from sr_quant_cli.commands.enlarge import (
    EnlargedPicture,
    OpenedPicture,
    PictureOptions,
    open_job,
    run,
    write,
)
from sr_quant_cli.commands.jobs import UpscaleJob
from sr_quant_cli.commands.outlook import Outlook, look_ahead
from sr_quant_cli.commands.pipeline import overlap
from sr_quant_cli.commands.places import STREAM, STREAM_NAME, exists
from sr_quant_cli.commands.scaled_models import ScaledModels
from sr_quant_cli.commands.sizes import SizeRequest
from sr_quant_cli.errors import SrqError, UsageError
from sr_quant_cli.imaging.io import thumbnail
from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.records import record
from sr_quant_cli.system.interrupt import DeferredInterrupts
from sr_quant_cli.system.processes import share
from sr_quant_cli.system.reporting import Progress, note, progress, result
from sr_quant_cli.system.terminal import printable

MAX_PIXELS = 10**9
"""default of the largest number of pixels of a result"""


@record
class BatchOptions:
    """Options of all pictures of a batch.

    Attributes
    ----------
    size
        Size of the results.
    picture
        Format, frames, region and metadata.
    overwrite
        Replace existing files.
    bit_map
        Draw a map of the chosen bits beside each result.
    preview
        Draw a part of each picture before and after beside the result.
    max_pixels
        Largest number of pixels of a result.
    content
        What standard input holds, for a picture that comes from there.
    stdout
        Standard output, for a picture that goes there.
    """

    size: SizeRequest = field(default_factory=SizeRequest)
    picture: PictureOptions = field(default_factory=PictureOptions)
    overwrite: bool = False
    bit_map: bool = False
    preview: bool = False
    max_pixels: int = MAX_PIXELS
    content: bytes = b""
    stdout: BinaryIO | None = None

    def outputs(self, job: UpscaleJob) -> tuple[Path, ...]:
        """Files that a job writes."""
        drawings = ((self.bit_map, job.bit_map), (self.preview, job.preview))
        return (job.target, *(path for drawn, path in drawings if drawn))


@record
class PictureResult:
    """Outcome of one job: sizes of the result in pixels, time in seconds, name of the runtime."""

    source: str
    target: str
    status: str
    """done, failed, skipped (the result exists) or planned (nothing was run)"""
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    """from reading to writing; other pictures may have run meanwhile"""
    not_kept: tuple[str, ...] = ()
    """properties of the input that the result does not have"""
    error: str = ""
    bit_map: str = ""
    preview: str = ""
    runtime: str = ""
    network_scale: int = 0
    resampled: bool = False
    """resampled from the scale of the network to the requested size"""

    @classmethod
    def of(cls, job: UpscaleJob, status: str, error: str = "") -> "PictureResult":
        """Outcome without a result."""
        return cls(str(job.source), str(job.target), status, error=error)


@record
class _Opened:
    """A picture that is read, and the seconds it took."""

    outlook: Outlook
    picture: OpenedPicture
    seconds: float


@record
class _Enlarged:
    """A picture that is enlarged, what ran it, and the seconds so far."""

    outlook: Outlook
    picture: EnlargedPicture
    upscaler: Upscaler
    runtime: str
    seconds: float


class _Step(Progress):
    """Progress of one picture, as one step of the batch, which it never exceeds."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._left = bar, 1.0

    def update(self, steps: float = 1) -> None:
        """Count parts of the picture; memory that runs out makes more tiles than were planned."""
        steps = min(steps, self._left)
        self._left -= steps
        self._bar.update(steps)

    def show(self, **values: str) -> None:
        """Show values next to the progress of the batch."""
        self._bar.show(**values)

    def finish(self) -> None:
        """Count the rest of a picture that is finished or failed."""
        self.update(self._left)


class Batch:
    """The three stages of each job: ``read`` and ``write`` run in threads of their own."""

    def __init__(
        self,
        models: ScaledModels,
        options: BatchOptions,
        interrupts: DeferredInterrupts | None = None,
    ) -> None:
        self._models, self._options = models, options
        self._interrupts = interrupts or DeferredInterrupts()

    def look(self, job: UpscaleJob) -> Outlook:
        """Decide the size of a result and the network for it.

        Raises
        ------
        UsageError
            The picture is not readable, or its result has no possible size.
        """
        options = self._options
        return look_ahead(
            self._source(job),
            self._models,
            options.size,
            options.picture,
            options.max_pixels,
            None if job.target == STREAM else job.target,
        )

    def read(self, job: UpscaleJob) -> _Opened:
        """Open a picture that fits its output.

        Raises
        ------
        UsageError
            The picture is not readable, or the output exists or cannot hold the result.
        """
        begun = time.perf_counter()
        options = self._options
        for path in options.outputs(job):
            if path != STREAM and not options.overwrite and exists(path):
                raise UsageError(
                    f"{path} exists; use `overwrite` to replace it, or `skip_existing` to keep it"
                )
        outlook = self.look(job)
        picture = open_job(self._source(job), self._target(job), options.picture, STREAM_NAME)
        return _Opened(outlook, picture, time.perf_counter() - begun)

    def compute(self, job: UpscaleJob, opened: _Opened, bar: Progress) -> _Enlarged:
        """Run the network.

        Raises
        ------
        UsageError
            The picture is damaged, or too large for its format.
        FailedError
            The output of the network is not a picture, or there is no room for it.
        """
        self._interrupts.resume()
        begun = time.perf_counter()
        outlook = opened.outlook
        upscaler = self._models.open(outlook.scale, opened.picture.picture.bits, outlook.family)
        tiles = opened.picture.tile_count(upscaler)

        def on_tile(_: TileResult) -> None:
            bar.update(1 / tiles)
            self._interrupts.resume()

        picture = run(
            opened.picture,
            upscaler,
            size=outlook.size,
            on_tile=on_tile,
            cancelled=lambda: self._interrupts.received is not None,
        )
        seconds = opened.seconds + time.perf_counter() - begun
        return _Enlarged(outlook, picture, upscaler, upscaler.ran_by or "", seconds)

    def write(self, job: UpscaleJob, enlarged: _Enlarged) -> PictureResult:
        """Encode the result; the output appears when it is complete.

        Raises
        ------
        FailedError
            The file cannot be written.
        """
        begun = time.perf_counter()
        write(enlarged.picture)
        if self._options.bit_map:
            _draw(job, enlarged)
        if self._options.preview:
            from sr_quant_cli.commands.preview import draw_preview

            draw_preview(enlarged.picture, job.target, enlarged.upscaler.name, job.preview)
        return PictureResult(
            str(job.source),
            str(job.target),
            "done",
            enlarged.picture.width,
            enlarged.picture.height,
            round(enlarged.seconds + time.perf_counter() - begun, 3),
            enlarged.picture.opened.losses,
            bit_map=str(job.bit_map) if self._options.bit_map else "",
            preview=str(job.preview) if self._options.preview else "",
            runtime=enlarged.runtime,
            network_scale=enlarged.outlook.scale,
            resampled=enlarged.outlook.size is not None,
        )

    def _target(self, job: UpscaleJob) -> Path | BinaryIO:
        if job.target != STREAM:
            return job.target
        assert self._options.stdout is not None
        return self._options.stdout

    def _source(self, job: UpscaleJob) -> Path | bytes:
        return self._options.content if job.source == STREAM else job.source


def run_jobs(
    models: ScaledModels, jobs: Sequence[UpscaleJob], options: BatchOptions
) -> list[PictureResult]:
    """Enlarge pictures, and report each outcome as a result.

    If there are several pictures, one that fails does not stop the others. An interrupt abandons
    the pictures that are not written yet, of which nothing is left; finished ones stay. The
    processes of a process group share the pictures; each returns the outcomes of its own.

    Raises
    ------
    SrqError
        The only picture failed.
    """
    mine = share(jobs)
    outcomes: list[PictureResult] = []
    with DeferredInterrupts(patient=True) as interrupts:
        batch = Batch(models, options, interrupts)
        steps: dict[UpscaleJob, _Step] = {}

        def finished(job: UpscaleJob, outcome: PictureResult | SrqError) -> None:
            if isinstance(outcome, SrqError):
                interrupts.resume()
                if len(jobs) == 1:
                    raise outcome
                outcome = PictureResult.of(job, "failed", str(outcome))
            steps[job].finish()
            report(outcome)
            outcomes.append(outcome)

        name = jobs[0].source.name if len(jobs) == 1 else "upscaling"
        try:
            with progress(len(mine), "picture", name) as bar:
                steps |= {job: _Step(bar) for job in mine}
                overlap(
                    mine,
                    batch.read,
                    lambda job, opened: batch.compute(job, opened, steps[job]),
                    batch.write,
                    finished,
                )
        except (KeyboardInterrupt, SystemExit):
            if len(jobs) > 1:
                done = sum(outcome.status == "done" for outcome in outcomes)
                note(f"{done} of {len(mine)} pictures done; `skip_existing` goes on with the rest")
            raise
    interrupts.resume()
    return outcomes


def report(outcome: PictureResult) -> None:
    """Report one outcome as a result."""
    # A line for each outcome, whatever the names contain.
    source, target = printable(outcome.source), printable(outcome.target)
    if outcome.status == "failed":
        result(f"{printable(Path(outcome.source).name)}: failed: {printable(outcome.error)}")
        return
    size = f"{outcome.width}x{outcome.height}"
    if outcome.resampled:
        size = f"x{outcome.network_scale} network, then resampled to {size}"
    line = f"{source} -> {target}  {size}"
    if outcome.status == "planned":
        result(line)
        return
    result(f"{line}  {outcome.seconds:.1f} s, {outcome.runtime}")
    for drawing in (outcome.bit_map, outcome.preview):
        if drawing:
            result(f"{source} -> {printable(drawing)}")
    if outcome.not_kept:
        result(f"{source}: not kept: {', '.join(outcome.not_kept)}")


def _draw(job: UpscaleJob, enlarged: _Enlarged) -> None:
    """Draw the chosen bits beside the result."""
    from sr_quant_cli.inference.bitmap import draw_bit_map

    upscaler = enlarged.upscaler
    assert upscaler.meter is not None
    title = printable(f"{job.source.name}: {upscaler.name}, x{upscaler.scale}")
    picture = thumbnail(enlarged.picture.opened.picture)
    tiles = enlarged.picture.tiles
    draw_bit_map(picture, tiles, upscaler.meter.candidates, title, job.bit_map)
