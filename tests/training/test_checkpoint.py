import os
import pickle

import pytest
import torch

from sr_quant_cli.commands.pretrain import pretrain
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.training.checkpoint import Checkpoints, DamagedError, read
from sr_quant_cli.training.run_folder import LOG, RunLog
from tests.training.runs import entries, equal, request, weights


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3, 10):
        checkpoints.save({"step": step, "weights": torch.full((2,), float(step))})
        if step == 2:
            checkpoints.save_best({"step": step})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.ckpt", "step-00000003.ckpt", "step-00000010.ckpt"]
    newest = checkpoints.newest()
    assert newest["step"] == 10
    assert torch.equal(newest["weights"], torch.full((2,), 10.0))


DAMAGES = ["empty", "truncated", "text", "a list", "a table"]


def damage(path, how):
    if how in ("a list", "a table"):
        torch.save([1, 2] if how == "a list" else {"step": "3"}, path)
        return
    content = {"empty": b"", "truncated": path.read_bytes()[:2000], "text": b"hello there"}
    path.write_bytes(content[how])


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, how, capsys):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1, "weights": torch.zeros(1000)})
    newest = checkpoints.save({"step": 2, "weights": torch.zeros(1000)})
    damage(newest, how)
    assert checkpoints.newest()["step"] == 1
    told = capsys.readouterr().err
    assert f"{newest} is " in told
    assert told.endswith("; going on from step-00000001.ckpt\n")


