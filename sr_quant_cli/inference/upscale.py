"""``srq upscale``: picture files in, picture files out."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sr_quant_cli.engine.distributed import collect, from_first, share
from sr_quant_cli.errors import FailedError, SrqError, UsageError
from sr_quant_cli.imaging.formats import SAVE_OPTIONS, check_writable, picture_files
from sr_quant_cli.imaging.io import Picture, StreamWriter, open_picture, thumbnail
from sr_quant_cli.inference.upscaler import Ran, Upscaler
from sr_quant_cli.report.bitmap import draw_bit_map

_BIT_MAP = "_bits"
"""What the name of a map of bits has behind that of the enlargement."""


@dataclass(frozen=True)
class Job:
    """One picture and where its enlargement goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Done:
    """What became of a job; sizes in pixels, time in seconds; the map of bits, if any."""

    source: str
    target: str
    status: str
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    not_kept: tuple[str, ...] = ()
    error: str = ""
    bit_map: str = ""


def check_source(source: Path) -> None:
    """Refuse an input that is not there, before a model is made ready for it.

    Raises
    ------
    UsageError
        There is no such picture or folder.
    """
    if not source.exists():
        raise UsageError(f"no such picture or folder: {source}")


def plan_jobs(source: Path, scale: int, output: Path | None) -> list[Job]:
    """Decide the output of every input.

    ``IMAGE`` goes to ``IMAGE_x{scale}.png`` beside it, or to ``output``: a file where it has a
    picture suffix, else a folder. Of a folder all pictures lying in it are taken, except
    enlargements of others among them.

    Raises
    ------
    UsageError
        The input does not exist, holds no pictures, or does not fit the output.
    """
    check_source(source)
    if source.is_dir():
        if output is not None and output.suffix.lower() in SAVE_OPTIONS and not output.is_dir():
            raise UsageError(f"-o {output}: is a file name, but the input {source} is a folder")
        found = picture_files(source)
        if not found:
            raise UsageError(f"no pictures in {source}")
        made = {f"{path.stem}_x{scale}{end}" for path in found for end in ("", _BIT_MAP)}
        sources = [path for path in found if path.stem not in made]
    else:
        sources = [source]
    return [Job(path, _target(path, scale, output)) for path in sources]


def check_bit_maps(upscaler: Upscaler) -> None:
    """Refuse maps of bits that would show nothing.

    Raises
    ------
    UsageError
        The bits of the model do not follow the picture.
    """
    if upscaler.meter is None or not upscaler.meter.dynamic:
        raise UsageError(f"--bit-map: the bits of {upscaler.name} do not follow the picture")


def upscale_file(upscaler: Upscaler, job: Job, *, overwrite: bool, bit_map: bool = False) -> Done:
    """Enlarge one picture; the output appears only when it is complete.

    Parameters
    ----------
    bit_map
        Draw the bits that every patch took beside the output.

    Raises
    ------
    UsageError
        The input is not readable, or the output exists or cannot hold the result.
    FailedError
        The output cannot be written.
    """
    map_path = job.target.with_name(f"{job.target.stem}{_BIT_MAP}.png") if bit_map else None
    for path in (job.target, map_path):
        if path is not None and path.exists() and not overwrite:
            raise UsageError(f"{path} exists; use --overwrite to replace it")
    if job.target.resolve() == job.source.resolve():
        raise UsageError(f"{job.target} is the input itself")
    begun = time.perf_counter()
    picture = open_picture(job.source)
    scale = upscaler.scale
    height, width = picture.height * scale, picture.width * scale
    check_writable(job.target, height, width, alpha=picture.alpha is not None)
    ran = _enlarge(upscaler, picture, job.target)
    if map_path is not None:
        assert upscaler.meter is not None
        title = f"{job.source.name}: {upscaler.name}, x{scale}"
        draw_bit_map(thumbnail(picture), ran, upscaler.meter.candidates, title, map_path)
    return Done(
        str(job.source),
        str(job.target),
        "done",
        width,
        height,
        round(time.perf_counter() - begun, 3),
        picture.not_kept,
        bit_map=str(map_path or ""),
    )


def upscale_all(
    upscaler: Upscaler, jobs: list[Job], *, overwrite: bool, bit_maps: bool = False
) -> list[Done]:
    """Enlarge pictures one after another, saying what happened to each.

    A picture that fails does not stop the others when there are several. The processes of a process
    group share the pictures; all get the whole result, and what the others did is said at the end.
    """
    jobs = from_first(jobs)  # a folder may fill while it is listed
    makers: dict[Path, Path] = {}
    for job in jobs:
        makers.setdefault(job.target, job.source)
    mine = []
    for job in share(jobs):
        try:
            if makers[job.target] != job.source:
                raise UsageError(f"{job.target} is already made from {makers[job.target].name}")
            result = upscale_file(upscaler, job, overwrite=overwrite, bit_map=bit_maps)
        except SrqError as error:
            if len(jobs) == 1:
                raise
            result = Done(str(job.source), str(job.target), "failed", error=str(error))
        _tell(result)
        mine.append(result)
    results = collect(mine)
    told = set(mine)
    for result in results:
        if result not in told:
            _tell(result)
    return results


def summarize(results: list[Done], model: str, scale: int) -> dict[str, Any]:
    """Report that ``--json`` writes."""
    return {"model": model, "scale": scale, "pictures": [asdict(result) for result in results]}


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


def _target(source: Path, scale: int, output: Path | None) -> Path:
    name = f"{source.stem}_x{scale}.png"
    if output is None:
        return source.with_name(name)
    if output.suffix.lower() in SAVE_OPTIONS and not output.is_dir():
        return output
    if output.suffix and not output.is_dir():
        raise UsageError(f"-o {output}: suffix must be one of {', '.join(SAVE_OPTIONS)}")
    return output / name


def _enlarge(upscaler: Upscaler, picture: Picture, target: Path) -> list[Ran]:
    scale = upscaler.scale
    alpha = picture.alpha
    if alpha is not None:
        alpha = alpha.resize(scale, kernel="cubic")
    height, width = picture.height, picture.width
    with (
        tqdm(
            total=upscaler.tile_count(height, width),
            desc=picture.path.name,
            unit="tile",
            leave=False,
            disable=None,
        ) as bar,
        StreamWriter(
            target,
            height * scale,
            width * scale,
            grey=picture.grey,
            alpha=alpha,
            icc=picture.icc,
        ) as writer,
    ):
        ran: list[Ran] = []

        def note(tile: Ran) -> None:
            ran.append(tile)
            bar.update()

        for band in upscaler.bands(picture.read, height, width, note):
            writer.write(band)
    return ran


def _tell(result: Done) -> None:
    if result.status == "failed":
        tqdm.write(f"{Path(result.source).name}: failed: {result.error}")
        return
    size = f"{result.width}x{result.height}"
    tqdm.write(f"{result.source} -> {result.target}  {size}  {result.seconds:.1f} s")
    if result.bit_map:
        tqdm.write(f"{result.source} -> {result.bit_map}")
    if result.not_kept:
        tqdm.write(f"{result.source}: not kept: {', '.join(result.not_kept)}")
