"""ODM: ranges and gradients by hand, the combination of two losses, exact continuation."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.methods import build
from sr_quant_cli.methods.odm import ClippedWeight, MismatchBounds, ODMConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.training.loop import Trainer
from sr_quant_cli.training.objective import StudentLoss
from tests.commands.test_quantize import request
from tests.helpers import tiny_edsr, tiny_swinir
from tests.training.runs import entries, equal, weights


def whole_range(bits, lower, upper):
    quantizer = MismatchBounds(bits, lambda _x: (torch.tensor(lower), torch.tensor(upper)))
    quantizer.observe(torch.zeros(1))
    return quantizer


def test_mismatch_pulls_clipped_features_and_both_bounds():
    x = torch.tensor([[-1.0, 0.5, 2.5, 7.0]], requires_grad=True)
    quantizer = whole_range(2, 0.0, 3.0)
    quantizer(x)
    (distance,) = quantizer.distances
    # Quantized are 0, 0 (half to even), 2 and 3; differences -1, 0.5, 0.5 and 4.
    assert distance.item() == pytest.approx(math.sqrt(1 + 0.25 + 0.25 + 16))
    distance.backward()
    norm = distance.item()
    assert x.grad.flatten().tolist() == pytest.approx([-1 / norm, 0, 0, 4 / norm])
    # d x_hat / d u = 1 - e where clipped and -e inside, e = 0.5 / 3 twice; against the difference
    assert quantizer.upper.grad.item() == pytest.approx(-(4 - 2 * 0.5 * 0.5 / 3) / norm)
    assert quantizer.lower.grad.item() == pytest.approx(-(-1 + 2 * 0.5 * 0.5 / 3) / norm)


def test_evaluation_notes_no_mismatch():
    quantizer = whole_range(3, 0.0, 1.0).eval()
    quantizer(torch.ones(2, 3))
    assert quantizer.distances == []


def test_the_factor_of_a_weight_by_hand():
    weight = torch.tensor([-1.0, -0.2, 0.4, 4.0], requires_grad=True)
    quantizer = ClippedWeight(2, percent=100)
    quantizer.factor.data.fill_(0.75)
    out = quantizer(weight)
    # u = 3, step 2: levels -3, -1, 1, 3
    assert out.tolist() == [-1.0, -1.0, 1.0, 3.0]
    out.sum().backward()
    assert weight.grad.tolist() == [1, 1, 1, 0]
    # Errors over the width: 0, 0.8 / 6, -0.6 / 6; 4 is clipped. P99 = 4, and both ends move.
    assert quantizer.factor.grad.item() == pytest.approx(4 * (1 - 2 * (0.8 - 0.6) / 6))


def test_percentiles_start_the_ranges():
    method = build(ODMConfig(activation_percentile=75.0, weight_percentile=75.0))
    quantizer = method.input_quantizer(Site("", "block", 1), 4)
    for scale in (1.0, 3.0):
        quantizer.observe(scale * torch.arange(9.0))
    assert (quantizer.lower.item(), quantizer.upper.item()) == (4.0, 12.0)
    weight = torch.tensor([[-8.0, 1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0, -1.0]])
    grids = [
        method.weight_quantizer(Site("", "linear", 5), weight, 3, per_channel=channels).grid(weight)
        for channels in (False, True)
    ]
    assert grids[0].upper.item() == pytest.approx(2.75)
    assert grids[1].upper.flatten().tolist() == [4.0, 1.0]
    assert not grids[1].origin.any()


@pytest.mark.parametrize(
    ("side", "share"),
    [([2.0, 0.0], 1), ([-2.0, 0.0], 0), ([0.0, 5.0], 0.5), ([3.0, 4.0], 0.8), ([-3.0, 4.0], 0.2)],
)
def test_conflicting_gradients_are_damped_by_their_cosine(side, share):
    task, side = torch.tensor([[7.0], [0.0]]), torch.tensor(side).view(2, 1)
    assert torch.allclose(build(ODMConfig()).combine(task, side), task + share * side)


def objective(network, name="odm-edsr", **changes):
    values = ["network.scale=2", *(f"method.{key}={value}" for key, value in changes.items())]
    recipe = load_recipe(name, values)
    method = build(recipe.method)
    quantize_network(network, method, method.paper_placement(), Bits(2, 2))
    method.calibrate(
        network, [torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))]
    )
    return StudentLoss(network.train(), recipe, method, None)


@pytest.mark.parametrize("make", [tiny_edsr, tiny_swinir])
def test_the_loss_is_the_sum_of_all_distances_and_is_there_once(make):
    name = "odm-edsr" if make is tiny_edsr else "odm-swinir_light"
    found = objective(make(), name, mismatch_weight=0.5)
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    first, second = found(lr, hr), found(lr, hr)
    assert set(first) == {"pixel", "mismatch"}
    assert first["mismatch"].item() == second["mismatch"].item() > 0
    assert found.is_side_loss("mismatch")
    assert found.is_side_loss("mismatch_half")
    assert not found.is_side_loss("pixel")
    assert set(objective(make(), name, mismatch_weight=0.0)(lr, hr)) == {"pixel"}


class TwoLosses:
    """An objective whose loss ``side`` counts twice, and three times the other gradient with it."""

    def is_side_loss(self, name):
        return name == "side"

    def combine(self, gradient, side):
        return 3 * gradient + 2 * side


def test_the_engine_combines_the_gradients_of_each_parameter():
    network = nn.ParameterDict({name: nn.Parameter(torch.ones(2)) for name in "abcd"})
    network["d"].requires_grad_(False)
    trainer = SimpleNamespace(network=network, _objective=TwoLosses())
    a, b, c, d = (network[name] for name in "abcd")
    losses = {
        "pixel": (a * torch.tensor([1.0, 2.0])).sum() + (b * d).sum(),
        "feature": 10 * a[0],
        "side": (a * a).sum() + 5 * c.sum(),
    }
    Trainer._backward(trainer, losses)
    # In the other losses: 11 and 2 for a, 1 for b. In ``side``: 2 for a, 5 for c.
    assert a.grad.tolist() == [3 * 11 + 2 * 2, 3 * 2 + 2 * 2]
    assert b.grad.tolist() == [1, 1]
    assert c.grad.tolist() == [10, 10]
    assert d.grad is None


def test_training_lowers_the_loss_and_resumes_exactly(tiny_model, photographs, tmp_path):
    options = ("method.mismatch_weight=0.1", "optim.lr=1e-3", "optim.lr_bounds=1e-2")
    for run, limits in (("a", [None]), ("b", [0.001, None])):
        for limit in limits:
            changes = {"method": "odm", "w": 3, "a": 2, "iters": 12, "max_time": limit}
            quantize(request(tiny_model, photographs, tmp_path / run, *options, **changes))
    losses = [entry["pixel"] for entry in entries(tmp_path / "a") if "pixel" in entry]
    assert losses[-1] < losses[0]
    assert entries(tmp_path / "a") == entries(tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
