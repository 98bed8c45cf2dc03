"""Files that are whole or absent: written under a temporary name, flushed, moved into place."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sr_quant_cli.errors import FailedError

_MARK = ".part-"


def cache_dir() -> Path:
    """Folder of derived files: ``SRQ_CACHE``, else ``~/.cache/srq``; it may be deleted."""
    return Path(os.environ.get("SRQ_CACHE") or Path.home() / ".cache" / "srq")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it onto ``path`` when the block succeeds.

    The temporary file keeps the suffix of ``path`` (encoders choose the format by it). It is
    flushed to disk before it is moved, the folder after, and it is removed when the block raises.

    Raises
    ------
    FailedError
        The folder cannot be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}{_MARK}", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # Not earlier: an encoder may have put a file of its own there.
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, report: Any) -> None:
    """Write ``report`` as indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that a killed process left behind in ``folder``."""
    return [path for path in folder.glob(f".*{_MARK}*") if path.is_file()]


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk, where the system lets folders be opened."""
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
