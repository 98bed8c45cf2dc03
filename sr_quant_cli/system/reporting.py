"""Results, notes, warnings and progress of work that goes on, for whoever listens.

The work calls ``result``, ``note``, ``warn``, ``progress`` and ``track``, and never prints. By
default only warnings are heard, by Python's logger ``srq``. The command line listens with a
``Reporter`` of its own; so can a notebook or a service::

    with reporting(MyReporter()):
        quantize(request)
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Progress of one piece of work."""

    def update(self, steps: int = 1) -> None:
        """Count steps that are done."""

    def show(self, **values: str) -> None:
        """Show values beside it, as a loss."""


class Reporter(Protocol):
    """A listener to the work."""

    def result(self, line: str) -> None:
        """Hear a part of the result as soon as it is there."""

    def note(self, line: str) -> None:
        """Hear what the work does, or assumes."""

    def warn(self, line: str) -> None:
        """Hear what one should know, though the work goes on."""

    def progress(
        self, total: int, unit: str, what: str = "", done: int = 0
    ) -> AbstractContextManager[Progress]:
        """Watch a piece of work.

        Parameters
        ----------
        total, done
            Steps in all, and those done before.
        unit
            Name of a step; ``B`` for bytes.
        what
            Name of the work.
        """


class _Unseen:
    """Progress that nobody looks at."""

    def update(self, steps: int = 1) -> None:
        pass

    def show(self, **values: str) -> None:
        pass


class Silent:
    """The default: warnings go to the logger ``srq``, nothing else is heard."""

    def result(self, line: str) -> None:
        """Drop it."""

    def note(self, line: str) -> None:
        """Drop it."""

    def warn(self, line: str) -> None:
        """Log it."""
        logging.getLogger("srq").warning(line)

    @contextmanager
    def progress(self, total: int, unit: str, what: str = "", done: int = 0) -> Iterator[Progress]:
        """Give progress that nobody looks at."""
        yield _Unseen()


_reporter: Reporter = Silent()


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Let a reporter hear what is told in the block, by any thread."""
    global _reporter
    before, _reporter = _reporter, reporter
    try:
        yield
    finally:
        _reporter = before


def result(line: str) -> None:
    """Tell a part of the result as soon as it is there."""
    _reporter.result(line)


def note(line: str) -> None:
    """Tell what the work does, or assumes."""
    _reporter.note(line)


def warn(line: str) -> None:
    """Tell what one should know, though the work goes on."""
    _reporter.warn(line)


def progress(
    total: int, unit: str, what: str = "", done: int = 0
) -> AbstractContextManager[Progress]:
    """Show the progress of a piece of work; see ``Reporter.progress``."""
    return _reporter.progress(total, unit, what, done)


def track(items: Iterable[T], total: int, unit: str, what: str = "") -> Iterator[T]:
    """Give items one by one, and show how many are done."""
    with progress(total, unit, what) as bar:
        for item in items:
            yield item
            bar.update()
