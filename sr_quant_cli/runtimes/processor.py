"""What decides about graphs, of the processor here."""

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
"""Where Linux tells the processor's features."""


def has_vnni() -> bool:
    """Whether integer kernels here add products of 8-bit codes in 32 bits, as Linux tells of x86.

    Kernels of other processors may add pairs of them in 16 bits, and saturate.
    """
    try:
        return "_vnni" in CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False
