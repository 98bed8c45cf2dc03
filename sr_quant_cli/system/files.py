"""Atomic files: written into a temporary folder, flushed to disk, and moved into place."""

import csv
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from sr_quant_cli import __version__
from sr_quant_cli.errors import FailedError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

REPORT = b'{\n  "srq": "'
"""First bytes of every JSON report of srq."""
TABLE = b"model,"
"""Beginning of the CSV files of ``srq eval`` and ``srq bench``."""

PAGE = b"<!-- written by srq -->"
"""First line of every Markdown page of srq."""
HTML_PAGE = b"<!doctype html><!-- written by srq -->"
"""First bytes of every HTML page of srq."""
SOFTWARE = {"Software": "srq"}
"""Metadata of every PNG file that srq draws."""
DRAWING = b"Software\0srq"
"""Mark among the first bytes of such a PNG file."""

_PREFIX = ".srq-tmp-"
_LOCK = "srq.lock"
_HEAD = 4096
"""Number of leading bytes that are searched for a mark."""

_swept: set[Path] = set()
"""Folders from which this process has removed leftovers."""


def cache_dir() -> Path:
    """Return the cache folder, which may be deleted: ``SRQ_CACHE``, else ``~/.cache/srq``.

    Raises
    ------
    UsageError
        ``SRQ_CACHE`` is a file.
    """
    named = os.environ.get("SRQ_CACHE")
    if named and Path(named).is_file():
        raise UsageError(f"SRQ_CACHE={named} is a file: name a folder, which is made if needed")
    return Path(named or Path.home() / ".cache" / "srq")


def user_models_dir() -> Path:
    """Return the folder of the user's models: ``SRQ_MODELS``, else one by platform convention."""
    if named := os.environ.get("SRQ_MODELS"):
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("srq", appauthor=False) / "models"


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Create a hidden folder for temporary files in ``parent``; remove it at the end.

    The process holds a lock in the folder. The next process that writes to ``parent`` removes the
    folders of processes that were killed.

    Raises
    ------
    OSError
        The folder cannot be created.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if parent not in _swept:
        _swept.add(parent)
        sweep(parent)
    folder, unlock = _locked_folder(parent)
    try:
        yield folder
    finally:
        unlock()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; move it to ``path`` if the block succeeds.

    The file is flushed to disk before the move, the folder after it. Nothing is left behind if the
    block raises. Symbolic links are followed.

    Raises
    ------
    FailedError
        The folder cannot be written, the disk is full, or ``path`` is not a regular file.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise FailedError(f"cannot write {path}: it is no regular file")
        with scratch(target.parent) as folder:
            temporary = folder / target.name
            yield temporary
            # Some encoders create files that only their owner may read.
            temporary.chmod(0o666 & ~_umask())
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror or error}") from error


def leftovers(folder: Path) -> list[Path]:
    """List the temporary folders in ``folder``, including those in use."""
    return [path for path in folder.glob(f"{_PREFIX}*") if _is_scratch(path)]


def sweep(folder: Path) -> None:
    """Remove the temporary folders in ``folder`` whose processes have ended."""
    for path in leftovers(folder):
        try:
            unlock = _lock(path / _LOCK)
        except OSError:  # in use, or another user's
            continue
        shutil.rmtree(path, ignore_errors=True)
        unlock()


def check_own(path: Path, mark: bytes) -> None:
    """Refuse to replace a file that srq did not write; empty files may be replaced.

    Parameters
    ----------
    mark
        Bytes at the beginning of srq's files of that kind.

    Raises
    ------
    UsageError
        ``path`` is such a file, or not a regular file.
    """
    try:
        if not path.exists():
            return
        if not path.is_file():
            raise UsageError(f"{path} is no regular file")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UsageError(f"cannot look at {path}: {error.strerror}") from error
    if head and mark not in head:
        raise UsageError(f"{path} exists, and srq did not write it: choose another name")


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path | str | None]) -> None:
    """Refuse outputs of a command that are among its inputs, or are one file twice.

    Parameters
    ----------
    outputs
        Paths to write, by the parameter that names each.

    Raises
    ------
    UsageError
        With the parameter.
    """
    taken = {os.path.realpath(path): "an input of this command" for path in inputs if path}
    for field, path in outputs.items():
        if path is not None:
            place = os.path.realpath(path)
            if place in taken:
                raise UsageError(f"is {taken[place]}", field=field, value=path)
            taken[place] = f"what `{field}` writes, too"


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as indented JSON, atomically; numbers that are not finite become null.

    Raises
    ------
    UsageError
        ``path`` is a file other than an earlier report.
    FailedError
        The report cannot be written.
    """
    marked = finite({"srq": __version__, **report})
    write_marked(path, REPORT, json.dumps(marked, indent=2, allow_nan=False) + "\n")


def write_marked(path: Path, mark: bytes, text: str) -> None:
    """Write a text that begins with a mark of srq's, atomically.

    Raises
    ------
    UsageError
        ``path`` is a file without that mark.
    FailedError
        The text cannot be written.
    """
    check_own(path, mark)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_markdown(path: Path, text: str) -> None:
    """Write a page with a comment that marks it as srq's, as ``write_marked`` does."""
    write_marked(path, PAGE, f"{PAGE.decode()}\n{text}")


def write_csv(path: Path, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as comma-separated values, atomically; None becomes an empty cell.

    Raises
    ------
    UsageError
        ``path`` is a file other than an earlier table with the same first column.
    FailedError
        The table cannot be written.
    """
    check_own(path, f"{headings[0]},".encode())
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        writer.writerows(rows)


def write_sealed(path: Path, values: Any) -> None:
    """Write plain values as JSON, atomically, with a hash that reveals damage.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    sealed = {"sha256": _hash(values), "values": values}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(sealed), encoding="utf-8")


def read_sealed(path: Path) -> Any:
    """Read values from ``write_sealed``; None if they are missing, unreadable or damaged."""
    try:
        sealed = json.loads(path.read_bytes())
        return sealed["values"] if sealed["sha256"] == _hash(sealed["values"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _hash(values: Any) -> str:
    return sha256(json.dumps(values).encode()).hexdigest()


def finite(value: Any) -> Any:
    """Replace numbers that JSON cannot represent by None.

    >>> finite({"psnr": [30.5, float("inf")]})
    {'psnr': [30.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_scratch(path: Path) -> bool:
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:  # removed meanwhile, or not a folder
        return False
    return not path.is_symlink() and (not names or _LOCK in names)


def _locked_folder(parent: Path) -> tuple[Path, Callable[[], object]]:
    """Make a temporary folder and lock it; the second value is what unlocks it."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=_PREFIX))
        try:
            return folder, _lock(folder / _LOCK)
        except (FileNotFoundError, BlockingIOError, TimeoutError):
            continue  # another process removes it as a leftover
        except OSError:  # a file system without locks, where no process removes leftovers
            return folder, lambda: None


def _lock(path: Path) -> Callable[[], object]:
    """Lock a file as filelock does, which is slow to import; return what unlocks it.

    Raises
    ------
    OSError
        Another process has locked or removed it, or the file system has no locks.
    """
    if fcntl is None:
        from filelock import FileLock

        lock = FileLock(path, timeout=0)
        lock.acquire()
        return lock.release
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(handle).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "was removed before it was locked", str(path))
    except OSError:
        os.close(handle)
        raise
    return partial(os.close, handle)


def _sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, on systems that can open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
