"""DDTB against hand-computed values: bounds, the choice of gates, phases of training, files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sr_quant_cli.methods.ddtb import (
    DDTB,
    DDTBConfig,
    PercentileWeight,
)
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import quantizers
from sr_quant_cli.quant.sites import FULL
from tests.helpers import tiny_edsr
from tests.methods.ddtb import (
    ITERS,
    PHASES,
    VARIANTS,
    Fixed,
    activations,
    bounds,
    lr_batch,
    quantized,
    step,
    train,
)


def test_weights_are_clipped_to_percentiles_and_clipped_ones_get_no_gradient():
    w = torch.randn(40, 7, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    quantizer = PercentileWeight(3, 99)
    out = quantizer(w)
    lower, upper = np.percentile(w.detach().numpy(), [1, 99])
    s = (upper - lower) / 7
    z = np.round(lower / s)
    expected = s * (np.round(np.clip(w.detach().numpy(), lower, upper) / s - z) + z)
    assert torch.allclose(out, torch.from_numpy(expected).float(), atol=1e-5)
    assert len(out.unique()) == 8
    out.sum().backward()
    inside = (w > float(lower)) & (w < float(upper))
    assert torch.equal(w.grad == 1, inside)
    assert (w.grad[~inside] == 0).all()


def test_the_range_of_a_weight_follows_it():
    quantizer = PercentileWeight(2, 100)
    assert quantizer(torch.tensor([-1.0, 2.0])).tolist() == [-1.0, 2.0]
    assert quantizer(torch.tensor([-10.0, 20.0])).tolist() == [-10.0, 20.0]


def test_gradients_of_the_two_bounds():
    # Steps of 2, zero point -1: levels -2, 0, 2, 4.
    quantizer = bounds(2, -2.0, 4.0)
    x = torch.tensor([-3.0, -2.0, 0.6, 2.5, 4.0, 7.0], requires_grad=True)
    out = quantizer(x)
    assert out.tolist() == [-2.0, -2.0, 0.0, 2.0, 4.0, 4.0]
    out.sum().backward()
    assert x.grad.tolist() == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    error = (0.6 - 0.0) / 6 + (2.5 - 2.0) / 6
    assert quantizer.upper.grad.item() == pytest.approx(1.5 - error)
    assert quantizer.lower.grad.item() == pytest.approx(1.5 + error)


@pytest.mark.parametrize("variant", ["paper", "corrected"])
@pytest.mark.parametrize("bits", [2, 4])
def test_bounds_start_at_percentiles_of_float_activations(variant, bits):
    network, _ = quantized(variant, bits, activation_percentile=95)
    first = activations(network)[0]
    with torch.no_grad():
        x = tiny_edsr().head((lr_batch(1) - network.mean) * 255)
    lower, upper = np.percentile(x.numpy(), [5, 95])
    assert first.lower.item() == pytest.approx(lower, rel=1e-4)
    assert first.upper.item() == pytest.approx(upper, rel=1e-4)


@pytest.mark.parametrize("bits", [3, 4])
def test_released_bounds_start_at_ten(bits):
    network, _ = quantized("code", bits)
    assert {(q.lower.item(), q.upper.item()) for q in activations(network)} == {(-10.0, 10.0)}


def test_released_bounds_of_two_bits_start_behind_quantized_layers():
    network, _ = quantized("code", 2)
    conv1, conv2 = network.body[0].conv1, network.body[0].conv2
    assert isinstance(conv1.input_quantizer, torch.nn.Identity)
    with torch.no_grad():
        raw = network.head((lr_batch(1) - network.mean) * 255)
        x = torch.relu(conv1(raw))
    upper = np.percentile(x.numpy(), 99)
    assert conv2.input_quantizer.upper.item() == pytest.approx(upper, rel=1e-4)
    assert all(q.batches == 1 and q.upper > q.lower for q in activations(network))


def test_mixed_bits_of_the_released_code_are_found_where_they_are_two():
    network, method = tiny_edsr(), DDTB(DDTBConfig(variant="code"))
    quantize_network(network, method, FULL, Bits(2, 2))
    method.calibrate(network, [lr_batch(1)])
    for quantizer in activations(network):
        assert (quantizer.upper.item() == 10) == (quantizer.bits == 8)


# Gates.


def test_bounds_that_cross_are_put_apart_and_can_part_again():
    quantizer = bounds(2, 300.0, 299.0)
    quantizer.clamp_range()
    assert quantizer.upper > quantizer.lower
    quantizer(torch.tensor([290.0, 310.0])).square().sum().backward()
    assert quantizer.upper.grad > 0
    assert quantizer.lower.grad > 0


# Choice of gates, and phases.


def test_variation_is_numpys_variance_of_the_extremes():
    quantizer = bounds(4, 0.0, 1.0)
    batches = [100 + torch.randn(2, 3, 5, 5) * (1 + n) for n in range(7)]
    for x in batches:
        quantizer.record(x)
    expected = sum(np.var([float(f(x)) for x in batches]) for f in (torch.amax, torch.amin))
    assert quantizer.variation() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("ratio", "count", "dynamic"), [(0.3, 48, 14), (0.1, 32, 3), (0.5, 145, 72)]
)
def test_the_released_counts(ratio, count, dynamic):
    all_of_them = [bounds(4, 0.0, 1.0, Fixed([[1.0, 1.0]])) for _ in range(count)]
    order = np.random.default_rng(0).permutation(count)
    for rank, index in enumerate(order):
        # The higher the rank, the smaller the variance.
        for value in (0.0, 1.0 / (1 + rank)):
            all_of_them[index].record(torch.tensor([-value, value]))
    DDTB(DDTBConfig(dynamic_ratio=ratio)).choose(all_of_them)
    chosen = {index for index, q in enumerate(all_of_them) if q.dynamic}
    assert chosen == set(order[:dynamic])


def test_the_counts_on_edsr():
    network, method = build(EDSRConfig(n_feats=4)), DDTB(DDTBConfig(**PHASES))
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(network, [lr_batch(1)])
    assert len(activations(network)) == 48
    with torch.no_grad():
        for number in range(4):
            method.before_step(network.train(), number, ITERS)
            network(lr_batch(number) * number)
    dynamic = [q for q in activations(network) if q.dynamic]
    assert len(dynamic) == 14
    static = max(q.variation() for q in activations(network) if not q.dynamic)
    assert min(q.variation() for q in dynamic) >= static > 0


@pytest.mark.parametrize(
    ("iters", "statistics", "pulled"), [(60, 1, 5), (600, 10, 50), (60_000, 1000, 5000), (7, 1, 1)]
)
def test_published_shares_of_any_training(iters, statistics, pulled):
    network, _ = quantized()
    method = DDTB(DDTBConfig())
    network.train()
    for number in sorted({0, statistics - 1, statistics, pulled - 1, pulled, iters - 1}):
        method.before_step(network, number, iters)
        phase = 1 + (number >= statistics) + (number >= pulled)
        assert all(q.rests == (phase == 1) for q in quantizers(network) if hasattr(q, "rests"))
        assert all(bool(q.applied) == (phase == 3) for q in activations(network))
        assert method.rate_factor("weights", number, iters) == float(phase > 1)
        assert sum(int(q.dynamic) for q in activations(network)) == (
            int(6 * 0.3) if phase > 1 else 0
        )


def test_the_first_phase_is_in_full_precision_and_changes_nothing():
    network, method = quantized(bits=2)
    before = {name: p.clone() for name, p in network.named_parameters()}
    method.before_step(network, 0, ITERS)
    x = lr_batch()
    with torch.no_grad():
        assert torch.allclose(network.train()(x), tiny_edsr()(x), atol=1e-6)
        assert all(q.seen == 1 for q in activations(network))
        assert all(q.gate.norm.mean.any() for q in activations(network))
        # Validation runs the quantized network and is not recorded.
        assert not torch.allclose(network.eval()(x), tiny_edsr()(x), atol=1e-3)
        assert all(q.seen == 1 for q in activations(network))
    train(network, method, range(3))
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    assert all(q.seen == 4 for q in activations(network))


def test_normalization_of_the_network_rests_in_the_first_phase():
    network = build(SRResNetConfig(scale=2, n_blocks=1, n_feats=4))
    method = DDTB(DDTBConfig(statistics=0.5, gates_from=0.5))
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(network, [torch.rand(2, 3, 8, 8)])
    means = []
    for index in range(3):
        network.train()
        method.before_step(network, index, 4)
        network(torch.rand(2, 3, 8, 8))
        means.append(network.body_norm.running_mean.clone())
    assert torch.equal(means[0], torch.zeros(4))
    assert torch.equal(means[1], means[0])
    assert not torch.equal(means[2], means[0])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stop", [1, 3, 4, 6, 9])
def test_a_resumed_training_equals_an_uninterrupted_one(variant, stop):
    whole, method = quantized(variant, bits=2)
    for number in range(ITERS):
        if number == stop:
            state = {key: value.clone() for key, value in whole.state_dict().items()}
        step(whole, method, number, 1e-3)
    resumed, method = tiny_edsr(), DDTB(method.config)
    quantize_network(resumed, method, method.paper_placement(), Bits(2, 2))
    resumed.load_state_dict(state)
    train(resumed, method, range(stop, ITERS))
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


# In a network.


@pytest.mark.parametrize(
    ("variant", "kinds"),
    [
        ("code", {"skip", "block", "block_out"}),
        ("paper", {"block_in", "block", "block_out"}),
        ("corrected", {"block_in", "block", "block_out"}),
    ],
)
def test_places(variant, kinds):
    network, method = tiny_edsr(), DDTB(DDTBConfig(variant=variant))
    plan = quantize_network(network, method, method.paper_placement(), Bits(4, 3))
    assert {e.site.kind for e in plan if e.input_bits == 3} - {"block_first"} == kinds
    assert {e.input_bits for e in plan if e.site.kind == "block_first"} == (
        {32} if variant == "code" else {3}
    )
    assert sum(entry.weight_bits == 4 for entry in plan) == 4
    assert len(activations(network)) == 6


@pytest.mark.parametrize("variant", VARIANTS)
def test_gates_that_were_not_chosen_do_not_learn(variant):
    network, method = quantized(variant, dynamic_ratio=0.0)
    train(network, method, range(8))
    for quantizer in activations(network):
        assert all(parameter.grad is None for parameter in quantizer.auxiliary())
        assert quantizer.upper.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [2, 5, 9])
@pytest.mark.parametrize("packed", [True, False])
def test_a_saved_network_gives_equal_outputs(tmp_path, variant, steps, packed):
    network, method = quantized(variant, bits=2)
    train(network, method, range(steps))
    method.before_step(network, steps, ITERS)
    save_model(tmp_path / "q.safetensors", network.eval(), Card(), packed=packed)
    loaded, _ = load_model(tmp_path / "q.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(lr_batch()), network(lr_batch()))
    assert sum(bool(q.dynamic & q.applied) for q in activations(loaded)) == (1 if steps == 9 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_dead_channels_and_constant_pictures_give_numbers(variant, constant):
    network, method = tiny_edsr(), DDTB(DDTBConfig(variant=variant, dynamic_ratio=1.0, **PHASES))
    with torch.no_grad():
        network.body[0].conv1.bias.fill_(-1e4)
        network.head.weight[:4] = 0
        network.body[1].conv1.weight.fill_(0.3)
    quantize_network(network, method, method.paper_placement(), Bits(2, 2))
    flat = torch.full((2, 3, 12, 12), constant)
    method.calibrate(network, [flat])
    for number in range(ITERS):
        step(network, method, number, 1e-3, flat)
        assert torch.isfinite(network(lr_batch())).all()
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_autocast_leaves_bounds_and_gates_in_float32():
    network, method = quantized(dynamic_ratio=1.0)
    train(network, method, range(8))
    quantizer = activations(network)[0].eval()
    x = torch.randn(2, 8, 6, 6).bfloat16()
    with torch.no_grad():
        expected = quantizer(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            out = quantizer(x)
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)


def test_operands_of_linear_layers_have_no_gate():
    method = DDTB(DDTBConfig())
    site = tiny_edsr().sites()[0]
    quantizer = method.input_quantizer(replace(site, kind="linear"), 4)
    assert quantizer.auxiliary() == []
    quantizer.observe(torch.tensor([-1.0, 1.0]))
    assert quantizer(torch.randn(2, 5, 3)).shape == (2, 5, 3)


def test_phases_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="must be at least statistics"):
        DDTBConfig(statistics=0.2, gates_from=0.1)
