"""Entry point of ``srq``."""

import atexit
import errno
import gc
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn, TextIO

from sr_quant_cli.cli.plugging import plug_in, take_plugins
from sr_quant_cli.cli.upscaling import carry_out, plain_request, quick_imports
from sr_quant_cli.errors import SrqError, out_of_memory
from sr_quant_cli.report.terminal import TerminalReporter, say
from sr_quant_cli.system.processes import world
from sr_quant_cli.system.reporting import reporting

RANK0_HEAD_START_S = 20
"""Seconds that the other processes of a machine wait while the first one reports a shared error."""

_LONGEST_LINE = 1000
"""Characters of an error; a path has up to 4096, and an option as many as the user gives."""

_STDOUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EBADF)
"""Errors of printing; those of writing to a file carry its name."""

_UNREAD = 141
"""Exit code of a command whose output nobody reads, as that of other programs: 128 + SIGPIPE."""


def main() -> None:
    """Run ``srq``; exit code 0 done, 1 failed, 2 wrong usage or input, 130, 141 or 143 ended early.

    With several processes, the first one prints; the others only report errors of their own.
    """
    atexit.register(gc.freeze)  # Python ends sooner without a last search for garbage
    _open_streams()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _terminate)
    if world().rank:
        _leave_terminal()
    try:
        with reporting(TerminalReporter(_in_flags)):
            code = _run(sys.argv[1:])
        sys.stdout.flush()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # Typer exits on it
            _end_unread()
        raise
    except SrqError as error:
        if isinstance(error.__cause__, BrokenPipeError):  # a picture on standard output
            _end_unread()
        _fail(_in_flags(str(error)), error.exit_code, shared=error.shared)
    except BrokenPipeError:
        _end_unread()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            _fail(f"{str(error.filename)[:100]}...: is too long for a file name", 2)
        _fail(_of_system(error), 1)
    except Exception as error:
        if _received:  # a library has wrapped what the signal raised in one of its callbacks
            sys.exit(128 + _received[0])
        if out_of_memory(error):
            _fail("out of memory: smaller tiles, batches or pictures take less", 1)
        # Typer's own errors, such as a missing argument, have no public base class.
        if not hasattr(error, "format_message"):
            raise
        from sr_quant_cli.cli.usage import usage_error

        _fail(f"{usage_error(error)} (see --help)", 2)
    else:
        sys.exit(code)
    finally:
        atexit.register(_ignore_interrupts)  # runs before what was registered earlier


def _run(arguments: Sequence[str]) -> int:
    """Run a command, without Typer if that is possible; return its exit code."""
    try:
        files, arguments = take_plugins(arguments)
        plug_in(files, arguments)
        if (request := plain_request(arguments)) is not None:
            carry_out(request)
            return 0
    except KeyboardInterrupt:
        return 130
    with quick_imports():
        from sr_quant_cli.cli.tree import needed
    # Typer reads the command line itself where it can, as Windows leaves patterns to it.
    return needed(arguments)(arguments if files else None, standalone_mode=False) or 0


def _in_flags(text: str) -> str:
    """Replace names of parameters by options, with an import only if there are any."""
    if "`" not in text:
        return text
    from typer.main import get_command

    from sr_quant_cli.cli.tree import app
    from sr_quant_cli.cli.usage import in_flags

    return in_flags(text, get_command(app))


def _open_streams() -> None:
    """Open the null device for closed streams, so that no file takes their descriptor.

    Characters that the encoding of standard output lacks are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _of_system(error: OSError) -> str:
    """Put an error of the system into words."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    return f"cannot write to standard output: {reason}" if error.errno in _STDOUT_ERRORS else reason


def _give_up(stream: TextIO) -> None:
    """Drop output that cannot be written, which Python would complain about at exit."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _end_unread() -> NoReturn:
    """End without a word, as the reader of standard output has gone, like ``head``."""
    _give_up(sys.stdout)
    _give_up(sys.stderr)
    sys.exit(_UNREAD)


def _terminate(number: int, _frame: FrameType | None) -> None:
    """Unwind, so that temporary files are removed and training is saved."""
    _received.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


_received: list[int] = []
"""Signals that have unwound the command."""


def _ignore_interrupts() -> None:
    """Let Python end in peace: nothing is left to interrupt."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _NoTerminal(io.TextIOWrapper):
    """Standard error without progress bars."""

    def isatty(self) -> bool:
        return False


def _leave_terminal() -> None:
    """Leave results and progress bars to the first process; errors are still printed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # TQDM_DISABLE has no effect if tqdm is asked to look for a terminal itself.
    sys.stderr = _NoTerminal(sys.stderr.buffer, encoding=sys.stderr.encoding, line_buffering=True)


def _shortened(line: str) -> str:
    """Leave out the middle of a line that repeats a very long name or value."""
    return line if len(line) <= _LONGEST_LINE else f"{line[:600]} ... {line[-300:]}"


def _fail(message: str, code: int, *, shared: bool = True) -> NoReturn:
    here = world()
    if shared and here.local_rank:
        # The first process of the machine reports the error, and torchrun then ends this one. If
        # this one ended earlier, torchrun would end the first before it can print.
        time.sleep(RANK0_HEAD_START_S)
    who = f"process {here.rank} of {here.size}: " if here.rank else ""
    _give_up(sys.stdout)
    with suppress(OSError):
        for line in message.split("\n"):
            say(f"srq: error: {who}{_shortened(line)}", sys.stderr)
    _give_up(sys.stderr)
    sys.exit(code)
