"""Pictures behind the inputs that a user names: files, folders, patterns, standard input."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from sr_quant_cli.commands.places import STREAM, exists
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import list_folder, picture_files
from sr_quant_cli.records import record


@record
class Found:
    """A picture, and the folder of its result below the output folder."""

    source: Path
    below: Path = Path()


@dataclass
class Input:
    """One input as it was typed, with the pictures found there and everything else."""

    text: str
    pictures: list[Found] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def find_pictures(
    text: str, *, recursive: bool = False, skip: Path | None = None, below_name: bool = False
) -> Input:
    """Find the pictures of an input.

    Parameters
    ----------
    recursive
        Enter the subfolders of a folder, but no symbolic links.
    skip
        Folder that is not entered, that of the results.
    below_name
        Put the results of a folder below its own name.

    Raises
    ------
    UsageError
        There is no such picture or folder, or nothing matches a pattern.
    """
    if text == str(STREAM):
        return Input(text, [Found(STREAM)])
    path = Path(text)
    if exists(path):
        if path.is_dir():
            found = Input(text)
            below = Path(path.resolve().name) if below_name else Path()
            _walk(found, path, below, recursive=recursive, skip=skip)
            return found
        # A file of the name that stands for standard input.
        return Input(text, [Found(path.absolute() if path == STREAM else path)])
    if glob.has_magic(text):
        return Input(text, list(_matches(text)))
    raise UsageError(f"no such picture or folder: {text}")


def _walk(found: Input, folder: Path, below: Path, *, recursive: bool, skip: Path | None) -> None:
    listing = list_folder(folder)
    found.pictures += [Found(path, below) for path in listing.pictures]
    found.others += listing.others
    for inner in listing.folders:
        if recursive and skip is not None and inner.samefile(skip):
            continue
        if not recursive or inner.is_symlink() or not os.access(inner, os.R_OK | os.X_OK):
            found.folders.append(inner)
        else:
            _walk(found, inner, below / inner.name, recursive=True, skip=skip)


def _matches(pattern: str) -> Iterator[Found]:
    """Yield the pictures that match, below the folders that the pattern does not spell out."""
    matching = {Path(match) for match in glob.glob(pattern, recursive=True)}  # noqa: PTH207
    folders = {path.parent for path in matching}
    pictures = {path for folder in folders for path in picture_files(folder)}
    if not matching & pictures:
        raise UsageError(f"no picture matches {pattern}")
    spelled = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parent.parts))
    for path in sorted(matching & pictures):
        yield Found(path, path.parent.relative_to(spelled))
