"""CondiQuant: both steps by hand, kept products, layers of networks, exact continuation."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.methods import build
from sr_quant_cli.methods.condiquant import CondiQuantConfig, condition
from sr_quant_cli.methods.twodquant import TwoDQuantConfig
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import quantizers
from tests.commands.test_quantize import request
from tests.helpers import tiny_block, tiny_edsr
from tests.lowered import lr_batch
from tests.training.runs import entries, equal, weights


def condition_number(weight):
    values = torch.linalg.svdvals(weight)
    return (values[..., 0] / values[..., -1]).max().item()


def test_a_proximal_step_by_hand():
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))[0]
    weight = turn @ torch.diag(torch.tensor([5.0, 1.0])) @ turn.T
    # In the first round there is nothing to draw back: only singular values move, to 5 - 0.25 * 2
    found = condition(weight, torch.eye(2), rounds=1, shrink=0.25, change=1.0)
    assert torch.linalg.svdvals(found).tolist() == pytest.approx([4.5, 1.5])
    assert torch.allclose(found, turn @ torch.diag(torch.tensor([4.5, 1.5])) @ turn.T, atol=1e-5)


def test_a_gradient_step_by_hand():
    weight, gram = torch.diag(torch.tensor([5.0, 1.0])), torch.diag(torch.tensor([2.0, 1.0]))
    found = condition(weight, gram, rounds=2, shrink=0.25, change=1.0)
    # Round 1: 4.5 and 1.5. Round 2: drawn back by 1 and 1/2 of the way to 5 and 1.25, mean 3.125
    assert found.diag().tolist() == pytest.approx([5 - 0.25 * 1.875, 1.25 + 0.25 * 1.875])


def test_products_stay_within_the_limit_while_the_condition_number_falls():
    generator = torch.Generator().manual_seed(1)
    spread = torch.logspace(0, -3, 24)
    x = torch.randn(500, 24, generator=generator) * spread
    weight = torch.randn(24, 24, generator=generator)
    limits = (0.002, 0.01, 0.05)
    numbers = []
    for limit in limits:
        found = condition(weight, x.T @ x / 500, rounds=300, shrink=0.05, change=limit)
        assert ((x @ found - x @ weight).norm() / (x @ weight).norm()).item() <= limit * 1.001
        numbers.append(condition_number(found))
    assert condition_number(weight) > 2 * numbers[0]
    assert numbers[0] > numbers[1] > numbers[2]


@pytest.mark.parametrize("rounds", [0, 50])
def test_without_inputs_or_rounds_nothing_breaks(rounds):
    weight = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(2))
    found = condition(weight, torch.zeros(3, 4, 4), rounds=rounds, shrink=0.1, change=0.0)
    assert found.isfinite().all()
    assert torch.equal(found, weight) == (rounds == 0)


def calibrated(make, **changes):
    network = make()
    method = build(CondiQuantConfig(candidates=10, rounds=30, **changes))
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(network, [lr_batch(2), lr_batch(2, first=2)])
    return network


@pytest.mark.parametrize(
    ("make", "convolutions", "kind"),
    [(tiny_block, False, QuantLinear), (tiny_edsr, False, None), (tiny_edsr, True, QuantConv2d)],
)
def test_layers_keep_their_outputs(make, convolutions, kind):
    before, after = make(), calibrated(make, convolutions=convolutions, change=0.02)
    changed = set()
    for path, layer in after.named_modules():
        if not isinstance(layer, QuantConv2d | QuantLinear):
            continue
        old, inputs = before.get_submodule(path), []
        hook = old.register_forward_pre_hook(lambda _m, x, into=inputs: into.append(x[0].clone()))
        with torch.no_grad():
            before(lr_batch(2))
        hook.remove()
        product = partial(F.conv2d, padding=1) if isinstance(old, nn.Conv2d) else F.linear
        wanted, found = (product(inputs[0], each.weight) for each in (old, layer))
        # The limit is that of samples from both batches.
        assert (found - wanted).norm() <= 1.5 * 0.02 * wanted.norm()
        if not torch.equal(old.weight, layer.weight):
            changed.add(type(layer))
            was, now = (condition_number(each.weight.flatten(1)) for each in (old, layer))
            assert now < was
    assert changed == ({kind} if kind else set())


def test_ranges_are_those_of_2dquant_on_the_same_weights():
    network = calibrated(tiny_edsr)
    other, method = tiny_edsr(), build(TwoDQuantConfig(candidates=10))
    quantize_network(other, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(other, [lr_batch(2), lr_batch(2, first=2)])
    assert [q.upper.item() for q in quantizers(network)] == [
        q.upper.item() for q in quantizers(other)
    ]
    assert all(q.mode == "quantize" for q in quantizers(network))


def test_training_resumes_exactly_and_keeps_conditioned_weights(tiny_model, photographs, tmp_path):
    options = ("method.convolutions=true", "method.candidates=10", "method.rounds=5")
    for run, limits in (("a", [None]), ("b", [0.001, None])):
        for limit in limits:
            changes = {"method": "condiquant", "w": 3, "a": 3, "iters": 8, "max_time": limit}
            quantize(request(tiny_model, photographs, tmp_path / run, *options, **changes))
    assert entries(tmp_path / "a") == entries(tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    trained, _ = load_model(tmp_path / "a/trainable.safetensors")
    start, _ = load_model(tiny_model)
    assert not torch.equal(trained.body[0].conv1.weight, start.body[0].conv1.weight)
