"""Pictures that ``srq upscale`` enlarges, and places of the results."""

import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from sr_quant_cli.commands.enlarge import default_suffix
from sr_quant_cli.commands.inputs import Found, Input, find_pictures
from sr_quant_cli.commands.places import STREAM, Place, check_folder, exists, parse_output
from sr_quant_cli.errors import UsageError
from sr_quant_cli.records import record

BIT_MAP, PREVIEW, SHEET = "_bits", "_preview", "_compare"
"""ends of the names of drawings, after the name of the enlargement"""

_SIZE = r"x\d+(?:\.\d+)?(?:x\d+(?:\.\d+)?)?|[wh]\d+|max\d+|\d+x\d+"
_ENLARGED = re.compile(rf"(.+)_(?:{_SIZE})(?:{BIT_MAP}|{PREVIEW}|{SHEET})?")
_LISTED = 3
"""names that are listed for each kind of skipped file"""


@record
class UpscaleJob:
    """One picture and the place of its enlargement; ``STREAM`` stands for a standard stream."""

    source: Path
    target: Path

    @property
    def bit_map(self) -> Path:
        """Place of its bit map."""
        return self.target.with_name(f"{self.target.stem}{BIT_MAP}.png")

    @property
    def preview(self) -> Path:
        """Place of the picture before and after."""
        return self.target.with_name(f"{self.target.stem}{PREVIEW}.png")


@record
class UpscalePlan:
    """The pictures to enlarge."""

    jobs: tuple[UpscaleJob, ...]
    left_out: str = ""
    """files that are skipped, in words for the user: a line for each input"""


@record
class Naming:
    """Names of results.

    Attributes
    ----------
    tag
        Text after the name of the picture, such as ``_x4``.
    suffix
        Suffix of the format, such as ``.png``; None: PNG, or the format of a picture with several
        frames or pages.

    Raises
    ------
    UsageError
        The tag cannot be part of a file name.
    """

    tag: str
    suffix: str | None = ".png"

    def __post_init__(self) -> None:
        if any(mark in self.tag for mark in ("/", "\\", "\0")):
            raise UsageError("must be a part of a file name", field="suffix", value=self.tag)

    def name(self, stem: str, source: Path) -> str:
        """Name of the result of a picture that is called ``stem``."""
        return f"{stem}{self.tag}{self.suffix or default_suffix(source)}"

    def original(self, stem: str) -> str | None:
        """Name of the picture whose enlargement has this name; None if that is no enlargement.

        >>> Naming("_big").original("a_big"), Naming("_big").original("a.jpg_x4_bits")
        ('a', 'a.jpg')
        """
        match = _ENLARGED.fullmatch(stem)
        if match is not None:
            return match[1]
        for drawing in (BIT_MAP, PREVIEW, SHEET):
            stem = stem.removesuffix(drawing)
        plain = stem.removesuffix(self.tag)
        return plain if self.tag and plain != stem else None


def plan_jobs(
    inputs: Sequence[str],
    naming: Naming,
    output: str | Path | None = None,
    *,
    recursive: bool = False,
) -> UpscalePlan:
    """Decide the output of every input.

    An input is a picture, a folder, a pattern such as ``photos/*.jpg``, or ``-`` for standard
    input. ``IMAGE`` becomes ``IMAGE_x4.png`` beside it, or goes to ``output`` (``parse_output``),
    where the results of a folder or pattern lie as the pictures do; several folders have one of
    their names each. Enlargements of pictures that are there are left out. If two pictures of a
    folder differ in their suffixes alone, the second keeps its own: ``photo.png_x4.png``.

    Raises
    ------
    UsageError
        An input does not exist, there are no pictures, the output does not fit, two results would
        be one file, or a result would replace an input.
    """
    place = check_places(inputs, output)
    skip = place.folder if place.folder is not None and exists(place.folder) else None
    several = sum(text != str(STREAM) and Path(text).is_dir() for text in inputs) > 1
    given = [
        find_pictures(text, recursive=recursive, skip=skip, below_name=several) for text in inputs
    ]
    found, left_out = _originals(given, naming)
    lines = [f"{text}: left out: {what}" for text, what in left_out.items()]
    if not found:
        told = "; ".join(left_out.values())
        raise UsageError(f"no pictures in {', '.join(inputs)}" + (f", but {told}" if told else ""))
    jobs = _jobs(found, naming, place)
    _check_jobs(jobs)
    return UpscalePlan(tuple(jobs), "\n".join(lines))


