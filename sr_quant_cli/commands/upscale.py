"""``srq upscale``: picture files in, picture files out."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyvips

from sr_quant_cli.commands.jobs import Job, Plan, exists
from sr_quant_cli.errors import FailedError, SrqError, UsageError
from sr_quant_cli.imaging.alpha import enlarge_alpha, opaque, spread_colour
from sr_quant_cli.imaging.formats import check_writable, holds_alpha
from sr_quant_cli.imaging.io import Picture, StreamWriter, open_picture, thumbnail
from sr_quant_cli.inference.bitmap import draw_bit_map
from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.system.interrupt import DeferredInterrupts
from sr_quant_cli.system.processes import collect, from_first, share
from sr_quant_cli.system.reporting import progress, result
from sr_quant_cli.system.terminal import printable


@dataclass(frozen=True)
class Done:
    """What became of a job, and by which runtime; sizes in pixels, time in seconds."""

    source: str
    target: str
    status: str
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    not_kept: tuple[str, ...] = ()
    error: str = ""
    bit_map: str = ""
    runtime: str = ""


def check_bit_maps(upscaler: Upscaler) -> None:
    """Refuse maps of bits that would show nothing.

    Raises
    ------
    UsageError
        The bits of the model do not follow the picture.
    """
    if upscaler.meter is None or not upscaler.meter.dynamic:
        raise UsageError(f"--bit-map: the bits of {upscaler.name} do not follow the picture")


def upscale_file(
    upscaler: Upscaler,
    job: Job,
    *,
    overwrite: bool,
    bit_map: bool = False,
    interrupts: DeferredInterrupts | None = None,
) -> Done:
    """Enlarge one picture; the output appears only when it is complete.

    Parameters
    ----------
    bit_map
        Draw the bits that every patch took beside the output.
    interrupts
        Looked at after every tile, and while the output is encoded.

    Raises
    ------
    UsageError
        The input is not readable, or the output exists or cannot hold the result.
    FailedError
        The network's output is no picture, or the file cannot be written.
    """
    for path in (job.target, job.bit_map) if bit_map else (job.target,):
        if exists(path) and not overwrite:
            raise UsageError(f"{path} exists; use --overwrite to replace it")
    if job.target.resolve() == job.source.resolve():
        raise UsageError(f"{job.target} is the input itself")
    begun = time.perf_counter()
    scale = upscaler.scale
    picture, alpha = _transparency(open_picture(job.source), job.target, scale)
    height, width = picture.height * scale, picture.width * scale
    check_writable(job.target, height, width, alpha=alpha is not None)
    ran = _enlarge(upscaler, picture, alpha, job.target, interrupts or DeferredInterrupts())
    if bit_map:
        assert upscaler.meter is not None
        title = printable(f"{job.source.name}: {upscaler.name}, x{scale}")
        draw_bit_map(thumbnail(picture), ran, upscaler.meter.candidates, title, job.bit_map)
    return Done(
        str(job.source),
        str(job.target),
        "done",
        width,
        height,
        round(time.perf_counter() - begun, 3),
        picture.not_kept,
        bit_map=str(job.bit_map) if bit_map else "",
        runtime=upscaler.ran_by or "",
    )


def upscale_all(
    upscaler: Upscaler, jobs: Sequence[Job], *, overwrite: bool, bit_maps: bool = False
) -> list[Done]:
    """Enlarge pictures one after another, saying what happened to each.

    A picture that fails does not stop the others when there are several. An interrupt ends the
    picture at work, of which nothing is left; those that are done stay. The processes of a process
    group share the pictures; all get the whole result, and what the others did is said at the end.
    """
    jobs = from_first(jobs)  # a folder may fill while it is listed
    mine = []
    with DeferredInterrupts(patient=True) as interrupts:
        for job in share(jobs):
            try:
                result = upscale_file(
                    upscaler, job, overwrite=overwrite, bit_map=bit_maps, interrupts=interrupts
                )
            except SrqError as error:
                interrupts.resume()
                if len(jobs) == 1:
                    raise
                result = Done(str(job.source), str(job.target), "failed", error=str(error))
            _tell(result)
            mine.append(result)
            interrupts.resume()
    interrupts.resume()
    results = collect(mine)
    told = set(mine)
    for result in results:
        if result not in told:
            _tell(result)
    return results


def say_left_out(plan: Plan) -> None:
    """Tell what of a folder is not enlarged, if anything."""
    if plan.left_out:
        _say(plan.left_out)


def summarize(results: list[Done], model: str, scale: int, left_out: str) -> dict[str, Any]:
    """Report that ``--json`` writes."""
    pictures = [asdict(result) for result in results]
    return {"model": model, "scale": scale, "pictures": pictures, "left_out": left_out}


def raise_failures(results: list[Done]) -> None:
    """End a batch of which some items failed.

    Raises
    ------
    FailedError
        With how many, and which.
    """
    failed = [Path(result.source).name for result in results if result.status == "failed"]
    if failed:
        raise FailedError(f"{len(failed)} of {len(results)} failed: {', '.join(failed)}")


def _transparency(
    picture: Picture, target: Path, scale: int
) -> tuple[Picture, pyvips.Image | None]:
    """The picture without colours that would leave halos, and its alpha, enlarged.

    An alpha that hides nothing is left out where ``target`` cannot hold it.
    """
    if picture.alpha is None:
        return picture, None
    lowest, highest = picture.alpha_range()
    if lowest == 255:
        whole = opaque(picture.height * scale, picture.width * scale)
        return picture, whole if holds_alpha(target) else None
    if lowest == 0 < highest:
        picture = replace(picture, rgb=spread_colour(picture.rgb, picture.alpha))
    return picture, enlarge_alpha(picture.alpha, scale)


def _enlarge(
    upscaler: Upscaler,
    picture: Picture,
    alpha: pyvips.Image | None,
    target: Path,
    interrupts: DeferredInterrupts,
) -> list[TileResult]:
    scale = upscaler.scale
    height, width = picture.height, picture.width
    with (
        progress(upscaler.tile_count(height, width), "tile", picture.path.name) as bar,
        StreamWriter(
            target,
            height * scale,
            width * scale,
            grey=picture.grey,
            alpha=alpha,
            icc=picture.icc,
            cancelled=lambda: interrupts.received is not None,
        ) as writer,
    ):
        ran: list[TileResult] = []

        def note(tile: TileResult) -> None:
            ran.append(tile)
            bar.update()
            interrupts.resume()

        for band in upscaler.bands(picture.read, height, width, note):
            writer.write(band)
    return ran


def _tell(result: Done) -> None:
    if result.status == "failed":
        _say(f"{Path(result.source).name}: failed: {result.error}")
        return
    size = f"{result.width}x{result.height}"
    how = f"{result.seconds:.1f} s, {result.runtime}"
    _say(f"{result.source} -> {result.target}  {size}  {how}")
    if result.bit_map:
        _say(f"{result.source} -> {result.bit_map}")
    if result.not_kept:
        _say(f"{result.source}: not kept: {', '.join(result.not_kept)}")


def _say(line: str) -> None:
    """Print a line above progress bars."""
    result(line)
