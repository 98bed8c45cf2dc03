"""QuantSR: hand-computed examples, gradients against the written-out formula, saved state."""

import copy
import math

import pytest
import torch

from sr_quant_cli.methods import build
from sr_quant_cli.methods.quantsr import QuantSRConfig, ReleasedStep, ShiftedStep
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.grids import levels, sym_full, unsigned
from sr_quant_cli.quant.learned_step import LearnedStep
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, RESIDUAL_CONVOLUTIONS, Site
from tests.helpers import tiny_edsr


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def found(quantizer, value):
    """Set the value of a quantizer as calibration would."""
    quantizer.value.data.fill_(value)
    quantizer.batches.fill_(1)
    return quantizer


def quantized_edsr(config, placement=RESIDUAL_CONVOLUTIONS, seed=0):
    network, method = tiny_edsr(seed=seed), build(config)
    quantize_network(network, method, placement, Bits(2, 3))
    return network, method


def pictures(seed=0):
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_weight():
    weight = torch.tensor([-3.0, -0.4, 0.8, 2.2]).view(2, 2, 1, 1)
    quantizer = build(QuantSRConfig()).weight_quantizer(Site("", "block", 2), weight, 3)
    quantizer.observe(weight)
    # 2 * 1.6 / sqrt(3)
    assert quantizer.value.item() == pytest.approx(1.84752)
    out = found(quantizer, 0.5)(weight)
    assert out.flatten().tolist() == [-2.0, -0.5, 1.0, 1.5]


def test_signed_input():
    x = torch.tensor([-1.2, -0.3, 0.2, 1.0]).view(1, 2, 1, 2)
    quantizer = found(ShiftedStep(2, sym_full, (2, 1, 1)), 0.5)
    assert quantizer(x).flatten().tolist() == [-1.0, -0.5, 0.0, 0.5]
    quantizer.shift.data[1] = -0.5
    assert quantizer(x).flatten().tolist() == [-1.0, -0.5, -0.5, 0.5]


def test_unsigned_input_is_cut_off_by_a_negative_shift():
    x = torch.tensor([0.0, 0.6, 1.0, 9.0, 0.0, 0.6, 1.0, 9.0]).view(1, 2, 1, 4)
    quantizer = found(ShiftedStep(2, unsigned, (2, 1, 1)), 0.5)
    quantizer.shift.data[1] = -0.9
    assert quantizer(x).flatten().tolist() == [0.0, 0.5, 1.0, 1.5, 0.0, 0.0, 0.0, 1.5]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("to_grid", [sym_full, unsigned])
def test_all_levels(bits, to_grid):
    x = torch.linspace(-300, 300, 5000).view(1, 1, 1, -1)
    quantizer = found(ShiftedStep(bits, to_grid, (1, 1, 1)), 1.0)
    assert torch.equal(quantizer(x).unique(), levels(quantizer.grid(x)).flatten())
    assert len(quantizer(x).unique()) == 2**bits


@pytest.mark.parametrize(("is_positive", "first"), [(True, 0), (False, -8)])
def test_sign_is_that_of_the_site(is_positive, first):
    site = Site("", "block", 2, unsigned=is_positive)
    quantizer = found(build(QuantSRConfig()).input_quantizer(site, 4), 1.0)
    quantizer.observe(-noise(1, 2, 4, 4).abs())
    assert quantizer.grid(noise(1, 2, 4, 4)).first == first


def test_corrected_step_is_the_mean_over_batches():
    quantizer = ShiftedStep(3, unsigned, (2, 1, 1))
    quantizer.observe(torch.full((1, 2, 2, 2), 1.0))
    quantizer.observe(torch.full((1, 2, 2, 2), 4.0))
    assert quantizer.value.item() == pytest.approx(2 * 2.5 / math.sqrt(7))


@pytest.mark.parametrize(
    ("lowest", "last", "signed"), [(-2e-5, 3, True), (-1e-6, 7, False), (0.0, 7, False)]
)
def test_in_released_code_the_first_batch_decides(lowest, last, signed):
    quantizer = ReleasedStep(3, (2, 1, 1))
    x = torch.ones(1, 2, 2, 2)
    x[0, 0, 0, 0] = lowest
    quantizer.observe(x)
    quantizer.observe(-10 * x)
    assert bool(quantizer.signed) == signed
    assert quantizer.value.item() == pytest.approx(2 * 7 / 8 / math.sqrt(last), rel=1e-4)
    assert (quantizer.grid(x).last, quantizer.grid(x).first < 0) == (last, signed)


