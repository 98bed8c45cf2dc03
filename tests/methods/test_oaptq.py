"""OAPTQ: levels and gradients by hand, sensitivity, turns, exact continuation, export."""

import pytest
import torch

from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.spec import freeze
from sr_quant_cli.methods import build
from sr_quant_cli.methods.oaptq import TURNS, OAPTQConfig, TwoRegions
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import quantizers, set_mode
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.training.objective import StudentLoss, normalized_l2_distance
from tests.commands.test_quantize import request
from tests.helpers import tiny_edsr
from tests.lowered import lr_batch
from tests.training.runs import entries, equal, weights


def regions(bits, start, largest, *, unsigned=False, variant="corrected"):
    site = Site("", "block", 1, unsigned=unsigned)
    quantizer = build(OAPTQConfig(variant=variant)).input_quantizer(site, bits)
    quantizer.breakpoint.data.fill_(start)
    quantizer.largest.data.fill_(largest)
    quantizer.batches.fill_(1)
    return quantizer


def levels(quantizer):
    largest = quantizer.largest.item()
    return quantizer(torch.linspace(-1.5 * largest, 1.5 * largest, 20_001)).unique().tolist()


@pytest.mark.parametrize(
    ("bits", "options", "expected"),
    [
        (4, {}, [-14, -12, -10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10, 12, 14]),
        (
            4,
            {"unsigned": True},
            [i * 8 / 7 for i in range(8)] + [8 + i * 6 / 8 for i in range(1, 9)],
        ),
        (
            4,
            {"variant": "paper"},
            [-14, -12, -10, -8, -16 / 3, -8 / 3, 0, 8 / 3, 16 / 3, 8, 10, 12, 14],
        ),
        (3, {}, [-14, -8, -4, 0, 4, 8, 14]),
        (3, {"variant": "paper", "unsigned": True}, [-14, -8, 0, 8, 14]),
        (2, {}, [-8, 0, 8]),
        (2, {"variant": "paper"}, [-8, 0, 8]),
        (2, {"unsigned": True}, [0, 8, 11, 14]),
    ],
)
def test_levels_by_hand(bits, options, expected):
    quantizer = regions(bits, 8.0, 14.0, **options)
    assert levels(quantizer) == pytest.approx(expected, abs=1e-5)


def test_gradients_by_hand():
    quantizer = regions(3, 2.0, 8.0)  # levels -8, -2, -1, 0, 1, 2, 8
    x = torch.tensor([0.7, -1.4, 3.0, 6.5, -9.0], requires_grad=True)
    out = quantizer(x)
    assert out.tolist() == [1.0, -1.0, 2.0, 8.0, -8.0]
    upstream = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10_000.0])
    out.backward(upstream)
    assert x.grad.tolist() == [1, 10, 100, 1000, 0]
    # A level moves with its end of the region, less what the value itself would in its place:
    # c - x / p for codes c of 0.5 or 1 in the dense region, and so in the tail of width m - p = 6.
    dense = [1 / 2 - 0.7 / 2, 10 * (-1 / 2 + 1.4 / 2)]
    tail = [100 * (0 - 1 / 6), 1000 * (1 - 4.5 / 6)]
    assert quantizer.breakpoint.grad.item() == pytest.approx(sum(dense) - sum(tail), rel=1e-4)
    assert quantizer.largest.grad.item() == pytest.approx(sum(tail) - 10_000, rel=1e-4)


def test_calibration_averages_break_points_and_keeps_the_largest():
    quantizer = TwoRegions(4, dense=4, tail=3, unsigned=False, percent=75.0)
    for scale in (1.0, -3.0):
        quantizer.observe(scale * torch.arange(9.0))
    assert (quantizer.breakpoint.item(), quantizer.largest.item()) == (12.0, 24.0)
    quantizer.largest.data.fill_(1.0)
    quantizer.clamp_range()
    assert quantizer.largest > quantizer.breakpoint


def calibrated(bits=3):
    network, method = tiny_edsr(), build(OAPTQConfig())
    quantize_network(network, method, method.paper_placement(), Bits(bits, bits))
    method.calibrate(network, [lr_batch(2), lr_batch(2, first=2)])
    return network, method


def test_sensitive_blocks_have_larger_shares():
    network, method = calibrated()
    blocks = network.features()["blocks"]
    shares = torch.stack([method.feature_factor(network, path) for path in blocks])
    changes = []
    with torch.no_grad():
        wanted = tiny_edsr()(lr_batch(2))
        for path in blocks:
            set_mode(network, "off")
            set_mode(network.get_submodule(path), "quantize")
            changes.append((network(lr_batch(2)) - wanted).abs().mean())
    deviations = torch.stack(changes)
    assert torch.allclose(shares, (deviations / deviations.mean()).softmax(0), atol=1e-4)
    assert shares[0] != shares[1]
    assert all(q.mode == "quantize" for q in quantizers(calibrated()[0]))


def test_the_loss_weights_the_features_of_blocks_by_their_shares():
    student, method = calibrated()
    recipe = load_recipe("oaptq-edsr", ["network.scale=2"])
    teacher, lr = tiny_edsr(seed=3), lr_batch(2)
    found = StudentLoss(student, recipe, method, teacher)(lr, lr.repeat(1, 1, 2, 2))["feature"]
    expected = torch.zeros(())
    for path in student.features()["blocks"]:
        outputs = []
        for network in (student, teacher):
            hook = network.get_submodule(path).register_forward_hook(
                lambda _m, _x, y, into=outputs: into.append(y)
            )
            network(lr)
            hook.remove()
        share = method.feature_factor(student, path)
        expected = expected + 5 * share * normalized_l2_distance(*outputs)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_groups_learn_in_turns():
    method = build(OAPTQConfig(turn=3))
    learn = [[g for g in TURNS if method.rate_factor(g, step, 20)] for step in range(12)]
    assert learn == [[g] for g in TURNS for _ in range(3)] + [["weight_bounds"]] * 3
    network, method = calibrated()
    groups = method.parameter_groups(network)
    assert len(groups["auxiliary"]) == len(groups["bounds"]) == len(groups["weight_bounds"]) / 2


def test_training_lowers_the_loss_and_resumes_exactly(tiny_model, photographs, tmp_path):
    options = ("method.turn=3", "optim.lr_weight_bounds=1e-3", "optim.lr_bounds=3e-2")
    for run, limits in (("a", [None]), ("b", [0.001, None])):
        for limit in limits:
            changes = {"method": "oaptq", "w": 3, "a": 3, "iters": 12, "max_time": limit}
            quantize(request(tiny_model, photographs, tmp_path / run, *options, **changes))
    losses = [entry["loss"] for entry in entries(tmp_path / "a") if "loss" in entry]
    assert losses[-1] < losses[0]
    assert entries(tmp_path / "a") == entries(tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    trained, _ = load_model(tmp_path / "a/trainable.safetensors")
    start, _ = load_model(tiny_model)
    assert torch.equal(trained.body[0].conv1.weight, start.body[0].conv1.weight)


def test_two_steps_are_no_codes():
    network, _ = calibrated()
    spec = freeze(network.eval())
    assert {why for _, why in spec.obstacles} == {
        "its levels have two steps, which no integer kernel takes"
    }
    assert len(spec.obstacles) == 4
    assert not any(site.on_integers for site in spec.sites)
    assert any("two steps" in note for note in deploy(network, "tiny", "float").notes)
    fixed = deploy(network, "tiny", "float", calibration=[lr_batch(2)])
    assert fixed.notes[0] == "4 dynamic or non-uniform ranges fixed to their means"
    assert fixed.integer_layers == 4
