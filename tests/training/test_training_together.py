"""Training on several processes of one machine."""

import subprocess
import sys

import pytest
import torch

from sr_quant_cli.commands.pretrain import pretrain
from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.modelfiles.modelfile import read_header
from tests.commands.test_quantize import SMALL as QUANTIZE
from tests.commands.test_quantize import request as quantizing
from tests.training.runs import SMALL, entries, request, weights

pytestmark = pytest.mark.slow

FOUR = ("train.batch=4", "train.log_every=1", "train.iters=10", "optim.lr=1e-4")


def together(processes, photographs, run, *overrides):
    sets = [word for value in (*SMALL, *FOUR, *overrides) for word in ("--set", value)]
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "sr_quant_cli", "pretrain", "edsr"),
            *("--scale", "2", "--data", str(photographs), "--run-dir", str(run)),
            *("--device", "cpu", "--threads", "1", *sets),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_train_as_one_and_one_goes_on_from_two(photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "one", *FOUR, threads=1))
    ended = together(2, photographs, tmp_path / "two", "train.iters=6")
    assert ended.returncode == 0, ended.stderr
    # Only the first process speaks.
    assert ended.stdout.count("pretrain edsr-x2 on") == 1
    assert ended.stdout.count("step 6/6") == 1
    pretrain(request(photographs, tmp_path / "two", *FOUR, threads=1))

    one, two = entries(tmp_path / "one"), entries(tmp_path / "two")
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    theirs = weights(tmp_path / "two")
    for key, value in weights(tmp_path / "one").items():
        assert torch.allclose(value, theirs[key], atol=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused_once(photographs, tmp_path):
    ended = together(2, photographs, tmp_path / "run", "train.batch=3")
    assert ended.returncode != 0
    told = [line for line in ended.stderr.splitlines() if "train.batch" in line]
    assert told[0] == (
        "srq: error: train.batch = 3: must be a multiple of the 2 processes that share it"
    )


def quantize_together(model, photographs, run, *options):
    sets = [word for value in QUANTIZE for word in ("--set", value)]
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "sr_quant_cli", "quantize", str(model)),
            *("--data", str(photographs), "--run-dir", str(run)),
            *("--device", "cpu", "--threads", "1", *sets, *options),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_quantized_networks_train_together(photographs, tmp_path, tiny_model):
    # Gates and bounds get no gradient in the phases that leave them out.
    phases = ("--set", "method.statistics=0.1", "--set", "method.gates_from=0.5")
    options = ("--method", "ddtb", "--w", "4", "--a", "4", "--iters", "24", *phases)
    ended = quantize_together(tiny_model, photographs, tmp_path / "run", *options)
    assert ended.returncode == 0, ended.stderr
    steps = [entry["step"] for entry in entries(tmp_path / "run") if "loss" in entry]
    assert steps[-1] == 24


def test_two_losses_are_combined_as_on_one_process(photographs, tmp_path, tiny_model):
    # A mean of norms over halves of a batch is that over the batch; so are both gradients.
    options = ("--method", "odm", "--w", "4", "--a", "2", "--iters", "12")
    sets = ("--set", "train.log_every=1", "--set", "method.mismatch_weight=0.1")
    ended = quantize_together(tiny_model, photographs, tmp_path / "two", *options, *sets)
    assert ended.returncode == 0, ended.stderr
    changes = {"method": "odm", "w": 4, "a": 2, "iters": 12}
    quantize(quantizing(tiny_model, photographs, tmp_path / "one", *sets[1::2], **changes))
    one, two = ([e["loss"] for e in entries(tmp_path / n) if "loss" in e] for n in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)


def test_stages_and_run_train_together(photographs, tmp_path, tiny_model):
    options = ("--method", "cadyq", "--set", "train.iters=10")
    ended = quantize_together(tiny_model, photographs, tmp_path / "run", *options)
    assert ended.returncode == 0, ended.stderr
    (stage,) = (tmp_path / "stages").iterdir()
    header = read_header(tmp_path / "run/model.safetensors")
    assert header.card.training[-1].started_from == stage.name
    assert [run.steps for run in header.card.training] == [1, 10]
    assert ended.stderr.count(f"steps, in {stage}") == 1
