"""``srq app`` in a process of its own."""

import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial


@contextmanager
def serving(*options):
    """Start the page without a browser; yield the process and the address that it prints."""
    command = [sys.executable, "-m", "sr_quant_cli", "app", "--no-browser", *map(str, options)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Tests that run in the background of a script would pass on that SIGINT is ignored.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, text=True, preexec_fn=heard, **streams) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGKILL)


def stopped(process, number=signal.SIGINT):
    """Send a signal; return the exit code and what was printed to standard error."""
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    return process.returncode, told
