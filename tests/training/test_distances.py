"""Distances between the features of a student and its teacher."""

import pytest
import torch
from torch.nn import functional as F

from sr_quant_cli.methods import build
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.training.objective import (
    StudentLoss,
    attention_distance,
    features_of,
    normalized_distance,
)
from tests.helpers import tiny_edsr


def test_attention_by_hand():
    student = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    teacher = torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]])
    # Maps (5, 2) and (0, 1), divided by their norms.
    ours = torch.tensor([5.0, 2.0]) / 29**0.5
    expected = ((ours - torch.tensor([0.0, 1.0])) ** 2).mean()
    assert attention_distance(student, teacher).item() == pytest.approx(expected.item())


def test_normalized_distance_compares_samples_with_themselves():
    a = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    scaled = a * torch.tensor([2.0, 7.0]).view(2, 1, 1, 1)
    assert normalized_distance(scaled, a).item() == pytest.approx(0, abs=1e-12)
    b = a.flip(3)
    expected = ((F.normalize(a.flatten(1)) - F.normalize(b.flatten(1))) ** 2).mean()
    assert normalized_distance(a, b).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("recipe", ["dbdc_pac-edsr", "adabm-edsr"])
def test_distances_at_blocks_are_averaged(recipe):
    losses = {}
    for reduction in ("recipe", "sum"):
        changes = ["network.scale=2", "train.iters=10"]
        changes += ["loss.reduction=sum"] if reduction == "sum" else []
        resolved = load_recipe(recipe, changes)
        network, teacher = tiny_edsr(), tiny_edsr(seed=1)
        loss = StudentLoss(network, resolved, None, teacher)
        generator = torch.Generator().manual_seed(0)
        lr, hr = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 3, 16, 16)
        losses[reduction] = loss(lr, hr)["feature"].item()
    assert 2 * losses["recipe"] == pytest.approx(losses["sum"], rel=1e-5)


def test_features_reach_the_loss_with_their_gradient():
    recipe = load_recipe("pams-edsr", ["network.scale=2", "loss.pixel=0.0", "train.iters=10"])
    network, teacher = tiny_edsr(), tiny_edsr(seed=1)
    method = build(PAMSConfig())
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    method.calibrate(network, [lr])
    losses = StudentLoss(network, recipe, method, teacher)(lr, hr)
    with features_of(network, ("before_upsampler",)) as ours:
        network(lr)
    with features_of(teacher, ("before_upsampler",)) as theirs:
        teacher(lr)
    assert losses["feature"].item() == pytest.approx(
        1000 * attention_distance(*(f["before_upsampler"][0] for f in (ours, theirs))).item(),
        rel=1e-4,
    )
    losses["feature"].backward()
    assert network.body[0].conv1.weight.grad.abs().max() > 0
    assert network.tail.weight.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())
