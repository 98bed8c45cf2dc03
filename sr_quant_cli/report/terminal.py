"""Reporter for the terminal: results on standard output, everything else on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from sr_quant_cli.system.processes import world
from sr_quant_cli.system.reporting import Progress
from sr_quant_cli.system.terminal import printable

if TYPE_CHECKING:
    from tqdm import tqdm


INTERVAL_S = 30.0
"""Least seconds between two lines on the progress of work, where there is no terminal."""


def say(text: object = "", file: TextIO | None = None) -> None:
    """Print lines with control characters escaped; by default to standard output."""
    for line in str(text).split("\n"):
        print(printable(line), file=file or sys.stdout, flush=True)


class TerminalReporter:
    """Reporter that prints lines and progress bars.

    With several processes, only the first one prints notes and warnings.

    Parameters
    ----------
    wording
        Function that replaces names of parameters in a line by options.
    """

    def __init__(self, wording: Callable[[str], str] = str) -> None:
        self._wording = wording
        self._told = time.monotonic()

    def result(self, line: str) -> None:
        """Print a line to standard output, above bars."""
        self._told = time.monotonic()
        with _above_bars():
            say(self._wording(line))

    def note(self, line: str) -> None:
        """Print a line to standard error, above bars."""
        self._told = time.monotonic()
        if world().rank == 0:
            with _above_bars():
                say(self._wording(line), sys.stderr)

    def warn(self, line: str) -> None:
        """Print a line to standard error that begins with ``srq: warning``."""
        self.note(f"srq: warning: {line}")

    @contextmanager
    def progress(self, total: int, unit: str, what: str = "", done: int = 0) -> Iterator[Progress]:
        """Draw a bar if standard error is a terminal; else print lines.

        These have the values given to ``show``; without any, the finished steps from time to time.
        """
        if not sys.stderr.isatty():
            yield _Lines(self._remind, unit, what, done, total)
            return
        from tqdm import tqdm  # slow to import

        bar: tqdm[Any] = tqdm(
            total=total,
            initial=done,
            desc=printable(what) or None,
            unit=unit,
            unit_scale=unit == "B",
            bar_format=_format(unit, what),
            leave=not what,
        )
        with bar:
            yield _Bar(bar)

    def _remind(self, state: Callable[[], str]) -> None:
        """Note the state of work if nothing has been told for a while."""
        if time.monotonic() - self._told >= INTERVAL_S:
            self.note(state())


_WITH_VALUES = "{n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"
"""Format of bars without a name, which leaves room for values in 80 columns."""


_WITH_RATE = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
"""Format of bars with a name, which shows whole steps only."""


def _format(unit: str, what: str) -> str | None:
    """Format of a bar; None: the one of tqdm, which scales bytes."""
    if unit == "B":
        return None
    return _WITH_RATE if what else _WITH_VALUES


class _Bar:
    """Progress bar."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar

    def update(self, steps: float = 1) -> None:
        self._bar.update(steps)

    def show(self, **values: str) -> None:
        self._bar.set_postfix(values)


class _Lines:
    """Progress as lines of text, where there is no terminal."""

    def __init__(
        self,
        remind: Callable[[Callable[[], str]], None],
        unit: str,
        what: str,
        done: int,
        total: int,
    ) -> None:
        self._remind, self._unit, self._what, self._total = remind, unit, what, total
        self._before, self._done = done, float(done)
        self._begun, self._shown = time.monotonic(), False
        remind(self._state)

    def update(self, steps: float = 1) -> None:
        self._done += steps
        if not self._shown:
            self._remind(self._state)

    def show(self, **values: str) -> None:
        self._shown = True
        shown = "  ".join(f"{key} {value}" for key, value in values.items())
        say(f"{self._count()}  {shown}{self._left()}")

    def _state(self) -> str:
        return f"{self._what}{': ' * bool(self._what)}{self._count()}{self._left()}"

    def _count(self) -> str:
        if self._unit == "B":
            return f"{self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB"
        return f"{self._unit} {int(self._done)}/{self._total}"

    def _left(self) -> str:
        if not (here := self._done - self._before):
            return ""
        left = (time.monotonic() - self._begun) / here * (self._total - self._done)
        return f"  {left / 60:.0f} min left"


@contextmanager
def _above_bars() -> Iterator[None]:
    """Hide bars while lines are printed; without tqdm imported there are none."""
    if "tqdm" not in sys.modules:
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(sys.stdout):
        yield
