"""Pictures that ``srq upscale`` enlarges, and places of the results."""

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import SAVE_OPTIONS, list_folder

BIT_MAP = "_bits"
"""suffix of the name of a bit map, after the name of the enlargement"""

_ENLARGED = re.compile(rf"(.+)_x\d+(?:{BIT_MAP})?")
_TOLD = 3
"""names that are listed for each kind of skipped file"""


@dataclass(frozen=True)
class UpscaleJob:
    """One picture and the place of its enlargement."""

    source: Path
    target: Path

    @property
    def bit_map(self) -> Path:
        """Place of its bit map."""
        return self.target.with_name(f"{self.target.stem}{BIT_MAP}.png")


@dataclass(frozen=True)
class UpscalePlan:
    """The pictures to enlarge."""

    jobs: tuple[UpscaleJob, ...]
    left_out: str = ""
    """files of the folder that are skipped, in words for the user"""


def check_places(source: Path, output: str | Path | None) -> Path | None:
    """Refuse a missing input and an impossible output before any work is done.

    Returns
    -------
    The file that ``output`` names; None if it names a folder or nothing.

    Raises
    ------
    UsageError
        There is no such picture or folder, or the output does not fit it.
    """
    if not exists(source):
        raise UsageError(f"no such picture or folder: {source}")
    _, file = _output(output)
    if file is not None and source.is_dir():
        raise UsageError(
            f"is a file name, but the input {source} is a folder", field="output", value=output
        )
    return file


def exists(path: Path) -> bool:
    """True if there is a file or folder of that name.

    Raises
    ------
    UsageError
        The system does not allow such a name, or a folder on the way is not accessible.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise UsageError(f"{_short(path)}: {error.strerror}") from error
    return True


def plan_jobs(source: Path, scale: int, output: str | Path | None) -> UpscalePlan:
    """Decide the output of every input.

    ``IMAGE`` becomes ``IMAGE_x{scale}.png`` beside it, or goes to ``output``. That is a folder if
    it ends in a separator or exists as a folder, a file if it has a suffix of ``SAVE_OPTIONS``, and
    otherwise a folder. In a folder all pictures are taken but enlargements of others there. If two
    pictures differ in their suffixes alone, the second keeps its own: ``photo.png_x{scale}.png``.

    Raises
    ------
    UsageError
        The input does not exist, holds no pictures, or does not fit the output.
    """
    file = check_places(source, output)
    folder, _ = _output(output)
    if not source.is_dir():
        target = file or _place(source, folder) / _name(source.stem, scale)
        return UpscalePlan((UpscaleJob(source, target),))
    found = list_folder(source)
    sources, enlarged = _originals(found.pictures)
    left_out = ", ".join(
        _count(paths, kind)
        for paths, kind in (
            (found.others, "other file"),
            (found.folders, "subfolder"),
            (enlarged, "enlargement"),
        )
        if paths
    )
    if not sources:
        raise UsageError(f"no pictures in {source}" + (f", but {left_out}" if left_out else ""))
    targets = _targets(sources, scale)
    jobs = [
        UpscaleJob(path, _place(path, folder) / name)
        for path, name in zip(sources, targets, strict=True)
    ]
    return UpscalePlan(tuple(jobs), f"{source}: left out: {left_out}" if left_out else "")


def _output(output: str | Path | None) -> tuple[Path | None, Path | None]:
    """Folder or file that ``output`` names; neither: results go beside their inputs."""
    if output is None:
        return None, None
    path = Path(output)
    there = exists(path)
    if there and path.is_dir():
        return path, None
    suffix, text = path.suffix.lower(), os.fspath(output)
    as_folder = text.endswith((os.sep, os.altsep or os.sep))
    if suffix in SAVE_OPTIONS and not as_folder:
        return None, path
    if there:
        raise UsageError(
            f"is no folder, and ends in none of {', '.join(SAVE_OPTIONS)}",
            field="output",
            value=output,
        )
    if suffix and not as_folder:
        raise UsageError(
            f"suffix must be one of {', '.join(SAVE_OPTIONS)}; "
            f"for a folder, write {output}{os.sep}",
            field="output",
            value=output,
        )
    return path, None


def _place(source: Path, folder: Path | None) -> Path:
    return source.parent if folder is None else folder


def _originals(pictures: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Separate originals from pictures whose names mark them as enlargements of others."""
    names = {name for path in pictures for name in (path.stem, path.name)}
    originals: list[Path] = []
    enlarged: list[Path] = []
    for path in pictures:
        match = _ENLARGED.fullmatch(path.stem)
        (enlarged if match and match[1] in names else originals).append(path)
    return originals, enlarged


def _targets(sources: Sequence[Path], scale: int) -> list[str]:
    """Names of the outputs, all different even if the file system ignores case."""
    names: list[str] = []
    taken: set[str] = set()
    for source in sources:
        stem = source.stem
        while stem.casefold() in taken:
            stem += source.suffix
        taken.add(stem.casefold())
        names.append(_name(stem, scale))
    return names


def _name(stem: str, scale: int) -> str:
    return f"{stem}_x{scale}.png"


def _count(paths: Sequence[Path], kind: str) -> str:
    """Count paths and name the first few.

    >>> _count([Path(name) for name in "abcd"], "subfolder")
    '4 subfolders (a, b, c, ...)'
    """
    names = [path.name for path in paths[:_TOLD]] + ["..."] * (len(paths) > _TOLD)
    return f"{len(paths)} {kind}{'s' * (len(paths) > 1)} ({', '.join(names)})"


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"
