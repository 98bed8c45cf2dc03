import os
import pickle

import pytest
import torch

from sr_quant_cli.engine.checkpoint import Checkpoints, read
from sr_quant_cli.errors import FailedError


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


@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, damage, capsys):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1, "weights": torch.zeros(1000)})
    newest = checkpoints.save({"step": 2, "weights": torch.zeros(1000)})
    content = {"empty": b"", "truncated": newest.read_bytes()[:2000], "text": b"hello there"}
    newest.write_bytes(content[damage])
    assert checkpoints.newest()["step"] == 1
    assert "step-00000002.ckpt is damaged" in capsys.readouterr().err


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
    with pytest.raises(pickle.UnpicklingError):
        read(tmp_path / "step-00000001.ckpt")
    assert not (tmp_path / "pwned").exists()
