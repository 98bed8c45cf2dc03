"""Run folders of runs that fail or are interrupted before anything is kept."""

import signal

import pytest
from filelock import FileLock

from sr_quant_cli.cli import app
from sr_quant_cli.training.run_folder import locked

QUICK = ("--method", "minmax", "--w", 4, "--a", 4, "--placement", "full", "--iters", 0)
SMALL = [f"--set={each}" for each in ("calibration.patch_lr=12", "data.patch_hr=24")]


def failing_in(folder, *names):
    """A run that fails after it has written files."""
    with pytest.raises(RuntimeError), locked(folder):
        for name in names:
            (folder / name).write_text("")
        raise RuntimeError


def test_a_new_folder_goes_with_a_run_that_kept_nothing(tmp_path):
    failing_in(tmp_path / "runs/a")
    failing_in(tmp_path / "runs/a", "recipe.toml", "log.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_user_stays(tmp_path):
    failing_in(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_has_left_goes_too(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").touch()
    failing_in(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["step-00000001.ckpt", "model.safetensors", "notes.txt"])
def test_what_is_worth_something_stays(tmp_path, name):
    failing_in(tmp_path / "run", name)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", name}


def test_entries_of_the_log_are_worth_something(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "run"):
        (tmp_path / "run/log.jsonl").write_text('{"step": 1, "seconds": 0.5}\n')
        raise RuntimeError
    assert (tmp_path / "run/log.jsonl").is_file()


def test_a_run_that_waited_makes_the_folder_again(tmp_path, monkeypatch):
    """The one before it removes the folder between two attempts to take the lock."""
    folder = tmp_path / "run"
    folder.mkdir()
    before = FileLock(folder / ".lock")
    before.acquire()

    def ends(_seconds):
        (folder / ".lock").unlink()
        folder.rmdir()
        before.release()

    monkeypatch.setattr("sr_quant_cli.training.run_folder.time.sleep", ends)
    with locked(folder, patience=60):
        assert (folder / ".lock").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_calibration_tells_how_to_go_on_and_leaves_nothing(
    srq, tiny_model, photographs, tmp_path, monkeypatch, number, code
):
    def interrupted(*_arguments):
        app._terminate(number, None)  # a real signal may end the process of the tests

    monkeypatch.setattr(app, "_received", [])
    monkeypatch.setattr("sr_quant_cli.commands.quantize.calibrate", interrupted)
    run = tmp_path / "runs/q"
    ended, out, err = srq(
        "quantize", tiny_model, *QUICK, "--data", photographs, "--run", run, *SMALL
    )
    assert (ended, err) == (code, "")
    assert out == "nothing was kept yet: run the same command again to start over\n"
    assert not run.parent.exists()
