"""The compiled library, seen by ctypes."""

import ctypes
import os
import time
from collections.abc import Sequence
from ctypes import c_char_p, c_float, c_int32, c_int64, c_ssize_t, c_void_p
from functools import cache

from sr_quant_cli.errors import UsageError
from sr_quant_cli.kernels.build import LIBRARY
from sr_quant_cli.records import record
from sr_quant_cli.system.processor import features

FORCED = "SRQ_ISA"
"""environment variable that names the instruction set to use instead of the best one"""

PORTABLE = "portable"
"""instruction set of plain C, without vectors"""

LAYOUT = 3
"""``SRQ_LAYOUT`` of ``kernels.h``"""

_PEAK_TRIES, _PEAK_ROUNDS = 9, 300_000

_NEEDED = {
    "avx512vnni": {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"},
    "avxvnni": {"avx2", "fma", "avx_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512vl"},
    "avx2": {"avx2", "fma"},
    PORTABLE: set(),
}
"""features, as Linux names them, that each instruction set of the library needs"""


class Conv(ctypes.Structure):
    """``srq_conv`` of ``kernels.h``."""

    _fields_ = (
        ("tile", c_int32),
        ("segments", c_int32),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("in_stride", c_int32),
        ("offsets", c_void_p),
        ("shifts", c_void_p),
        ("weights", c_void_p),
        ("start", c_void_p),
    )


class Output(ctypes.Structure):
    """``srq_output`` of ``kernels.h``."""

    _fields_ = (
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("slope", c_void_p),
        ("zero", c_float),
        ("low", c_float),
        ("high", c_float),
        ("skip", c_void_p),
        ("skip_stride", c_ssize_t),
        ("skip_step", c_int32),
        ("own", c_float),
        ("other", c_float),
        ("constant", c_float),
        ("skip_low", c_float),
        ("skip_high", c_float),
        ("codes", c_void_p),
        ("stride", c_ssize_t),
        ("step", c_int32),
        ("again", c_void_p),
        ("again_stride", c_ssize_t),
        ("again_step", c_int32),
        ("again_scale", c_float),
        ("again_low", c_float),
        ("again_high", c_float),
        ("again_bias", c_void_p),
    )


class CPlace(ctypes.Structure):
    """``srq_place`` of ``kernels.h``."""

    _fields_ = (("codes", c_void_p), ("row", c_ssize_t), ("step", c_int32))


class Border(ctypes.Structure):
    """``srq_border`` of ``kernels.h``."""

    _fields_ = (
        ("picture", CPlace),
        ("pad", c_int32),
        ("zero", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("factor", c_int32),
    )


CONVOLUTION, RECODE, ADD, SHUFFLE, ADD_BY_TABLE, MIX = range(6)
"""kinds of steps"""


MAX_INPUTS, MAX_TAPS = 4, 5
"""``SRQ_INPUTS`` and ``SRQ_TAPS`` of ``kernels.h``"""


class CMix(ctypes.Structure):
    """``srq_mix`` of ``kernels.h``."""

    _fields_ = (
        ("inputs", c_int32),
        ("others", c_int32),
        ("outputs", c_int32),
        ("factor", c_int32),
        ("taps", c_int32),
        ("phases", c_void_p),
        ("weights", c_void_p),
        ("other_weights", c_void_p),
        ("constant", c_void_p),
    )


class CStep(ctypes.Structure):
    """``srq_step`` of ``kernels.h``."""

    _fields_ = (
        ("kind", c_int32),
        ("channels", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("in_", CPlace),
        ("other", CPlace),
        ("out", CPlace),
        ("borders", Border * 2),
        ("run", c_void_p),
        ("conv", ctypes.POINTER(Conv)),
        ("output", ctypes.POINTER(Output)),
        ("table", c_void_p),
        ("table_step", c_int32),
        ("factor", c_int32),
        ("pixel_step", c_int32),
        ("channel_step", c_int32),
        ("scale", c_float),
        ("other_scale", c_float),
        ("constant", c_float),
        ("low", c_float),
        ("high", c_float),
        ("values", c_void_p),
        ("other_values", c_void_p),
        ("values_step", c_int32),
        ("other_values_step", c_int32),
        ("mix", ctypes.POINTER(CMix)),
    )


class Barrier(ctypes.Structure):
    """``srq_barrier`` of ``kernels.h``."""

    _fields_ = (("waiting", c_int32), ("round", c_int32), ("stopped", c_int32))


_RUN = ctypes.CFUNCTYPE(
    None,
    ctypes.POINTER(Conv),
    ctypes.POINTER(Output),
    c_void_p,
    c_ssize_t,
    c_int32,
    c_int32,
    c_int32,
    c_void_p,
)


_PEAK = ctypes.CFUNCTYPE(c_int64, c_int64)


class _Isa(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("lanes", c_int32),
        ("vectors", c_int32),
        ("quad", c_int32),
        ("sums", c_int32),
        ("run", _RUN),
        ("peak", _PEAK),
    )


@record
class Isa:
    """A kernel for one instruction set, and how weights are packed for it.

    Attributes
    ----------
    lanes, vectors
        Outputs of a vector of sums, and vectors that are summed together.
    quad
        Input channels whose weights lie together.
    sums
        Products of a code and a weight that are added in 16 bits; 0: in 32.
    """

    name: str
    lanes: int
    vectors: int
    quad: int
    sums: int
    run: "ctypes._NamedFuncPointer"
    peak: "ctypes._NamedFuncPointer"

    def adds(self, product: int) -> bool:
        """Tell if sums of products up to ``product`` do not overflow."""
        return self.sums <= 1 or self.sums * product <= 2**15 - 1


@cache
def _load() -> ctypes.CDLL | None:
    if not LIBRARY.is_file():
        return None
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        if loaded.srq_layout() != LAYOUT:
            return None
    except (OSError, AttributeError):
        return None
    loaded.srq_isa_at.restype = ctypes.POINTER(_Isa)
    loaded.srq_scratch.restype = c_int64
    loaded.srq_execute.restype = None
    return loaded


def library() -> ctypes.CDLL:
    """Load the library.

    Raises
    ------
    UsageError
        It was not built, or does not suit this machine.
    """
    loaded = _load()
    if loaded is None:
        raise UsageError(missing())
    return loaded


def missing() -> str:
    """Tell why there are no kernels, and what helps; empty: there are."""
    if _load() is not None:
        return ""
    if LIBRARY.is_file():
        return "its kernels were built for another version of srq or another system; install again"
    return (
        "its kernels were not built when srq was installed, for want of a C compiler; "
        "install gcc or clang, then srq again"
    )


@cache
def tile_transform() -> "ctypes._NamedFuncPointer":
    """Return the transforms of ``tiles.c``, compiled for the best instruction set here.

    Raises
    ------
    UsageError
        As ``library``.
    """
    avx2 = _NEEDED["avx2"] <= set(features().split())
    function: ctypes._NamedFuncPointer = library()[f"srq_tiles_{'avx2' if avx2 else PORTABLE}"]
    function.restype = None
    function.argtypes = (c_int32, c_void_p, c_void_p, c_void_p, *[c_int64] * 6)
    return function


def peak(isas: Sequence[Isa] | None = None) -> float:
    """Measure the multiply-adds of 8 bits a second that one thread can do.

    Parameters
    ----------
    isas
        Kernels of one instruction set; None: those of the one to use.

    Raises
    ------
    UsageError
        As ``kernels``.
    """
    multiply, rates = (isas or kernels())[0].peak, []
    for _ in range(_PEAK_TRIES):
        start = time.perf_counter()
        products = int(multiply(_PEAK_ROUNDS))
        rates.append(products / (time.perf_counter() - start))
    return max(rates)


def available() -> list[str]:
    """Names of the instruction sets that library and processor have, the best first."""
    return list(dict.fromkeys(isa.name for isa in all_kernels()))


def kernels() -> list[Isa]:
    """Kernels of the instruction set to use, those with the most sums in 16 bits first.

    Raises
    ------
    UsageError
        ``SRQ_ISA`` names one that is not there, or there is no library.
    """
    library()
    names = available()
    name = os.environ.get(FORCED) or names[0]
    if name not in names:
        raise UsageError(f"{FORCED}={name}: must be one of {', '.join(names)}")
    return kernels_of(name)


def kernels_of(name: str) -> list[Isa]:
    """Kernels of one instruction set, those with the most sums in 16 bits first."""
    return [isa for isa in all_kernels() if isa.name == name]


@cache
def all_kernels() -> tuple[Isa, ...]:
    """Kernels of all instruction sets that library and processor have, the best first."""
    loaded, here = _load(), set(features().split())
    found: list[Isa] = []
    while loaded is not None and (at := loaded.srq_isa_at(len(found))):
        isa = at.contents
        found.append(
            Isa(isa.name.decode(), isa.lanes, isa.vectors, isa.quad, isa.sums, isa.run, isa.peak)
        )
    return tuple(isa for isa in found if _NEEDED[isa.name] <= here)
