"""What decides about graphs, of the processor here."""

import platform
import re
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
"""Where Linux tells the processor's features."""
_FLAGS = re.compile(r"flags|Features\b")
"""What lines about them begin with, of x86 and ARM."""


def features() -> str:
    """Kind of processor, and the instructions that Linux tells of it."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    of_cores = {" ".join(sorted(line.split())) for line in lines if _FLAGS.match(line)}
    return " ".join([platform.machine(), *sorted(of_cores)])


def has_vnni() -> bool:
    """Whether integer kernels here add products of 8-bit codes in 32 bits, as Linux tells of x86.

    Kernels of other processors may add pairs of them in 16 bits, and saturate.
    """
    try:
        return "_vnni" in CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False