def test_sign_of_the_first_batch_is_saved():
    saved, fresh = ReleasedStep(3, (2, 1, 1)), ReleasedStep(3, (2, 1, 1))
    x = noise(1, 2, 4, 4)
    saved.observe(x)
    fresh.load_state_dict(saved.state_dict())
    assert fresh(x).min() < 0
    assert torch.equal(fresh(x), saved(x))


def test_a_copy_goes_by_its_own_sign():
    original = found(ReleasedStep(3, (2, 1, 1)), 1.0)
    copied = copy.deepcopy(original)
    original.signed.fill_(True)
    assert copied.grid(torch.zeros(())).first == 0


def soft_staircase(v):
    """Round with the gradient of a tanh between neighbouring levels."""
    whole = v.floor().detach()
    soft = whole + 0.5 + torch.tanh(v - whole - 0.5) / (2 * math.tanh(0.5))
    return v.round().detach() + soft - soft.detach()


@pytest.mark.parametrize(("to_grid", "first", "last"), [(sym_full, -4, 3), (unsigned, 0, 7)])
def test_gradients_are_those_of_the_formula(to_grid, first, last):
    x = (2 * noise(2, 3, 4, 4)).requires_grad_()
    quantizer = found(ShiftedStep(3, to_grid, (3, 1, 1)), 0.7)
    quantizer.shift.data = noise(3, 1, 1, seed=2)
    alpha, shift = (p.detach().clone().requires_grad_() for p in (quantizer.value, quantizer.shift))
    formula = soft_staircase(((x + shift) / alpha).clamp(first, last)) * alpha
    upstream = noise(2, 3, 4, 4, seed=1)
    out = quantizer(x)
    assert torch.allclose(out, formula, atol=1e-6)

    ours = torch.autograd.grad(out, (x, quantizer.shift, quantizer.value), upstream)
    wanted = torch.autograd.grad(formula, (x, shift, alpha), upstream)
    scale = 1 / math.sqrt(x.numel() * last)
    for gradient, expected in zip(ours, (*wanted[:2], wanted[2] * scale), strict=True):
        assert gradient.shape == expected.shape
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_shift_of_a_linear_layer_is_along_the_last_dimension():
    quantizer = found(build(QuantSRConfig()).input_quantizer(Site("", "linear", 3), 4), 1.0)
    quantizer.shift.data[2] = 2.0
    assert quantizer(torch.zeros(2, 5, 3))[0, 0].tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize("kind", ["matmul", "skip"])
def test_only_inputs_of_layers_are_shifted(kind):
    assert type(build(QuantSRConfig()).input_quantizer(Site("", kind, 3), 4)) is LearnedStep


@pytest.mark.parametrize("variant", ["corrected", "paper", "code"])
@pytest.mark.parametrize("placement", [RESIDUAL_CONVOLUTIONS, FULL])
def test_training_step_reaches_every_parameter(variant, placement):
    network, method = quantized_edsr(QuantSRConfig(variant=variant), placement)
    method.calibrate(network, [pictures()])
    network.train()(pictures()).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    groups = method.parameter_groups(network)
    assert sum(map(len, groups.values())) == len(list(network.parameters()))
    shapes = {p.numel() for p in groups["weight_bounds"]}
    assert shapes == ({1} if placement is RESIDUAL_CONVOLUTIONS else {8, 32, 3})


def test_steps_stay_positive():
    network, method = quantized_edsr(QuantSRConfig())
    method.calibrate(network, [pictures()])
    steps = [p for name, p in network.named_parameters() if name.endswith(".value")]
    for step in steps:
        step.data.fill_(-1.0)
    method.after_step(network)
    assert all(step > 0 for step in steps)


@pytest.mark.parametrize("variant", ["corrected", "code"])
def test_saved_and_loaded(variant):
    saved, method = quantized_edsr(QuantSRConfig(variant=variant), FULL)
    method.calibrate(saved, [pictures(), pictures(1)])
    fresh, _ = quantized_edsr(QuantSRConfig(variant=variant), FULL, seed=1)
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert torch.equal(fresh(pictures(2)), saved(pictures(2)))


@pytest.mark.parametrize("training", [False, True])
def test_without_calibration_it_says_so(training):
    network, _ = quantized_edsr(QuantSRConfig())
    with pytest.raises(RuntimeError, match="calibrate first"):
        network.train(training)(pictures())
