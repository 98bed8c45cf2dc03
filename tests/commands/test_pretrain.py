import json
import math
import sys
from pathlib import Path

import pytest
import torch

from sr_quant_cli.cli.options import seconds as cli_seconds
from sr_quant_cli.commands.pretrain import PretrainRequest, pretrain
from sr_quant_cli.data.store import pack_pairs
from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.modelfile import read_header
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.system.device import pick_device, pick_precision
from sr_quant_cli.training.loop import Trainer, validation_psnr
from sr_quant_cli.training.objective import PixelLoss
from tests.helpers import tiny_edsr
from tests.training.runs import entries, equal, request, weights


@pytest.mark.slow
def test_a_run_learns_and_leaves_all_that_is_promised(photographs, tmp_path):
    ended = pretrain(request(photographs, tmp_path / "run", "train.iters=60"))
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0] / 2
    assert ended.complete
    assert ended.run.steps == 60
    run = read_header(tmp_path / "run/model.safetensors").card.training[-1]
    assert run.photographs == 5
    assert run.data == "photographs"
    assert run.recipe["data"]["train"] == "photographs"
    assert run.validation_psnr == pytest.approx(
        max(line["validation_psnr"] for line in log if "validation_psnr" in line), abs=1e-3
    )
    assert load_recipe(str(tmp_path / "run/recipe.toml")).train.iters == 60


def test_resumed_equals_uninterrupted(photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "whole"))
    for iters in (5, 9, 12):
        pretrain(request(photographs, tmp_path / "parts", f"train.iters={iters}"))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_max_time_stops_early_and_says_how_to_go_on(photographs, tmp_path, capsys):
    ended = pretrain(request(photographs, tmp_path / "run", max_time=0.001))
    assert not ended.complete
    assert ended.run.steps == 1
    assert "run the same command again" in capsys.readouterr().out


def test_the_kept_model_is_the_best_of_the_averages(photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "run", "ema.decay=0.9"))
    best = torch.load(tmp_path / "run/best.ckpt", weights_only=True)
    for key, value in weights(tmp_path / "run").items():
        assert torch.equal(value, best["average"][f"module.{key}"])
    assert not equal(weights(tmp_path / "run"), best["network"])


def test_the_average_ramps_up_to_its_decay(photographs, tmp_path):
    recipe = load_recipe("pretrain-edsr", ["network.scale=2", "ema.decay=0.5", "data.patch_hr=24"])
    from sr_quant_cli.data.photographs import find_photographs

    store = pack_pairs(find_photographs(str(photographs), 2).train, 2)
    network = tiny_edsr()
    trainer = Trainer(
        recipe, PixelLoss(network, recipe), store, store, tmp_path, torch.device("cpu"), "fp32"
    )
    bias = network.tail.bias
    history = []
    for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0):
        with torch.no_grad():
            bias.fill_(value)
        trainer.average.update_parameters(network)
        history.append(trainer.trained.tail.bias[0].item())
    expected = 1.0  # the first update copies
    for count in range(1, 11):
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * (count + 1.0)
        assert history[count] == pytest.approx(expected, rel=1e-6)


def test_gradient_clipping_is_applied(photographs, tmp_path):
    steps = {}
    for clip in (0.0, 1e-12):
        run = tmp_path / f"clip{clip}"
        pretrain(request(photographs, run, f"train.grad_clip={clip}", "train.iters=1"))
        state = torch.load(run / "step-00000001.ckpt", weights_only=True)
        steps[clip] = max(
            s["exp_avg"].abs().max().item() for s in state["optimizer"]["state"].values()
        )
    assert steps[1e-12] <= 1e-12 < steps[0.0]


def test_x4_goes_on_from_x2(photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "x2"))
    source = tmp_path / "x2/model.safetensors"
    pretrain(
        request(
            photographs, tmp_path / "x4", "train.iters=1", "optim.lr=1e-12", scale=4, init=source
        )
    )
    assert torch.allclose(
        weights(tmp_path / "x4")["body.0.conv1.weight"],
        weights(tmp_path / "x2")["body.0.conv1.weight"],
        atol=1e-6,
    )
    history = read_header(tmp_path / "x4/model.safetensors").card.training
    assert [run.started_from for run in history] == [None, "edsr-x2"]


def test_the_recipe_in_the_run_folder_repeats_the_run(photographs, tmp_path, monkeypatch):
    pretrain(request(photographs, tmp_path / "x2", "train.iters=1"))
    monkeypatch.chdir(tmp_path)
    pretrain(request("photographs", Path("a"), scale=3, init=Path("x2/model.safetensors")))
    monkeypatch.chdir(tmp_path / "x2")
    again = PretrainRequest(
        network="edsr", recipe="../a/recipe.toml", run_dir=tmp_path / "b", device="cpu"
    )
    pretrain(again)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert read_header(tmp_path / "b/model.safetensors").network["scale"] == 3


def test_checkpoints_of_another_format_are_refused(photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "run", "train.iters=1"))
    path = tmp_path / "run/step-00000001.ckpt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"format": 1, "version": "0.0.1"}, path)
    with pytest.raises(UsageError, match=r"another version of srq \(0\.0\.1, this is"):
        pretrain(request(photographs, tmp_path / "run"))


