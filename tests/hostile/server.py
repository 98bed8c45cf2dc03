"""A process that has imported srq and forks a child for each command line.

Importing takes seconds, a fork milliseconds. ``processes.py`` starts this program as an ordinary
user. Requests and answers are lines of JSON on standard input and output.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path

_OTHERS = (
    "matplotlib.pyplot",
    "onnxscript",
    "PIL.TgaImagePlugin",
    "scipy.ndimage",
    "skimage.metrics",
    "tifffile",
    "torch._dynamo",
    "torch.onnx",
)
"""Modules that commands import on their way."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate")
"""Audit events whose first argument is a path that changes."""
_STARTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pty.spawn")


def import_all() -> None:
    """Import srq but for its page, and what commands import later."""
    import sr_quant_cli

    for found in pkgutil.walk_packages(sr_quant_cli.__path__, "sr_quant_cli."):
        if ".web" not in found.name and not found.name.endswith(("__main__", "srq_kernels")):
            importlib.import_module(found.name)
    for name in _OTHERS:
        importlib.import_module(name)
    # Several threads would not survive a fork.
    assert len(os.listdir("/proc/self/task") if os.path.isdir("/proc") else "1") == 1  # noqa: PTH112, PTH208


def watch(folder: Path, report: str, network: bool) -> None:
    """Note what this process changes outside a folder, starts, or connects to."""
    inside = os.path.realpath(folder)
    log = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            bad = isinstance(flags, int) and flags & _WRITING and outside(path)
        elif event in _CHANGES:
            bad = outside(arguments[0])
        elif event in _STARTS:
            bad = True
        else:
            bad = event == "socket.connect" and not network
        if bad:
            os.write(log, f"{event} {arguments!r:.300}\n".encode("utf-8", "replace"))

    def outside(path: object) -> bool:
        if not isinstance(path, str | bytes):
            return False
        whole = os.path.realpath(os.fsdecode(path))
        return whole != os.devnull and not f"{whole}/".startswith(f"{inside}/")

    sys.addaudithook(note)


def limit(wanted: dict) -> None:
    """Bound the processor time, the memory and the files of this process."""
    if seconds := wanted.get("cpu"):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    if memory := wanted.get("memory"):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    if file := wanted.get("file"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))


def run(wanted: dict) -> None:
    """Be the process of a command line, and end."""
    folder = Path(wanted["folder"])
    code = 99
    try:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            target = os.open(wanted[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(target, number)
            os.close(target)
        source = os.open(wanted["stdin"] or os.devnull, os.O_RDONLY)
        os.dup2(source, 0)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace")
        for number in wanted["closed"]:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)
        os.environ.update(wanted["environment"])
        import tempfile

        tempfile.tempdir = None
        sys.argv = ["srq", *(os.fsdecode(bytes.fromhex(word)) for word in wanted["arguments"])]
        watch(folder, wanted["violations"], wanted["network"])
        limit(wanted)
        module, _, name = wanted["call"].partition(":")
        getattr(importlib.import_module(module), name)()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else ended.code is not None
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code)


def serve() -> None:
    """Answer requests: ``start`` forks a child, ``wait`` tells how it ended, if it has."""
    begun = {}
    for line in sys.stdin:
        wanted = json.loads(line)
        if wanted["do"] == "start":
            pid = os.fork()
            if not pid:
                run(wanted)
            begun[pid] = time.monotonic()
            answer = {"pid": pid}
        else:
            answer = waited(wanted["pid"], wanted["patience"], begun)
        print(json.dumps(answer), flush=True)


def waited(pid: int, patience: float, begun: dict[int, float]) -> dict:
    """Wait for a child; kill it when patience ends."""
    handle = os.pidfd_open(pid)
    try:
        late = not select.select([handle], [], [], patience)[0]
        if late:
            os.kill(pid, signal.SIGKILL)
        _, status, used = os.wait4(pid, 0)
    finally:
        os.close(handle)
    return {
        "late": late,
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - begun.pop(pid),
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
    }


if __name__ == "__main__":
    import_all()
    gc.collect()
    gc.freeze()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"ready": True, "resident": resident}), flush=True)
    serve()
