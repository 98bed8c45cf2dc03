"""The build of the library, with a compiler and without."""

import ctypes
import sys

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.kernels import build, library
from sr_quant_cli.runtimes.registry import get_runtime, runtimes


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    library._load.cache_clear()
    library.all_kernels.cache_clear()
    yield
    library._load.cache_clear()
    library.all_kernels.cache_clear()


def test_without_the_library_others_run(no_library):
    assert "no C compiler" not in library.missing()
    assert "its kernels were not built" in library.missing()
    assert "srq" not in [entry.name for entry in runtimes() if entry.installed]
    with pytest.raises(UsageError, match="for want of a C compiler"):
        get_runtime("srq").load()
    assert library.available() == []


@pytest.mark.slow
def test_the_library_is_built(tmp_path):
    if build.compiler() is None:
        pytest.skip("there is no C compiler")
    made = build.build(tmp_path / f"k{build.SUFFIX}", ["-O0"])
    loaded = ctypes.CDLL(str(made))
    loaded.srq_isa_at.restype = ctypes.c_void_p
    assert loaded.srq_isa_at(0)
    assert loaded.srq_layout() == library.LAYOUT


@pytest.mark.slow
@pytest.mark.parametrize("layout", [library.LAYOUT - 1, None])
def test_a_library_of_another_version_is_not_called(no_library, layout):
    if build.compiler() is None:
        pytest.skip("there is no C compiler")
    source = library.LIBRARY.with_suffix(".c")
    source.write_text(f"int srq_layout(void) {{ return {layout}; }}" if layout else "int other;")
    build._run([*build.compiler(), "-shared", "-fPIC", str(source), "-o", str(library.LIBRARY)])
    assert "were built for another version of srq" in library.missing()
    with pytest.raises(UsageError, match="another version"):
        library.library()


def test_a_compiler_that_fails_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", f"{sys.executable} -c 'raise SystemExit(1)'")
    with pytest.raises(OSError, match="it fails"):
        build.build(tmp_path / "k.so")
    assert not list(tmp_path.iterdir())


def test_a_machine_without_compiler_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match="there is no C compiler"):
        build.build(tmp_path / "k.so")


@pytest.mark.parametrize(("machine", "x86"), [("x86_64", True), ("AMD64", True), ("arm64", False)])
def test_other_processors_get_plain_c(machine, x86):
    sources = [unit.source for unit in build.units(machine)]
    assert "portable.c" in sources
    assert ("avx2.c" in sources) == x86
    assert all((build.SOURCES / source).is_file() for source in sources)