def test_the_log_of_a_resumed_run_is_that_of_a_whole_one(photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "whole"))
    pretrain(request(photographs, tmp_path / "run", max_time=0.001))
    # A killed run leaves lines that its last checkpoint does not know, and half a line.
    with (tmp_path / "run/log.jsonl").open("a") as file:
        file.write('{"step": 3, "seconds": 1, "loss": 1.0, "lr": 1}\n{"step": 6, "se')
    pretrain(request(photographs, tmp_path / "run"))
    assert entries(tmp_path / "run") == entries(tmp_path / "whole")


def test_tensorboard_gets_what_the_log_gets(photographs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(request(photographs, tmp_path / "run", trackers=("tensorboard",)))
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    log = entries(tmp_path / "run")
    for name in ("loss", "lr", "validation_psnr"):
        written = [(event.step, event.value) for event in events.Scalars(name)]
        logged = [(entry["step"], entry[name]) for entry in log if name in entry]
        assert [step for step, _ in written] == [step for step, _ in logged]
        assert [value for _, value in written] == pytest.approx([v for _, v in logged])


@pytest.mark.parametrize(
    ("tracker", "module"),
    [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow.tracking")],
)
def test_a_tracker_that_is_missing_is_said_before_training(
    photographs, tmp_path, monkeypatch, tracker, module
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'sr-quant-cli\[{tracker}\]'"):
        pretrain(request(photographs, tmp_path / "run", trackers=(tracker,)))
    assert not (tmp_path / "run/model.safetensors").exists()


def test_another_recipe_in_the_same_folder_is_refused(photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "run", "train.iters=1"))
    with pytest.raises(UsageError, match=r"optim\.lr \(0\.001 -> 0\.01\)"):
        pretrain(request(photographs, tmp_path / "run", "optim.lr=1e-2"))
    with pytest.raises(UsageError, match="`resume` auto"):
        pretrain(request(photographs, tmp_path / "run", resume="no"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "esdr"}, "did you mean 'edsr'"),
        ({"scale": 5}, "`scale` 5"),
        ({"resume": "perhaps"}, "^`resume` perhaps: must be auto or no$"),
        ({"device": "tpu"}, "`device` tpu"),
        ({"recipe": "none.toml"}, "no such recipe file"),
        ({"data": "no/such/folder"}, r"no training pictures in .*/no/such/folder"),
        ({"data": "DIV2K"}, "srq data get DIV2K"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    photographs, tmp_path, monkeypatch, changes, message
):
    monkeypatch.setenv("SRQ_DATA", str(tmp_path / "empty"))
    with pytest.raises(UsageError, match=message):
        pretrain(request(photographs, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_validation_crops_the_centre(photographs, tmp_path):
    from sr_quant_cli.data.photographs import find_photographs

    store = pack_pairs(find_photographs(str(photographs), 2).validation, 2)
    network = tiny_edsr()
    cpu = torch.device("cpu")
    whole = validation_psnr(network, store, 0, cpu)
    assert validation_psnr(network, store, 10_000, cpu) == whole
    assert validation_psnr(network, store, 32, cpu) != whole


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5m", 90)]
)
def test_durations(text, seconds):
    assert math.isclose(cli_seconds(text), seconds)


@pytest.mark.parametrize("text", ["", "5", "h", "0s", "1d", "1.2.3s"])
def test_no_durations(text):
    with pytest.raises(UsageError, match="must be a duration as 90s"):
        cli_seconds(text)


def test_devices_and_precisions():
    assert pick_device("cpu").type == "cpu"
    assert pick_precision("fp32", torch.device("cpu")) == "fp32"
    assert pick_precision("bf16", torch.device("cpu")) == "bf16"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(UsageError, match="0 CUDA devices"):
            pick_device("cuda")


def test_bf16_training_stays_close_to_fp32(photographs, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        pretrain(request(photographs, run, f"train.precision={precision}", "train.iters=3"))
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        losses[precision] = next(line["loss"] for line in log if "loss" in line)
        assert read_header(run / "model.safetensors").card.training[-1].precision == precision
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_an_embedded_model_is_named_without_its_folder(srq, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = srq("info", "edsr-baseline-x3")
    assert (code, "edsr-baseline-x3" in out) == (0, True)
    # A file of that name is a path.
    (tmp_path / "edsr-baseline-x3").write_bytes(b"mine")
    code, out, err = srq("info", "edsr-baseline-x3")
    assert (code, "edsr-baseline-x3.safetensors" in out) == (0, True)
    assert err == "edsr-baseline-x3 is the model of that name; the file is ./edsr-baseline-x3\n"
    code, _, err = srq("info", "./edsr-baseline-x3")
    assert (code, "./edsr-baseline-x3" in err or "edsr-baseline-x3 " in err) == (2, True)
    code, _, err = srq("info", "edsr-baseline-x5")
    assert (code, "no such model file: edsr-baseline-x5; did you mean 'edsr" in err) == (2, True)
