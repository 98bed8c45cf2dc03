"""DDTB's gates against hand-computed values: logits, factors, what learns."""

import numpy as np
import pytest
import torch

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods.ddtb import (
    Gate,
    RunningNorm,
)
from tests.methods.ddtb import (
    ITERS,
    activations,
    gated,
    lr_batch,
    quantized,
    step,
    train,
)


def two_bits(x, lower, upper):
    step = (upper - lower) / 3
    zero = np.round(lower / step)
    return step * (np.round(np.clip(x, lower, upper) / step - zero) + zero)


def three_levels(w):
    return np.round(w / np.abs(w).max()) * np.abs(w).max()


@pytest.mark.parametrize("per_sample", [True, False])
def test_logits_by_hand(per_sample):
    torch.manual_seed(0)
    gate = Gate(6, learns=True, per_sample=per_sample).eval()
    statistics = list(gate.norm.buffers())[:2]
    statistics[0].normal_()
    statistics[1].uniform_(0.5, 2)
    gate.norm.weight.data.normal_()
    gate.norm.bias.data.normal_()
    x = torch.randn(4, 6, 5, 7)
    means = x.numpy().mean((2, 3))
    axis = {"axis": 1, "keepdims": True} if per_sample else {}

    hidden = two_bits(means, means.min(**axis), means.max(**axis))
    hidden = hidden @ three_levels(gate.reduce.weight.detach().numpy()).T
    mean, variance = (value.numpy() for value in statistics)
    hidden = (hidden - mean) / np.sqrt(variance + 1e-5)
    hidden = hidden * gate.norm.weight.detach().numpy() + gate.norm.bias.detach().numpy()
    hidden = np.maximum(hidden, 0)
    hidden = two_bits(hidden, hidden.min(**axis), hidden.max(**axis))
    expected = hidden @ three_levels(gate.expand.weight.detach().numpy()).T

    assert np.allclose(gate(x).detach().numpy(), expected, atol=1e-5)


def test_a_corrected_gate_sees_one_sample_alone():
    torch.manual_seed(0)
    gate = Gate(6, learns=True, per_sample=True)
    # Without this, hidden units are multiples of one value, half-way between levels.
    gate.norm.mean.normal_()
    x = torch.randn(4, 6, 5, 5)
    for training in (True, False):
        gate.train(training)
        state = {key: value.clone() for key, value in gate.state_dict().items()}
        together = gate(x)
        gate.load_state_dict(state)
        alone = gate(x[2:3])
        gate.load_state_dict(state)
        assert torch.allclose(alone, together[2:3], atol=1e-6)


def test_a_released_gate_sees_the_batch():
    torch.manual_seed(0)
    gate = Gate(6, learns=True, per_sample=False).eval()
    x = torch.randn(4, 6, 5, 5)
    assert not torch.allclose(gate(x[2:3]), gate(x)[2:3], atol=1e-3)


