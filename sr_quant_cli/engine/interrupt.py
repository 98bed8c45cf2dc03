"""Interrupts that wait for the end of a step."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupts:
    """Notes SIGINT and SIGTERM instead of breaking off in the middle of an optimizer step.

    A checkpoint of half a step would not continue as the uninterrupted run does. A second signal
    breaks off at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
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
        if again:
            self.resume()
