"""Plain command lines of ``srq upscale``, read without Typer: as Typer reads them."""

import gc
import os

import pytest

from sr_quant_cli.cli import upscaling
from sr_quant_cli.cli.tree import needed
from sr_quant_cli.cli.upscaling import plain_request, quick_imports
from sr_quant_cli.commands import upscale as core
from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture

PLAIN = [
    ["a.png"],
    ["a.png", "b.png", "-r"],
    ["-o", "out.png", "a.png", "--overwrite"],
    ["a.png", "--output", "out/", "--model", "fast", "--scale", "2.5"],
    ["a.png", "--recursive", "--scale", "1.5x1"],
]
OTHERS = [
    [],
    ["-"],
    ["a.png", "--help"],
    ["a.png", "--nonsense"],
    ["a.png", "-o"],
    ["a.png", "-o", "-"],
    ["a.png", "-o", ""],
    ["a.png", ""],
    ["a.png", "-o", "--overwrite"],
    ["a.png", "-o=out.png"],
    ["a.png", "--output=out.png"],
    ["a.png", "-o", "b.png", "--output", "c.png"],
    ["a.png", "--overwrite", "--overwrite"],
    ["a.png", "--", "b.png"],
    ["a.png", "--threads", "2"],
]


@pytest.fixture
def carried_out(monkeypatch, tmp_path):
    """Requests that reach the core, in a folder with two pictures."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        write_rgb(tmp_path / name, picture(8, 9))
    requests = []

    def keep(request):
        requests.append(request)
        return core.UpscaleReport("", None, ())

    monkeypatch.setattr(core, "upscale", keep)
    return requests


@pytest.mark.parametrize("arguments", PLAIN, ids=" ".join)
def test_plain_lines_mean_what_they_mean_to_typer(carried_out, arguments):
    line = ["upscale", *arguments]
    upscaling.carry_out(plain_request(line))
    needed(line)(line, standalone_mode=False)
    by_plain, by_typer = carried_out
    assert by_plain == by_typer


@pytest.mark.parametrize("arguments", OTHERS, ids=" ".join)
def test_all_other_lines_are_left_to_typer(arguments):
    assert plain_request(["upscale", *arguments]) is None


def test_other_commands_and_completion_are_left_to_typer(monkeypatch):
    assert plain_request(["info", "a.png"]) is None
    assert plain_request([]) is None
    monkeypatch.setenv("_SRQ_COMPLETE", "complete_bash")
    assert plain_request(["upscale", "a.png"]) is None


def test_errors_of_plain_lines_name_the_option(srq, tmp_path):
    write_rgb(tmp_path / "a.png", picture(8, 9))
    code, _, err = srq("upscale", tmp_path / "a.png", "--scale", "x")
    assert (code, err) == (2, "srq: error: --scale x: must be a factor such as 4, 2.5 or 1.5x1\n")
    code, _, err = srq("upscale", tmp_path / "a.png", "-o", tmp_path / "b.xyz")
    assert code == 2
    assert err.startswith(f"srq: error: --output {tmp_path}/b.xyz: suffix must be one of .png, ")


@pytest.mark.parametrize("by_user", [None, "3"])
def test_imports_leave_the_settings_of_the_process(monkeypatch, by_user):
    name = "OPENBLAS_NUM_THREADS"
    monkeypatch.delenv(name, raising=False)
    if by_user:
        monkeypatch.setenv(name, by_user)
    with quick_imports():
        assert os.environ[name] == (by_user or "1")
        assert not gc.isenabled()
    assert os.environ.get(name) == by_user
    assert gc.isenabled()
