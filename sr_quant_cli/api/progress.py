"""Progress of a call as a callback, and silence otherwise."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

from sr_quant_cli.records import record
from sr_quant_cli.system import reporting
from sr_quant_cli.system.reporting import Silent, reporting_here


@record
class Progress:
    """State of a task.

    Attributes
    ----------
    task
        Name of the task; a call may have several, one after the other or one inside the other.
    done
        Number of finished steps, parts of one included.
    total
        Number of all steps.
    unit
        Name of a step: ``tile``, ``picture``, ``step``.

    Examples
    --------
    >>> Progress("upscaling", 3, 4, "tile").fraction
    0.75
    """

    task: str
    done: float
    total: int
    unit: str

    @property
    def fraction(self) -> float:
        """Finished part of the task, 0..1."""
        return self.done / self.total if self.total else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


ProgressCallback = Callable[[Progress], object]
"""Called in the thread of the call. An exception that it raises ends the call."""


class _Bar:
    """Progress of one task, passed on to a callback."""

    def __init__(self, callback: ProgressCallback, state: Progress) -> None:
        self._callback, self._state = callback, state

    def update(self, steps: float = 1) -> None:
        """Count finished steps, or parts of one."""
        now = self._state
        done = min(now.done + steps, now.total)
        self._state = Progress(now.task, done, now.total, now.unit)
        self._callback(self._state)

    def show(self, **values: str) -> None:
        """Drop the values."""


class _Listener(Silent):
    """Reporter that passes progress on to a callback, and warnings to the logger ``srq``."""

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback

    @contextmanager
    def progress(
        self, total: int, unit: str, what: str = "", done: int = 0
    ) -> Iterator[reporting.Progress]:
        """Follow the progress of a task."""
        yield _Bar(self._callback, Progress(what or unit, done, total, unit))


def quietly(callback: ProgressCallback | None) -> AbstractContextManager[None]:
    """Report to a callback alone during a block, in this thread."""
    return reporting_here(Silent() if callback is None else _Listener(callback))
