"""Processes that do the tasks of a study.

A worker does one task after another and ends after one that failed, so that every task begins in a
process that no other one has damaged. It ends with the process that started it.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sr_quant_cli.errors import SrqError, first_line, out_of_memory
from sr_quant_cli.plugins import run_file
from sr_quant_cli.system.reporting import Progress, Silent, reporting

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from sr_quant_cli.commands.study_work import Task

_SAVING_S = 120
"""Seconds that a worker has to save its training when the study is stopped."""
_MEMORY = "out of memory"


@dataclass(frozen=True)
class Ended:
    """End of a task; the reason if it failed, else None."""

    task: "Task"
    reason: str | None


class Workers:
    """At most ``count`` processes that do tasks.

    Parameters
    ----------
    out
        Study folder.
    plugins
        Python files that this process has run as plugins.
    """

    def __init__(self, count: int, out: Path, plugins: tuple[Path, ...]) -> None:
        self.count, self._out, self._plugins = count, out, plugins
        self._idle: list[_Worker] = []
        self._busy: dict[int, tuple[_Worker, Task]] = {}

    @property
    def running(self) -> int:
        """Number of tasks that run."""
        return len(self._busy)

    @property
    def free(self) -> bool:
        """True if another task may start."""
        return self.running < self.count

    def start(self, task: "Task", log: Path) -> None:
        """Start a task whose reports go to a file."""
        worker = self._idle.pop() if self._idle else _Worker(self._out, self._plugins)
        worker.send((task, log))
        self._busy[worker.process.sentinel] = worker, task

    def next_ended(self) -> Ended:
        """Wait for the end of a task."""
        ready = wait([worker.connection for worker, _ in self._busy.values()])
        sentinel, (worker, task) = next(
            (sentinel, pair) for sentinel, pair in self._busy.items() if pair[0].connection in ready
        )
        del self._busy[sentinel]
        try:
            reason = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            return Ended(task, _death(worker.process.exitcode or 0))
        if reason is None:
            self._idle.append(worker)
        else:
            worker.process.join()
        return Ended(task, reason)

    def stop(self) -> None:
        """End all workers; trainings are saved first."""
        workers = [*self._idle, *(worker for worker, _ in self._busy.values())]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_SAVING_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._idle, self._busy = [], {}


class _Worker:
    """A process, and this side of its connection."""

    def __init__(self, out: Path, plugins: tuple[Path, ...]) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, out, plugins), name="srq study"
        )
        self.process.start()
        theirs.close()

    def send(self, work: Any) -> None:
        self.connection.send(work)


def _death(code: int) -> str:
    """Say how a process ended."""
    if code == -getattr(signal, "SIGKILL", 9):
        return "killed (SIGKILL), as systems do when memory runs out"
    if code < 0:
        return f"killed ({signal.Signals(-code).name})"
    return f"its process ended with exit code {code}"


def _serve(connection: Connection, out: Path, plugins: tuple[Path, ...]) -> None:
    """Body of a worker: do what is sent until the study ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the study ends its workers itself
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for file in plugins:
        run_file(file)
    from sr_quant_cli.commands.study_work import work

    while True:
        task, log = connection.recv()
        reason = _reason(partial(work, task, out), log)
        connection.send(reason)
        if reason is not None:
            return


def _end_with_parent() -> None:
    """Save and end when the process of the study is gone, however it ended."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _reason(do: Callable[[], None], log: Path) -> str | None:
    """Do something with its reports in a file; return the reason if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, reporting(_ToFile(file)):
        try:
            do()
        except SrqError as error:
            reason = str(error).replace("\n", "; ")
        except Exception as error:
            traceback.print_exc(file=file)
            if out_of_memory(error):
                reason = _MEMORY
            else:
                reason = f"{type(error).__name__}: {first_line(error)}; see {log.name}"
        else:
            return None
        file.write(f"failed: {reason}\n")
        return reason


class _ToFile(Silent):
    """Reporter that writes lines to a file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def result(self, line: str) -> None:
        self.note(line)

    def note(self, line: str) -> None:
        self._file.write(f"{line}\n")
        self._file.flush()

    def warn(self, line: str) -> None:
        self.note(f"warning: {line}")

    @contextmanager
    def progress(self, total: int, unit: str, what: str = "", done: int = 0) -> Iterator[Progress]:
        yield _Lines(self, total, unit, done)


class _Lines:
    """Progress that writes the values that are shown."""

    def __init__(self, reporter: _ToFile, total: int, unit: str, done: float) -> None:
        self._reporter, self._total, self._unit, self._done = reporter, total, unit, done

    def update(self, steps: float = 1) -> None:
        self._done += steps

    def show(self, **values: str) -> None:
        shown = "  ".join(f"{key} {value}" for key, value in values.items())
        self._reporter.note(f"{self._unit} {int(self._done)}/{self._total}  {shown}")
