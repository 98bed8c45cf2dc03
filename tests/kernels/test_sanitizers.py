"""The kernels with AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sr_quant_cli.kernels import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIBRARIES = {"gcc": "libasan.so", "clang": "libclang_rt.asan-x86_64.so"}
"""shared form of AddressSanitizer of each compiler"""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """The library, and the variables of a process that can load it."""
    for compiler, name in LIBRARIES.items():
        if shutil.which(compiler) is None:
            continue
        told = subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        runtime = Path(told.stdout.strip())
        if runtime.is_absolute():
            break
    else:
        pytest.skip("needs gcc or clang with AddressSanitizer")
    options = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if compiler == "clang":
        options.append("-shared-libasan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", compiler)
        library = build.build(tmp_path_factory.mktemp("sanitized") / "kernels.so", options)
    variables = {
        "LD_PRELOAD": str(runtime.resolve()),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    return library, {**os.environ, **variables}


def run(sanitized, what):
    library, environment = sanitized
    command = [sys.executable, "-m", "tests.kernels.sanitized", str(library), what]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("what", ["sums", "programs", "tiles"])
def test_kernels_touch_nothing_else(sanitized, what):
    done = run(sanitized, what)
    assert done.returncode == 0, done.stderr


def test_an_overrun_is_found(sanitized):
    done = run(sanitized, "overrun")
    assert done.returncode
    assert "AddressSanitizer" in done.stderr
