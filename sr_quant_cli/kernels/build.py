"""Compilation of the kernels; run by the build of a wheel, or by ``python -m`` in a checkout.

It imports nothing but the standard library, as a build has nothing else.
"""

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "source"
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = FOLDER / f"srq_kernels{SUFFIX}"
"""compiled library, beside this file"""

X86 = ("x86_64", "amd64")
_FLAGS = (
    "-O3",
    "-std=gnu11",
    "-Wall",
    "-Werror",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
)
_STRIP = () if sys.platform == "darwin" else ("-s",)
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl")


class Unit(NamedTuple):
    """A source file, and the options that it is compiled with."""

    source: str
    options: tuple[str, ...] = ()


def units(machine: str | None = None) -> Iterator[Unit]:
    """Yield what the library for a machine consists of."""
    yield from (Unit("kernels.c"), Unit("steps.c"), Unit("portable.c"), _tiles("portable"))
    if (machine or platform.machine()).lower() in X86:
        yield _tiles("avx2", *_AVX2)
        yield Unit("vnni512.c", (*_AVX512, "-mavx512vnni"))
        yield Unit("vnni256.c", (*_AVX2, "-mavxvnni"))
        for sums in (8, 4, 2, 1):
            yield Unit("avx512.c", (*_AVX512, f"-DSUMS={sums}"))
            yield Unit("avx2.c", (*_AVX2, f"-DSUMS={sums}"))


def _tiles(name: str, *options: str) -> Unit:
    """The transforms of training, which may use fused multiply-adds."""
    return Unit("tiles.c", (*options, "-ffp-contract=fast", f"-DTRANSFORM_TILES=srq_tiles_{name}"))


def compiler() -> list[str] | None:
    """Find a C compiler: ``$CC``, clang, gcc, or the one of the package ziglang; None: none."""
    if given := os.environ.get("CC"):
        import shlex  # slow to import, as subprocess below

        return shlex.split(given)
    for name in ("clang", "gcc", "cc"):
        if sys.platform != "win32" and (found := shutil.which(name)):
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


def build(library: Path = LIBRARY, options: Sequence[str] = ()) -> Path:
    """Compile the library.

    Parameters
    ----------
    options
        Further options of the compiler, such as those of sanitizers.

    Raises
    ------
    OSError
        There is no compiler, or it fails; with the first line that it says.
    """
    command = compiler()
    if command is None:
        raise OSError("there is no C compiler; install gcc or clang, or 'pip install ziglang'")
    with tempfile.TemporaryDirectory() as folder:

        def compiled(index: int, unit: Unit) -> str:
            made = f"{folder}/{index}.o"
            source = str(SOURCES / unit.source)
            _run([*command, *_FLAGS, *options, *unit.options, "-c", source, "-o", made])
            return made

        parts = list(units())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, range(len(parts)), parts))
        made = Path(folder) / library.name
        _run([*command, *options, "-shared", *_STRIP, *objects, "-lm", "-o", str(made)])
        beside = library.with_name(f".{library.name}-{os.getpid()}")
        shutil.copyfile(made, beside)
        beside.replace(library)  # a process that has loaded the old one keeps it
    return library


def _run(command: list[str]) -> None:
    import subprocess

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or ["it fails"]
        raise OSError(f"{command[0]}: {said[0]}")


if __name__ == "__main__":
    print(build())
