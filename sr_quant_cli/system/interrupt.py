"""Interrupts that are deferred to the end of a step."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupts:
    """Context that records SIGINT and SIGTERM instead of interrupting in the middle of a step.

    A checkpoint of half an optimizer step would not continue like the uninterrupted run, and an
    exception raised inside a callback of another library is lost there. Python delivers signals to
    the main thread only; in other threads nothing is recorded.

    Parameters
    ----------
    patient
        Record further signals, too; by default a second signal interrupts at once.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.received: int | None = None
        self._patient = patient

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        numbers = _SIGNALS if main else ()
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def resume(self) -> None:
        """Act on the recorded signal, if there is one."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            sys.exit(128 + self.received)

    def interrupt(self) -> None:
        """Record SIGINT without a signal, from any thread."""
        self.received = signal.SIGINT

    def _note(self, number: int, _frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = number
        if again and not self._patient:
            self.resume()
