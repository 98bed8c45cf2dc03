"""Run folders: their files, the lock that keeps out a second writer, and the log.

A run folder holds ``recipe.toml`` with every field, ``log.jsonl``, checkpoints, and at the end
``model.safetensors``.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.modelfiles.named import MODEL, RECIPE
from sr_quant_cli.system.files import finite, replacing, sweep
from sr_quant_cli.system.processes import from_first, world
from sr_quant_cli.system.reporting import note
from sr_quant_cli.training.trackers import Tracker

LOG = "log.jsonl"
CHECKPOINTS = "step-" + "[0-9]" * 8 + ".ckpt"
"""Pattern of the names of numbered checkpoints."""
TRAINABLE = "trainable.safetensors"
"""Model file with float weights beside the packed one, from which training can continue."""
STORE = "stages"
"""Folder beside the run folders for the stages that runs share."""
VALIDATION_PROTOCOL = "matlab"
"""Protocol of the PSNR in the log."""
_LOCK = ".lock"


def check_free(folder: Path) -> None:
    """Refuse a folder in which a run would replace files of the user.

    Raises
    ------
    UsageError
        No run has written there, but the folder holds files with the names that a run writes.
    """
    if (folder / _LOCK).exists() or any(folder.glob(CHECKPOINTS)):
        return
    names = (RECIPE, LOG, MODEL, TRAINABLE)
    if taken := [name for name in names if (folder / name).exists()]:
        raise UsageError(
            f"{folder} is no run folder, but holds {', '.join(taken)}; choose another one with "
            "`run_dir`"
        )


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other runs from writing to a run folder, which is made if it does not exist.

    Every rank of a distributed run calls this; rank 0 holds the lock. The system releases it when
    the process ends, whatever ends it. Temporary files of killed processes are removed. If the
    block fails before anything was kept there, a folder that was new is removed.

    Parameters
    ----------
    patience
        Seconds to wait for another run that writes there.

    Raises
    ------
    UsageError
        Another run writes there.
    FailedError
        Another run still writes there after the wait, or the folder cannot be made or written.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    if (folder / _LOCK).exists() and not _kept(folder):
        new = [folder]  # left by a process that was killed early
    lock = _make_lock(folder) if world().rank == 0 else None
    begun, told = time.monotonic(), False
    # Ranks that wait hear of it every time, or they would give rank 0 up for lost.
    while not from_first(lock is not None and _acquire(lock)):
        waited = time.monotonic() - begun
        if lock is not None and waited >= patience:
            if patience:
                raise FailedError(
                    f"{folder} is still being written by another run after {waited:.0f} s; run "
                    "the same command again to continue"
                )
            raise UsageError(
                f"{folder} is in use by another run; wait for it or choose another folder with "
                "`run_dir`"
            )
        if not told:
            note(f"{folder} is being written by another run; waiting for it")
            told = True
        time.sleep(max(min(1.0, patience - waited), 0.0))
    try:
        if lock is not None:
            sweep(folder)
        yield
    except BaseException:
        if lock is not None and not _kept(folder):
            _remove(folder, new)
        raise
    finally:
        if lock is not None:
            lock.release()


def _kept(folder: Path) -> bool:
    """Tell if a folder holds more than a run writes before its first step."""
    try:
        names = {path.name for path in folder.iterdir()}
        return not names <= {_LOCK, RECIPE, LOG} or bool(read_log(folder))
    except (OSError, UsageError):
        return True


def _remove(folder: Path, new: Sequence[Path]) -> None:
    """Remove what a run that kept nothing has written, and folders that it made."""
    with suppress(OSError):  # as where the folder has become read-only
        for name in (RECIPE, LOG, _LOCK):
            (folder / name).unlink(missing_ok=True)
        for place in new:
            place.rmdir()


def _make_lock(folder: Path) -> BaseFileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FailedError(f"cannot write in {folder}: {error.strerror or error}") from error
    return FileLock(folder / _LOCK, timeout=0)


def _acquire(lock: BaseFileLock) -> bool:
    """Take a lock unless another process has it."""
    try:
        lock.acquire()
        if not Path(lock.lock_file).exists():  # the run before has removed its folder
            lock.release()
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            return False
    except FileNotFoundError:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        return False
    except Timeout:
        return False
    except OSError as error:
        folder = Path(lock.lock_file).parent
        raise FailedError(f"cannot write in {folder}: {error.strerror or error}") from error
    return True


def in_use(folder: Path) -> bool:
    """Tell if a run is writing to the folder now."""
    if not (folder / _LOCK).is_file():
        return False
    try:
        with FileLock(folder / _LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # no write access, so no run of this user writes there
        return False


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of a log: ``step``, ``seconds``, and ``loss`` with ``lr`` or other values.

    An incomplete last line, as a crash leaves it, is skipped.

    Raises
    ------
    UsageError
        The file is no log, or cannot be read.
    """
    path = folder / LOG
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a readable log: {error}") from error
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
            if number == len(lines) and (line.startswith("{") or not line.strip("\0")):
                break
        if not (isinstance(entry, dict) and _is_number(entry.get("step"), entry.get("seconds"))):
            raise UsageError(f"{path}: line {number} is no log entry")
        entries.append(entry)
    return entries


def _is_number(*values: Any) -> bool:
    return all(type(value) in (int, float) for value in values)


class RunLog:
    """Writer of ``log.jsonl``.

    Parameters
    ----------
    after
        Step from which the run continues; later entries are removed, as it writes them again.
    trackers
        Receivers of the same values.
    """

    def __init__(self, folder: Path, *, after: int = 0, trackers: Sequence[Tracker] = ()) -> None:
        self._path = folder / LOG
        self._trackers = trackers
        kept = [entry for entry in read_log(folder) if entry["step"] <= after]
        with replacing(self._path) as temporary:
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")

    def write(self, step: int, seconds: float, **values: float) -> None:
        """Append one entry.

        Raises
        ------
        FailedError
            The disk is full, or the folder is gone.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line({"step": step, "seconds": round(seconds, 1), **values}))
        except OSError as error:
            raise FailedError(f"cannot write {self._path}: {error.strerror or error}") from error
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        """Finish all trackers."""
        for tracker in self._trackers:
            tracker.close()


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(finite(entry)) + "\n"
