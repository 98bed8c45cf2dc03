"""Results, notes, warnings and progress of running work.

The work calls ``result``, ``note``, ``warn``, ``progress`` and ``track``, and never prints. By
default warnings go to Python's logger ``srq``, and the rest is dropped. The command line installs a
``Reporter`` of its own for the process. The Python API installs one for the calling thread::

    with reporting_here(MyReporter()):
        quantize(request)
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Progress of one task."""

    def update(self, steps: float = 1) -> None:
        """Count finished steps, or parts of one."""

    def show(self, **values: str) -> None:
        """Show values next to the progress, such as a loss."""


class Reporter(Protocol):
    """Receiver of everything that running work reports."""

    def result(self, line: str) -> None:
        """Receive a part of the result as soon as it is available."""

    def note(self, line: str) -> None:
        """Receive information on what the work does or assumes."""

    def warn(self, line: str) -> None:
        """Receive a warning; the work continues."""

    def progress(
        self, total: int, unit: str, what: str = "", done: int = 0
    ) -> AbstractContextManager[Progress]:
        """Follow the progress of a task.

        Parameters
        ----------
        total, done
            Number of all steps, and of those finished before.
        unit
            Name of a step; ``B`` for bytes.
        what
            Name of the task.
        """


class _Unseen:
    """Progress that is not shown."""

    def update(self, steps: float = 1) -> None:
        pass

    def show(self, **values: str) -> None:
        pass


class Silent:
    """Default reporter: warnings go to the logger ``srq``, the rest is dropped."""

    def result(self, line: str) -> None:
        """Drop the line."""

    def note(self, line: str) -> None:
        """Drop the line."""

    def warn(self, line: str) -> None:
        """Log the line."""
        logging.getLogger("srq").warning(line)

    @contextmanager
    def progress(self, total: int, unit: str, what: str = "", done: int = 0) -> Iterator[Progress]:
        """Return progress that is not shown."""
        yield _Unseen()


_reporter: Reporter = Silent()
_here: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting_here(reporter: Reporter) -> Iterator[None]:
    """Use a reporter during the block, in this thread alone."""
    token = _here.set(reporter)
    try:
        yield
    finally:
        _here.reset(token)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Use a reporter during the block, in all threads that have none of their own."""
    global _reporter
    before, _reporter = _reporter, reporter
    try:
        yield
    finally:
        _reporter = before


@contextmanager
def results_as_notes() -> Iterator[None]:
    """Report results as notes during the block, where standard output holds something else."""
    with reporting(_NotesOnly(_current())):
        yield


class _NotesOnly:
    """Reporter that passes everything on, results as notes."""

    def __init__(self, reporter: Reporter) -> None:
        self.result = self.note = reporter.note
        self.warn, self.progress = reporter.warn, reporter.progress


def _current() -> Reporter:
    return _here.get() or _reporter


def result(line: str) -> None:
    """Report a part of the result as soon as it is available."""
    _current().result(line)


def note(line: str) -> None:
    """Report what the work does or assumes."""
    _current().note(line)


def warn(line: str) -> None:
    """Report a warning; the work continues."""
    _current().warn(line)


def progress(
    total: int, unit: str, what: str = "", done: int = 0
) -> AbstractContextManager[Progress]:
    """Report the progress of a task; see ``Reporter.progress``."""
    return _current().progress(total, unit, what, done)


def track(items: Iterable[T], total: int, unit: str, what: str = "") -> Iterator[T]:
    """Yield items one by one and report how many are finished."""
    with progress(total, unit, what) as bar:
        for item in items:
            yield item
            bar.update()
