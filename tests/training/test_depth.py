"""Training at three depths: the losses, the ranks, and that a run goes on as if never stopped."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sr_quant_cli.commands.distill import DistillRequest, distill
from sr_quant_cli.commands.pretrain import pretrain
from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.training.objective import (
    PixelLoss,
    StudentLoss,
    features_of,
    trained_depths,
)
from tests.commands.test_quantize import SMALL as QUANTIZE
from tests.commands.test_quantize import request as quantize_request
from tests.helpers import ranked_quantsr_c, tiny_edsr
from tests.training.runs import SMALL, entries, equal, weights
from tests.training.runs import request as edsr_request

FOUR_BLOCKS = ("network.n_blocks=4", "schedule.warmup=0", "ema.decay=0.9")


def request(photographs, run, *overrides, **changes):
    base = edsr_request(photographs, run, *FOUR_BLOCKS, *overrides)
    return replace(base, network="quantsr_c", recipe="pretrain-quantsr_c", **changes)


def batch():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 3, 8, 8, generator=generator), torch.rand(
        2, 3, 16, 16, generator=generator
    )


def outputs(network, lr):
    made = {}
    for depth in network.depths:
        network.set_depth(depth)
        made[depth] = network(lr)
    network.set_depth("full")
    return made


def distance(a, b):
    return 255 * (a - b).abs().mean().item()


@pytest.fixture
def ranked_model(tmp_path):
    """A model file whose blocks are ranked from the last to the first."""
    network = ranked_quantsr_c()
    network.ranks.copy_(torch.tensor([4, 3, 2, 1]))
    save_model(tmp_path / "ranked.safetensors", network, Card(name="ranked"))
    return tmp_path / "ranked.safetensors"


WHOLE = "train.compose=false"
"""The losses are of whole patches."""


@pytest.fixture
def unranked_model(tmp_path):
    network = ranked_quantsr_c()
    network.ranks.zero_()
    save_model(tmp_path / "unranked.safetensors", network, Card(name="unranked"))
    return tmp_path / "unranked.safetensors"


def test_losses_of_three_depths_by_hand():
    network, (lr, hr) = ranked_quantsr_c(), batch()
    recipe = load_recipe(
        "pretrain-quantsr_c",
        ["network.scale=2", "depth.weights=[2, 1, 1]", "depth.distill_weight=0.5", WHOLE],
    )
    losses = PixelLoss(network, recipe)(lr, hr)
    sr = outputs(network, lr)
    expected = {
        "pixel": 0.5 * distance(sr["full"], hr),
        "pixel_half": 0.25 * distance(sr["half"], hr),
        "distill_half": 0.5 * distance(sr["half"], sr["full"]),
        "pixel_quarter": 0.25 * distance(sr["quarter"], hr),
        "distill_quarter": 0.5 * distance(sr["quarter"], sr["full"]),
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    assert network.depth == "full"


def test_the_released_distillation_by_hand():
    network, teacher, (lr, hr) = ranked_quantsr_c(), ranked_quantsr_c(), batch()
    recipe = load_recipe("quantsr-quantsr_c", ["network.scale=2", "depth.weights=[1, 0, 0]"])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    paths = network.features()["blocks"]
    maps = []
    for model in (network, teacher):
        with features_of(model, paths) as features, torch.no_grad():
            model(lr)
        squares = [features[path][0] ** 2 for path in paths]
        maps.append([q / (q**2).sum().sqrt() for q in squares])
    distances = [((s - t) ** 2).sum().sqrt() for s, t in zip(*maps, strict=True)]
    losses = StudentLoss(network, recipe, None, teacher)(lr, hr)
    assert losses["feature"].item() == pytest.approx(
        1e-4 * torch.stack(distances).mean().item(), rel=1e-4
    )
    assert losses["pixel"].item() == pytest.approx((network(lr) - hr).abs().mean().item(), rel=1e-3)


def test_the_full_depth_is_not_drawn_to_the_others():
    network, (lr, hr) = ranked_quantsr_c(), batch()
    recipe = load_recipe("pretrain-quantsr_c", ["network.scale=2"])
    losses = PixelLoss(network, recipe)(lr, hr)
    losses["distill_quarter"].backward()
    network.set_depth("quarter")
    for block in network.blocks:
        assert (block.conv1.weight.grad is None) == block.skipped
    assert network.tail.weight.grad.any()


def test_a_depth_of_weight_0_is_not_run():
    network, (lr, hr) = ranked_quantsr_c(), batch()
    recipe = load_recipe(
        "pretrain-quantsr_c",
        ["network.scale=2", "depth.weights=[3, 0, 1]", "depth.distill_weight=0.0", WHOLE],
    )
    losses = PixelLoss(network, recipe)(lr, hr)
    assert list(losses) == ["pixel", "pixel_quarter"]
    assert losses["pixel"].item() == pytest.approx(0.75 * distance(network(lr), hr))


def test_one_depth_has_the_whole_loss():
    for network in (tiny_edsr(), ranked_quantsr_c()):
        weights = [1.0, 1.0, 1.0] if network.depths == ("full",) else [0.3, 0.0, 0.0]
        assert trained_depths(network, weights) == {"full": 1.0}


def test_a_quantized_network_trains_every_parameter_at_three_depths():
    network, (lr, hr) = ranked_quantsr_c(), batch()
    recipe = load_recipe("quantsr-quantsr_c", ["network.scale=2"])
    method = build_method(recipe.method)
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(network, [lr])
    objective = StudentLoss(network.train(), recipe, method, ranked_quantsr_c())
    torch.stack(list(objective(lr, hr).values())).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_features_are_compared_at_every_depth():
    network, teacher, (lr, hr) = ranked_quantsr_c(), ranked_quantsr_c(), batch()
    recipe = load_recipe(
        "pams-edsr", ["network.scale=2", "loss.points=blocks", "network.n_blocks=4"]
    )
    runs = []
    teacher.register_forward_hook(lambda *_: runs.append(1))
    losses = StudentLoss(network, recipe, None, teacher)(lr, hr)
    assert losses["feature"].item() == 0  # at full depth they are the same network
    assert losses["feature_half"].item() > 0
    assert losses["feature_quarter"].item() > 0
    assert len(runs) == 1


@pytest.mark.slow
def test_a_run_learns_at_every_depth(photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "run", "train.iters=40"))
    log = [entry for entry in entries(tmp_path / "run") if "loss" in entry]
    for name in ("pixel", "pixel_half", "pixel_quarter"):
        assert log[-1][name] < log[0][name]
    assert sorted(weights(tmp_path / "run")["ranks"].tolist()) == [1, 2, 3, 4]


@pytest.mark.slow
def test_resumed_equals_uninterrupted(photographs, tmp_path):
    steady = ("schedule.kind=constant",)
    pretrain(request(photographs, tmp_path / "whole", *steady))
    for iters in (5, 9, 12):
        pretrain(request(photographs, tmp_path / "parts", *steady, f"train.iters={iters}"))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.slow
def test_quantized_training_resumes_exactly(unranked_model, photographs, tmp_path):
    def run(folder, limit=None):
        quantize(
            quantize_request(
                unranked_model, photographs, folder, method="quantsr", iters=12, max_time=limit
            )
        )

    run(tmp_path / "whole")
    for limit in (0.001, 0.001, None):
        run(tmp_path / "parts", limit)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert entries(tmp_path / "whole") == entries(tmp_path / "parts")


def test_blocks_are_ranked_before_they_are_quantized(unranked_model, photographs, tmp_path):
    for bits in (2, 8):
        quantize(
            quantize_request(unranked_model, photographs, tmp_path / f"{bits}", w=bits, a=bits)
        )
    low, high = (load_model(tmp_path / f"{bits}/model.safetensors")[0] for bits in (2, 8))
    assert sorted(low.ranks.tolist()) == [1, 2, 3, 4]
    assert torch.equal(low.ranks, high.ranks)


def test_ranks_of_a_model_are_kept(ranked_model, photographs, tmp_path):
    pretrain(request(photographs, tmp_path / "p", "network.n_feats=4", init=ranked_model))
    quantize(
        quantize_request(
            tmp_path / "p/model.safetensors", photographs, tmp_path / "q", method="pams", iters=2
        )
    )
    for run in ("p", "q"):
        assert weights(tmp_path / run)["ranks"].tolist() == [4, 3, 2, 1]


def test_at_full_depth_alone_nothing_is_ranked(photographs, tmp_path):
    alone = ("depth.weights=[1, 0, 0]", "train.iters=3")
    pretrain(request(photographs, tmp_path / "run", *alone))
    network, _ = load_model(tmp_path / "run/model.safetensors")
    assert network.depths == ("full",)
    log = next(entry for entry in entries(tmp_path / "run") if "loss" in entry)
    assert "pixel_half" not in log


def test_it_starts_from_an_edsr_whose_blocks_rank_first(photographs, tmp_path):
    edsr = tiny_edsr()
    for block in edsr.body:
        torch.nn.init.constant_(block.conv2.bias, 50.0)
    save_model(tmp_path / "edsr.safetensors", edsr, Card(name="edsr"))
    pretrain(request(photographs, tmp_path / "run", init=tmp_path / "edsr.safetensors"))
    ranks = weights(tmp_path / "run")["ranks"].tolist()
    assert sorted(ranks[:2]) == [1, 2]


def test_a_quantized_student_of_three_depths_is_distilled(ranked_model, photographs, tmp_path):
    quantize(quantize_request(ranked_model, photographs, tmp_path / "q"))
    overrides = [s for s in QUANTIZE if not s.startswith("calibration")]
    distill(
        DistillRequest(
            student=tmp_path / "q",
            teacher=ranked_model,
            data=str(photographs),
            run_dir=tmp_path / "d",
            overrides=tuple(overrides),
            device="cpu",
            threads=1,
            iters=4,
        )
    )
    log = next(entry for entry in entries(tmp_path / "d") if "loss" in entry)
    assert {"pixel", "pixel_half", "pixel_quarter"} <= log.keys()


@pytest.mark.slow
def test_two_processes_train_as_one(photographs, tmp_path):
    four = ("train.batch=4", "train.log_every=1", "train.iters=6", "optim.lr=1e-4")
    pretrain(request(photographs, tmp_path / "one", *four))
    sets = [word for value in (*SMALL, *FOUR_BLOCKS, *four) for word in ("--set", value)]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "sr_quant_cli", "pretrain", "quantsr_c"),
            *("--scale", "2", "--data", str(photographs), "--run-dir", str(tmp_path / "two")),
            *("--device", "cpu", "--threads", "1", *sets),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    one, two = entries(tmp_path / "one"), entries(tmp_path / "two")
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert torch.equal(ours["ranks"], theirs["ranks"])
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], atol=1e-5), key


def test_checkpoints_from_before_a_field_was_there_go_on(photographs, tmp_path):
    run = tmp_path / "run"
    pretrain(edsr_request(photographs, tmp_path / "whole"))
    pretrain(edsr_request(photographs, run, "train.iters=6"))
    path = run / "step-00000006.ckpt"
    state = torch.load(path, weights_only=True)
    del state["recipe"]["depth"]
    torch.save(state, path)
    pretrain(edsr_request(photographs, run))
    assert equal(weights(tmp_path / "whole"), weights(run))


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("pretrain-edsr", "depth.distill_weight=0.0", "edsr has one depth; leave .depth. out"),
        ("pretrain-quantsr_c", "depth.weights=[0, 1, 1]", "above 0 for full depth"),
        ("pretrain-quantsr_c", "depth.weights=[1, -1, 1]", "must be 0 or more"),
        ("pretrain-quantsr_c", "depth.weights=[1, 1]", "at least 3"),
        ("pretrain-quantsr_c", "depth.weights=[1, inf, 1]", "finite"),
        ("pretrain-quantsr_c", "depth.distill_weight=-1", "must be 0 or more"),
        ("pretrain-quantsr_c", "depth.wieghts=[1, 1, 1]", r"did you mean depth\.weights"),
        ("pretrain-quantsr_c", "network.variant=paper", "'corrected' or 'code'"),
    ],
)
def test_wrong_recipes_are_refused(recipe, override, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe, [override])
