"""LSQ and LSQ+: examples by hand, gradients, starts, trained and lowered networks."""

import math

import pytest
import torch

from sr_quant_cli.methods import build
from sr_quant_cli.methods.lsq import LSQConfig
from sr_quant_cli.methods.lsq_plus import LSQPlusConfig, OffsetStep, WeightStep
from sr_quant_cli.quant.fake import fake_quantize
from sr_quant_cli.quant.grids import affine_real, levels
from sr_quant_cli.quant.sites import Site

CONFIGS = {"lsq": LSQConfig, "lsq_plus": LSQPlusConfig}
BLOCK = Site("", "block", 1)
AFTER_RELU = Site("", "block", 1, unsigned=True)


def found(quantizer, value, offset=None):
    """Set the range of a quantizer as calibration would."""
    if offset is None:
        quantizer.value.data.fill_(value)
    else:
        quantizer.step.data.fill_(value)
        quantizer.offset.data.fill_(offset)
    quantizer.batches.fill_(1)
    return quantizer


def test_the_step_of_lsq_by_hand():
    x = torch.tensor([-0.7, 0.3, 1.1, 5.0], requires_grad=True)
    quantizer = build(LSQConfig()).input_quantizer(BLOCK, 3)
    quantizer.observe(x.detach())
    assert quantizer.value.item() == pytest.approx(2 * 1.775 / math.sqrt(3))
    out = found(quantizer, 0.5)(x)
    # v = -1.4, 0.6, 2.2, 10; codes -1, 1, 2 and the largest, 3
    assert out.tolist() == [-0.5, 0.5, 1.0, 1.5]
    out.sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 0]
    # R(v) - v = 0.4, 0.4, -0.2, and Qp = 3; four values and Qp = 3
    assert quantizer.value.grad.item() == pytest.approx(3.6 / math.sqrt(12))


def test_after_a_relu_lsq_has_no_negative_codes():
    quantizer = found(build(LSQConfig()).input_quantizer(AFTER_RELU, 2), 0.5)
    assert levels(quantizer.static_grid()).tolist() == [0.0, 0.5, 1.0, 1.5]
    x = torch.tensor([0.0, 0.7, 4.0])
    quantizer(x).sum().backward()
    # R(v) - v = 0 and -0.4, and Qp = 3; three values and Qp = 3
    assert quantizer.value.grad.item() == pytest.approx(2.6 / 3)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_are_symmetric_and_signed(name, per_channel):
    weight = torch.tensor([-4.0, 0.4, 0.8, 2.2]).view(2, 2, 1, 1)
    method = build(CONFIGS[name]())
    quantizer = method.weight_quantizer(BLOCK, weight, 3, per_channel=per_channel)
    quantizer.observe(weight)
    assert quantizer.value.shape == ((2, 1, 1, 1) if per_channel else ())
    out = found(quantizer, 0.5)(weight)
    assert out.flatten().tolist() == [-2.0, 0.5, 1.0, 1.5]
    out.sum().backward()
    # R(v) - v = 0.2 and 0.4, Qn = -4, Qp = 3; values that share a step, and Qp = 3
    channels = [(-4 + 0.2) / math.sqrt(6), (0.4 + 3) / math.sqrt(6)]
    expected = channels if per_channel else [-0.4 / math.sqrt(12)]
    assert quantizer.value.grad.flatten().tolist() == pytest.approx(expected)


def test_a_weight_of_lsq_plus_starts_at_three_deviations():
    weight = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(2, 2, 1, 1)
    quantizer = WeightStep(3, ())
    quantizer.observe(weight)
    # mean 4, deviation sqrt(5): the larger of 4 + 3 sqrt(5) and its opposite end, over 2^2
    assert quantizer.value.item() == pytest.approx((4 + 3 * math.sqrt(5)) / 4)
    each = WeightStep(2, (2, 1, 1, 1))
    each.observe(torch.cat([weight[:1], -weight[1:]]))
    assert each.value.flatten().tolist() == pytest.approx([(2 + 3) / 2, (6 + 3) / 2])


def test_step_and_offset_of_lsq_plus_by_hand():
    x = torch.tensor([-2.0, -0.8, 0.3, 4.0], requires_grad=True)
    quantizer = found(OffsetStep(2), 0.5, -1.0)
    out = quantizer(x)
    # v = (x + 1) / 0.5 = -2, 0.4, 2.6, 10; codes 0 (the smallest), 0, 3, 3 (the largest)
    assert out.tolist() == [-1.0, -1.0, 0.5, 0.5]
    out.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    # Four values, and Qp = 3. Step: 0, R(v) - v = -0.4 and 0.4, Qp; offset: 1 for clipped values
    assert quantizer.step.grad.item() == pytest.approx(3 / math.sqrt(12))
    assert quantizer.offset.grad.item() == pytest.approx(2 / math.sqrt(12))


def test_the_start_of_lsq_plus_has_the_least_error_of_many_ranges():
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0)).mul(2).relu() - 0.5
    quantizer = OffsetStep(2)
    quantizer.observe(x)
    error = (quantizer(x) - x).square().mean()
    ends = torch.linspace(float(x.min()), float(x.max()), 60)
    others = [
        (fake_quantize(x, affine_real(low, high, 2), "clip") - x).square().mean()
        for low in ends[:30]
        for high in ends[1:]
        if high > low + 0.1
    ]
    assert error <= 1.002 * min(others)
    assert quantizer.offset.item() == pytest.approx(-0.5, abs=0.1)


def test_batches_are_averaged():
    quantizer = OffsetStep(2)
    quantizer.observe(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    quantizer.observe(torch.tensor([-2.0, 1.0, 4.0, 7.0]))
    assert (quantizer.step.item(), quantizer.offset.item()) == pytest.approx((2.0, -1.0))


def test_where_zero_must_be_a_level_the_offset_is_a_multiple_of_the_step():
    quantizer = OffsetStep(3)
    quantizer.require_zero_level()
    quantizer.observe(torch.linspace(1.0, 7.3, 100))
    assert 0.0 in levels(quantizer.static_grid()).tolist()


def test_a_step_stays_positive():
    quantizer = found(OffsetStep(3), -1.0, 0.5)
    quantizer.clamp_range()
    assert quantizer.step > 0
    with pytest.raises(RuntimeError, match="calibrate first"):
        OffsetStep(3)(torch.zeros(2))
