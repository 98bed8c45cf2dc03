"""``srq doctor`` and ``srq cache``."""

import json

import numpy as np
import pytest

from sr_quant_cli import __version__
from sr_quant_cli.commands import doctor
from sr_quant_cli.errors import FailedError
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.runtimes.registry import runtimes
from sr_quant_cli.system.cached import KINDS
from sr_quant_cli.system.files import cache_dir
from tests.helpers import picture


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(doctor, "_SECONDS", 0.05)
    monkeypatch.setattr(doctor, "_SIZE", (12, 16))


@pytest.fixture
def filled():
    """A cache with a file of 7 bytes in each part, and one of the user's beside them."""
    for name in KINDS:
        (cache_dir() / name / "a").mkdir(parents=True)
        (cache_dir() / name / "a/b.bin").write_bytes(b"1234567")
    (cache_dir() / "mine.txt").write_text("mine")
    return cache_dir()


def test_the_state_of_an_installation(srq, tmp_path, filled):
    write_rgb(tmp_path / "data/benchmark/Set5/HR/a.png", picture(9, 9))
    code, out, err = srq("doctor", "--data-root", tmp_path / "data", "--json", tmp_path / "d.json")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["versions"]["srq"] == __version__
    assert found["versions"]["numpy"] == np.__version__
    assert [entry["name"] for entry in found["runtimes"]] == [entry.name for entry in runtimes()]
    assert found["data"] == {"Set5": 1}
    assert found["cache"]["bytes"] == 7 * len(KINDS)
    assert found["self_test"]["problem"] == ""
    assert found["self_test"]["megapixels_per_second"] > 0
    assert found["self_test"]["model"] in out
    for line in (
        "srq:  ",
        "processor:  ",
        "runtime:         torch: ready",
        "self-test:       passed",
    ):
        assert line in out


def test_a_failed_self_test_is_told_last_and_fails(srq, monkeypatch):
    def fail(*_):
        raise FailedError("out of memory")

    monkeypatch.setattr(doctor, "open_model", fail)
    code, out, err = srq("doctor")
    assert (code, err) == (1, "srq: error: self-test: out of memory\n")
    assert out.rstrip().endswith("self-test:       FAILED: out of memory")


def test_kernels_that_are_wrong_are_found(monkeypatch):
    if not doctor.available():
        pytest.skip("srq's kernels were not built here")

    class Wrong(doctor.Executor):
        def __call__(self, lr):
            return super().__call__(lr) // (2 if self.isa == doctor.PORTABLE else 1)

    monkeypatch.setattr(doctor, "Executor", Wrong)
    assert "levels from those in plain C" in doctor.diagnose().self_test.problem


def test_a_runtime_that_is_missing_says_why(monkeypatch):
    monkeypatch.setattr("sr_quant_cli.runtimes.registry.find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "_self_test", doctor.SelfTest)
    state = next(each for each in doctor.diagnose().runtimes if each.name == "openvino")
    assert state.problem == "it is not installed; 'pip install openvino' does"


def test_the_cache_is_shown_and_cleared(srq, filled, tmp_path):
    code, out, _ = srq("cache", "show", "--json", tmp_path / "c.json")
    assert code == 0
    assert f"{7 * len(KINDS)} bytes in {filled}" in out
    assert [p["files"] for p in json.loads((tmp_path / "c.json").read_text())["parts"]] == [1] * 3
    told = f"{len(KINDS)} files, {7 * len(KINDS)} bytes in {filled}"
    code, out, err = srq("cache", "clear")  # the standard input of tests is no terminal
    assert (code, out) == (2, "")
    assert err == f"srq: error: {told}: add --yes to remove them without being asked\n"
    assert (filled / "pairs/a/b.bin").exists()
    assert srq("cache", "clear", "--yes") == (0, f"removed {told}\n", "")
    assert [path.name for path in filled.rglob("*") if path.is_file()] == ["mine.txt"]
    assert srq("cache", "clear")[0] == 0  # nothing is left to ask about


@pytest.mark.parametrize(("answer", "left"), [("y\n", 1), ("n\n", 4), ("", 4)])
def test_clearing_asks_on_a_terminal(srq, filled, monkeypatch, answer, left):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    code, _, err = srq("cache", "clear")
    assert code == (0 if left == 1 else 1)
    assert "remove 3 files, 21 bytes" in err
    assert "Traceback" not in err
    assert sum(path.is_file() for path in filled.rglob("*")) == left


def test_links_in_the_cache_are_not_followed(srq, filled, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a.txt").write_text("keep")
    (filled / "graphs/link").symlink_to(precious)
    assert srq("cache", "clear", "--yes")[0] == 0
    assert (precious / "a.txt").read_text() == "keep"
    assert not (filled / "graphs/link").is_symlink()


def test_an_empty_cache(srq):
    assert srq("cache", "clear") == (0, f"removed 0 files, 0 bytes in {cache_dir()}\n", "")