def check_places(inputs: Sequence[str], output: str | Path | None) -> Place:
    """Return the place of the results; standard output for standard input unless named.

    Raises
    ------
    UsageError
        A picture or folder is missing, or the output does not fit the inputs.
    """
    for text in inputs:
        if text != str(STREAM) and not exists(Path(text)) and not glob.has_magic(text):
            raise UsageError(f"no such picture or folder: {text}")
    place = parse_output(output)
    if str(STREAM) in inputs and len(inputs) > 1:
        raise UsageError("standard input (-) is one picture, and takes no other inputs beside it")
    if list(inputs) == [str(STREAM)] and output is None:
        return Place(file=STREAM)
    if place.file is None:
        return place
    what = "standard output" if place.file == STREAM else "a file name"
    for text in inputs:
        if Path(text).is_dir():
            raise UsageError(
                f"is {what}, but the input {text} is a folder", field="output", value=output
            )
    if len(inputs) > 1:
        raise UsageError(
            f"is {what}, but there are {len(inputs)} inputs", field="output", value=output
        )
    return place


def _originals(given: Sequence[Input], naming: Naming) -> tuple[list[Found], dict[str, str]]:
    """Separate originals from enlargements of them, and say what else is left out of each input."""
    seen: set[str] = set()
    names: defaultdict[Path, set[str]] = defaultdict(set)
    for item in (item for part in given for item in part.pictures):
        names[item.source.parent] |= {item.source.stem, item.source.name}
    originals, left_out = [], {}
    for part in given:
        enlarged = []
        for item in part.pictures:
            path = os.path.realpath(item.source)
            if naming.original(item.source.stem) in names[item.source.parent]:
                enlarged.append(item.source)
            elif path not in seen:  # a picture that is named twice
                originals.append(item)
            seen.add(path)
        told = ", ".join(_left_out(part, enlarged))
        if told:
            left_out[part.text] = told
    return originals, left_out


def _left_out(part: Input, enlarged: Sequence[Path]) -> Iterator[str]:
    for paths, kind in (
        (part.others, "other file"),
        (part.folders, "subfolder"),
        (enlarged, "enlargement"),
    ):
        if paths:
            yield _count(paths, kind)


def _jobs(found: Sequence[Found], naming: Naming, place: Place) -> list[UpscaleJob]:
    """Name the outputs, all different even if the file system ignores case."""
    if place.file is not None:
        if len(found) > 1:
            raise UsageError(
                f"is one file, but there are {len(found)} pictures",
                field="output",
                value=place.file,
            )
        return [UpscaleJob(found[0].source, place.file)]
    taken: dict[str, Path] = {}
    jobs = []
    for item in found:
        source = item.source
        folder = source.parent if place.folder is None else place.folder / item.below
        real, stem = os.path.realpath(folder), "stdin" if source == STREAM else source.stem
        while (key := f"{real}/{(name := naming.name(stem, source))}".casefold()) in taken:
            if taken[key].parent != source.parent:
                raise UsageError(f"{taken[key]} and {source} would both become {folder / name}")
            stem += source.suffix
        taken[key] = source
        jobs.append(UpscaleJob(source, folder / name))
    return jobs


def _check_jobs(jobs: Sequence[UpscaleJob]) -> None:
    """Refuse results that would replace an input, or that no folder can take."""
    sources = {os.path.realpath(job.source): job.source for job in jobs}
    for job in jobs:
        source = sources.get(os.path.realpath(job.target))
        if source is not None and job.target != STREAM:
            told = "the input itself" if source == job.source else f"the input {source}"
            raise UsageError(f"the result of {job.source} would replace {told}")
    for folder in dict.fromkeys(job.target.parent for job in jobs if job.target != STREAM):
        check_folder(folder)


def _count(paths: Sequence[Path], kind: str) -> str:
    """Count paths and name the first few.

    >>> _count([Path(name) for name in "abcd"], "subfolder")
    '4 subfolders (a, b, c, ...)'
    """
    names = [path.name for path in paths[:_LISTED]] + ["..."] * (len(paths) > _LISTED)
    return f"{len(paths)} {kind}{'s' * (len(paths) > 1)} ({', '.join(names)})"