@pytest.mark.parametrize("how", DAMAGES)
def test_where_all_are_damaged_none_is_none_and_all_stay(tmp_path, how, capsys):
    checkpoints = Checkpoints(tmp_path)
    files = [checkpoints.save({"step": step, "weights": torch.zeros(1000)}) for step in (1, 2)]
    for path in files:
        damage(path, how)
    with pytest.raises(FailedError, match="move them away to start anew") as refused:
        checkpoints.newest()
    assert all(str(path) in str(refused.value) for path in files)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == files
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "cannot read .*: Permission denied"),
        (OSError(5, "Input/output error"), "cannot read .*: Input/output error"),
        (MemoryError(), "^out of memory: cannot read"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "^out of memory: cannot"),
    ],
)
def test_what_is_not_the_file_s_fault_ends_the_run(tmp_path, monkeypatch, error, message):
    """The checkpoint before it would be written over what can be read tomorrow."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save({"step": step})

    def failing(*_arguments, **_names):
        raise error

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(FailedError, match=message) as told:
        checkpoints.newest()
    assert not isinstance(told.value, DamagedError)


def test_what_was_passed_over_does_not_outlive_what_is_written(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 9):
        path = checkpoints.save({"step": step, "weights": torch.zeros(1000)})
    damage(path, "empty")
    checkpoints.set_aside(checkpoints.newest()["step"])
    for step in (6, 7):
        checkpoints.save({"step": step})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000006.ckpt", "step-00000007.ckpt", "step-00000009.damaged"]
    assert checkpoints.newest()["step"] == 7


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path / "nothing").newest() is None


def test_a_failed_write_keeps_the_last_good_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1})

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FailedError, match="No space left"):
        checkpoints.save({"step": 2})
    assert checkpoints.newest() == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Malicious()}, tmp_path / "step-00000001.ckpt")
    with pytest.raises(DamagedError) as refused:
        read(tmp_path / "step-00000001.ckpt")
    assert isinstance(refused.value.__cause__, pickle.UnpicklingError)
    assert not (tmp_path / "pwned").exists()


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_nothing_changes(
    photographs, tmp_path
):
    run = tmp_path / "run"
    pretrain(request(photographs, run))
    for path in run.glob("step-*.ckpt"):
        damage(path, "truncated")
    before = {path: path.read_bytes() for path in run.iterdir()}
    for _ in range(2):
        with pytest.raises(FailedError, match="move them away to start anew"):
            pretrain(request(photographs, run))
        assert {path: path.read_bytes() for path in run.iterdir()} == before
    for path in run.glob("*.ckpt"):
        path.unlink()
    assert pretrain(request(photographs, run)).complete


def test_a_run_goes_on_before_a_damaged_checkpoint_and_keeps_what_it_writes(photographs, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    pretrain(request(photographs, whole))
    pretrain(request(photographs, run))
    damage(run / "step-00000012.ckpt", "truncated")
    pretrain(request(photographs, run))
    assert equal(weights(run), weights(whole))
    assert entries(run) == entries(whole)
    names = sorted(path.name for path in run.glob("step-*"))
    assert names == ["step-00000008.ckpt", "step-00000012.ckpt", "step-00000012.damaged"]


def test_a_damaged_best_checkpoint_is_named(photographs, tmp_path):
    run = tmp_path / "run"
    pretrain(request(photographs, run))
    damage(run / "best.ckpt", "a list")
    model = (run / "model.safetensors").read_bytes()
    with pytest.raises(FailedError, match=r"best\.ckpt is no checkpoint; move it away") as told:
        pretrain(request(photographs, run))
    assert "\n" not in str(told.value)
    assert (run / "model.safetensors").read_bytes() == model
    (run / "best.ckpt").unlink()
    assert pretrain(request(photographs, run)).complete


def test_a_finished_run_of_more_steps_is_done(photographs, tmp_path, capsys):
    run = tmp_path / "run"
    pretrain(request(photographs, run))
    capsys.readouterr()
    assert pretrain(request(photographs, run, "train.iters=6")).complete
    out = capsys.readouterr().out
    assert "done already: step 12, asked for are 6, best validation " in out
    assert "run the same command again" not in out


def test_a_run_that_was_not_validated_says_so(photographs, tmp_path, capsys):
    never = ("validation.every=100000", "train.iters=100000")
    pretrain(request(photographs, tmp_path / "run", *never, max_time=0.5))
    last = capsys.readouterr().out.splitlines()[-2:]
    assert ", not validated yet: " in last[0]
    assert last[1] == "run the same command again to continue"


@pytest.mark.parametrize("name", ["recipe.toml", "log.jsonl", "model.safetensors"])
def test_a_folder_of_the_user_s_is_no_run_folder(photographs, tmp_path, name):
    run = tmp_path / "mine"
    run.mkdir()
    (run / name).write_text("mine")
    with pytest.raises(UsageError, match=f"mine is no run folder, but holds {name}; choose"):
        pretrain(request(photographs, run))
    assert [path.name for path in run.iterdir()] == [name]
    assert (run / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not a readable log"),
        (b"hello\n", "line 1 is no log entry"),
        (b'{"step": 1, "seconds": 1}\n[2]\n', "line 2 is no log entry"),
        (b'{"step": "x", "seconds": 1}\n', "line 1 is no log entry"),
        (b'{"step": 1, "seco\n{"step": 2, "seconds": 1}\n', "line 1 is no log entry"),
        (b"[" * 100_000, "line 1 is no log entry"),
    ],
)
def test_a_log_of_other_content_is_not_written_over(tmp_path, content, message):
    (tmp_path / LOG).write_bytes(content)
    with pytest.raises(UsageError, match=message) as told:
        RunLog(tmp_path, after=100)
    assert "\n" not in str(told.value)
    assert (tmp_path / LOG).read_bytes() == content


@pytest.mark.parametrize("rest", [b"", b'{"step": 2, "sec', b"\0\0\0"])
def test_what_a_crash_left_of_the_last_line_is_dropped(tmp_path, rest):
    whole = b'{"step": 1, "seconds": 1}\n'
    (tmp_path / LOG).write_bytes(whole + rest)
    log = RunLog(tmp_path, after=1)
    assert (tmp_path / LOG).read_bytes() == whole
    log.write(3, 2.0, validation_psnr=float("inf"))
    assert (tmp_path / LOG).read_bytes() == (
        whole + b'{"step": 3, "seconds": 2.0, "validation_psnr": null}\n'
    )
