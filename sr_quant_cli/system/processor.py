"""Features of the processor that decide which graphs are made for it."""

import platform
import re
from contextlib import suppress
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
"""File in which Linux lists the features of the processor."""
_FLAGS = re.compile(r"flags|Features\b")
"""Beginning of the lines with features, on x86 and Arm."""


def features() -> str:
    """Return the type of the processor and the features that Linux lists for it."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    of_cores = {" ".join(sorted(line.split())) for line in lines if _FLAGS.match(line)}
    return " ".join([platform.machine(), *sorted(of_cores)])


def processor_name() -> str:
    """Return the name of the processor, as Linux or else Python knows it."""
    with suppress(OSError):
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_vnni() -> bool:
    """Tell if integer kernels accumulate products of 8-bit codes in 32 bits (x86 on Linux).

    Without VNNI, kernels may add pairs of products in 16 bits, and saturate.
    """
    try:
        return "_vnni" in CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False
