"""Interrupts that wait for the end of a step."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupts:
    """Notes SIGINT and SIGTERM instead of breaking off in the middle of a step.

    A checkpoint of half an optimizer step would not continue as the uninterrupted run does, and an
    exception raised inside a callback of another library is lost there. Python tells signals to the
    main thread; in another one nothing is noted.

    Parameters
    ----------
    patient
        A second signal waits as the first one does; else it breaks off at once.
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
        """Act on the signal that was noted, if one was."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            sys.exit(128 + self.received)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = number
        if again and not self._patient:
            self.resume()
