"""Places of results: files, folders, and standard output."""

import errno
import os
from pathlib import Path

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import can_write, writable_suffixes
from sr_quant_cli.records import record

STREAM = Path("-")
"""standard input or output in place of a file"""

STREAM_NAME = "standard input"
"""name of its content in messages"""


@record
class Place:
    """File or folder that an output names; neither: results go beside their inputs."""

    file: Path | None = None
    folder: Path | None = None


def parse_output(output: str | Path | None) -> Place:
    """Find out what an output names.

    A folder ends in a separator, or exists; a file has a suffix of a format that can be written;
    every other name without a suffix is that of a new folder. ``-`` is standard output.

    Raises
    ------
    UsageError
        It is neither a folder nor a picture.
    """
    if output is None:
        return Place()
    path = Path(output)
    if os.fspath(output) == str(STREAM):
        return Place(file=STREAM)
    there = exists(path)
    if there and path.is_dir():
        return Place(folder=path)
    suffix, text = path.suffix.lower(), os.fspath(output)
    as_folder = text.endswith((os.sep, os.altsep or os.sep))
    if not as_folder and can_write(suffix):
        return Place(file=path)
    if not suffix and not there:
        return Place(folder=path)
    known = ", ".join(writable_suffixes())
    if there:
        raise UsageError(
            f"is no folder, and ends in none of {known}",
            field="output",
            value=output,
        )
    if not as_folder:
        raise UsageError(
            f"suffix must be one of {known}; for a folder, write {output}{os.sep}",
            field="output",
            value=output,
        )
    return Place(folder=path)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made, or in which no file can be made.

    Raises
    ------
    UsageError
        With the part of its path that is in the way.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if exists(path))
    if not there.is_dir():
        raise UsageError(f"cannot make the folder {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write to {folder}: no permission to change {there}")


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


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"