@pytest.mark.parametrize("batch", [1, 4])
def test_running_statistics_are_those_of_the_data_whatever_the_batch(batch):
    torch.manual_seed(0)
    norm = RunningNorm(2)
    x = torch.randn(4000, 2) * torch.tensor([0.5, 3.0]) + torch.tensor([5.0, -2.0])
    means, variances = [], []
    for part in x.split(batch):
        norm(part)
        means.append(norm.mean.clone())
        variances.append(norm.variance.clone())
    late = slice(len(means) // 2, None)
    mean, variance = (torch.stack(values[late]).mean(0) for values in (means, variances))
    assert torch.allclose(mean, torch.tensor([5.0, -2.0]), atol=0.3)
    assert torch.allclose(variance.sqrt(), torch.tensor([0.5, 3.0]), rtol=0.1)


def test_running_statistics_normalize_in_training_as_in_evaluation():
    torch.manual_seed(0)
    norm, x = RunningNorm(3), torch.randn(5, 3)
    norm.eval()
    evaluated = norm(x)
    assert torch.equal(norm.mean, torch.zeros(3))
    assert torch.equal(norm.train()(x), evaluated)
    assert torch.allclose(norm.mean, 0.1 * x.mean(0))


@pytest.mark.parametrize(("variant", "learning"), [("code", 1), ("paper", 4), ("corrected", 4)])
def test_which_layers_of_a_gate_learn(variant, learning):
    torch.manual_seed(0)
    gate = Gate(6, learns=variant != "code", per_sample=variant == "corrected")
    gate(torch.randn(4, 6, 5, 5)).square().sum().backward()
    moved = [n for n, p in gate.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(moved) == learning
    assert moved[-1] == "expand.weight"


def test_factors_multiply_the_bounds_of_each_sample():
    quantizer = gated(2, -2.0, 4.0, [[1.0, 1.0], [0.25, 1.0], [1.5, 0.5]])
    x = torch.tensor([-9.0, 0.4, 1.4, 9.0]).view(1, 1, 2, 2).repeat(3, 1, 1, 1).requires_grad_()
    out = quantizer(x)
    # Bounds (-2, 4), (-2, 1), (-1, 6): steps 2, 1 and 7/3, zero points -1, -2 and 0.
    expected = [[-2.0, 0.0, 2.0, 4.0], [-2.0, 0.0, 1.0, 1.0], [0.0, 0.0, 7 / 3, 7.0]]
    for ours, wanted in zip(out.flatten(1).tolist(), expected, strict=True):
        assert ours == pytest.approx(wanted, abs=1e-5)

    out[1].sum().backward()
    # Of the second sample's own bounds: two values above, one below, one off its level by 0.4.
    upper, lower = 2 - 0.4 / 3, 1 + 0.4 / 3
    assert quantizer.upper.grad.item() == pytest.approx(0.25 * upper, abs=1e-5)
    assert quantizer.lower.grad.item() == pytest.approx(1.0 * lower, abs=1e-5)
    # The slope of a factor f = 2 sigmoid(logit) is f (1 - f / 2).
    slopes = quantizer.gate.logits.grad
    assert (slopes[[0, 2]] == 0).all()
    assert slopes[1, 0].item() == pytest.approx(4 * upper * 0.25 * 0.875, abs=1e-5)
    assert slopes[1, 1].item() == pytest.approx(-2 * lower * 1.0 * 0.5, abs=1e-5)


@pytest.mark.parametrize(("lower", "upper"), [(5.0, 6.0), (-6.0, -5.0), (0.0, 0.0), (300.0, 300.0)])
def test_factors_that_turn_the_bounds_around_leave_the_lower_one(lower, upper):
    quantizer = gated(2, lower, upper, [[0.2, 1.9], [1.9, 0.2], [1.0, 1.0]])
    x = torch.linspace(-10, 10, 48).view(3, 1, 4, 4).requires_grad_()
    out = quantizer(x)
    out.square().sum().backward()
    values = [out, x.grad, quantizer.upper.grad, quantizer.lower.grad, quantizer.gate.logits.grad]
    assert all(torch.isfinite(value).all() for value in values)
    crossed = 0 if upper > 0 else 1
    bound = lower * [1.9, 0.2][crossed]
    assert torch.allclose(out[crossed], torch.tensor(bound), rtol=1e-3, atol=1e-3)


def test_gates_are_pulled_to_one_in_the_second_phase_and_applied_in_the_third():
    network, method = quantized(dynamic_ratio=0.5, gate_weight=2.0)
    assert train(network, method, range(3)) == [{}] * 3
    assert not any(q.dynamic for q in activations(network))

    method.before_step(network.train(), 3, ITERS)
    dynamic = [q for q in activations(network) if q.dynamic]
    assert len(dynamic) == 3
    seen = []
    for quantizer in dynamic:
        quantizer.gate.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits))
    with torch.no_grad():
        ungated = network.eval()(lr_batch())
        network.train()(lr_batch())
    losses = method.regularizers(network)
    expected = 2.0 * sum(logits.square().mean() for logits in seen[3:]) / 3
    assert losses["gate"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert method.regularizers(network) == {}

    method.before_step(network, 6, ITERS)
    with torch.no_grad():
        assert not torch.allclose(network.eval()(lr_batch()), ungated, atol=1e-5)
        network.train()(lr_batch())
    assert method.regularizers(network) == {}


def test_the_pull_brings_factors_to_one():
    network, method = quantized(dynamic_ratio=1.0, gate_weight=1e6)
    train(network, method, range(4))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".gate." in name)
    losses = [step(network, method, 4, 3e-3)["gate"].item() for _ in range(40)]
    assert losses[-1] < 0.2 * losses[0]


def test_gates_act_alike_in_training_and_evaluation_of_a_single_sample():
    network, method = quantized()
    train(network, method, range(8))
    with torch.no_grad():
        x = lr_batch()
        together = network.eval()(x)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        assert torch.allclose(network.train()(x), together, atol=1e-5)
        network.load_state_dict(state)
        assert torch.allclose(network.train()(x[1:]), together[1:], atol=1e-5)


def test_training_goes_on_with_batches_of_one_sample():
    network, method = quantized()
    for number in range(ITERS):
        step(network, method, number, 1e-3, lr_batch(number)[:1])
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_a_gate_that_normalizes_over_the_batch_refuses_one_sample():
    gate = Gate(6, learns=True, per_sample=False).train()
    assert gate(torch.rand(2, 6, 4, 4)).shape == (2, 2)
    with pytest.raises(UsageError, match=r"train\.batch: .*needs 2 patches or more"):
        gate(torch.rand(1, 6, 4, 4))
    assert Gate(6, learns=True, per_sample=True).train()(torch.rand(1, 6, 4, 4)).shape == (1, 2)
