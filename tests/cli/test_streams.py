"""Standard streams that are closed, full or in another encoding, and lack of memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture

FULL = Path("/dev/full")


def run(*arguments, close=None, **streams):
    """Run srq in a separate process, optionally with a closed stream."""
    command = [sys.executable, "-m", "sr_quant_cli", *map(str, arguments)]
    if close is not None:
        script = f'exec "$@" {close}>&-'
        command = ["sh", "-c", script, "sh", *command]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(command, text=True, check=False, **given)


def broken_pipe():
    """Return the writing end of a pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.skipif(not FULL.exists(), reason="no device here that is always full")
@pytest.mark.parametrize("command", [("data", "list"), ("--help",)])
def test_a_full_standard_output_is_told_in_one_line(command):
    with FULL.open("w") as full:
        ended = run(*command, stdout=full)
    assert ended.returncode == 1
    line = "srq: error: cannot write to standard output: No space left on device\n"
    assert ended.stderr == line


@pytest.mark.parametrize("command", [("data", "list"), ("recipes", "fields"), ("--help",)])
def test_a_reader_that_is_gone_ends_the_command_without_a_word(command):
    writing = broken_pipe()
    ended = run(*command, stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.slow
def test_a_reader_that_does_not_want_the_picture_ends_the_command_without_a_word(tmp_path):
    write_rgb(tmp_path / "a.png", picture(9, 9))
    writing = broken_pipe()
    ended = run("upscale", tmp_path / "a.png", "-o", "-", stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="no device here that is always full")
def test_an_error_that_cannot_be_told_keeps_its_exit_code():
    with FULL.open("w") as full:
        assert run("data", "get", "nothing", stderr=full).returncode == 2
        assert run("data", "get", "nothing", stdout=full, stderr=full).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_closed_stream_stops_nothing(tmp_path, stream):
    report = tmp_path / "r.json"
    ended = run("data", "list", "--json", report, close=stream)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert report.read_text().startswith('{\n  "srq": ')
    # A file with the descriptor of a closed stream would also receive what is printed.
    assert run("data", "get", "nothing", close=stream).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("stream", [0, 1])
def test_a_picture_neither_comes_from_nor_goes_to_a_closed_stream(tmp_path, stream):
    write_rgb(tmp_path / "a.png", picture(9, 9))
    source = ("-", "-o", tmp_path / "b.png") if stream == 0 else (tmp_path / "a.png", "-o", "-")
    ended = run("upscale", *source, close=stream)
    name = ("input", "output")[stream]
    told = f"srq: error: standard {name} is closed\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", told)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.slow
def test_names_that_the_encoding_does_not_have_are_spelled_out(tiny_model, tmp_path):
    copy = tmp_path / "größe-模型.safetensors"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = run("pack", tiny_model, "-o", copy, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "gr\\xf6\\xdfe-\\u6a21\\u578b.safetensors" in ended.stdout


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 9 GiB\nmore"),
        RuntimeError("glib: Error creating thread: Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
        ImportError("x.so: failed to map segment from shared object"),
    ],
)
def test_want_of_memory_is_told_in_one_line(srq, monkeypatch, error):
    def failing(*_arguments, **_names):
        raise error

    monkeypatch.setattr("sr_quant_cli.recipe.load.load_recipe", failing)
    code, out, err = srq("recipes", "show", "pretrain-edsr")
    assert (code, out) == (1, "")
    assert err == "srq: error: out of memory: smaller tiles, batches or pictures take less\n"


def test_what_the_system_refuses_is_told_in_one_line(srq, monkeypatch):
    def failing(*_arguments, **_names):
        raise PermissionError(13, "Permission denied", "photos/a.png")

    monkeypatch.setattr("sr_quant_cli.recipe.load.load_recipe", failing)
    code, _, err = srq("recipes", "show", "pretrain-edsr")
    assert (code, err) == (1, "srq: error: photos/a.png: Permission denied\n")


def test_a_signal_that_a_library_has_wrapped_ends_the_command(tmp_path):
    """As pydantic does with whatever is raised in a serializer: no traceback, and 143."""
    code = (
        "import signal, sys\n"
        "from sr_quant_cli.cli import app\n"
        "def wrapping(arguments):\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    except SystemExit as error:\n"
        "        raise ValueError('error calling a function: SystemExit') from None\n"
        "app._run = wrapping\n"
        "app.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (ended.returncode, ended.stderr) == (143, "")
