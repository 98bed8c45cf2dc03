"""DAQ: hand-computed examples, both forms of activations, the released code's defects."""

import pytest
import torch
from pydantic import ValidationError

from sr_quant_cli.methods import build
from sr_quant_cli.methods.daq import ChannelStatistics, DAQConfig, ReleasedStatistics
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, RESIDUAL_CONVOLUTIONS, Site
from tests.helpers import tiny_edsr


def channels(*rows):
    """One sample ``[1, C, 2, H]`` with the given values in each channel."""
    return torch.tensor(rows).view(1, len(rows), 2, -1)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_rows(out, *rows):
    assert torch.allclose(out.flatten(2)[0], torch.tensor(rows), atol=2e-3)


def quantized_edsr(config, placement=RESIDUAL_CONVOLUTIONS, bits=2, seed=0):
    network = tiny_edsr(seed=seed)
    quantize_network(network, build(config), placement, Bits(bits, bits))
    return network


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # deviation sqrt(20 / 3) = 2.582; steps 0.996 * 2.582 = 2.572 and 1.596 * 2.582 = 4.121
        ("corrected", [-3.857, -1.286, 1.286, 3.857]),
        ("paper", [-3.857, -1.286, 1.286, 3.857]),
        ("code", [-2.060, -2.060, 2.060, 2.060]),
    ],
)
def test_weight(variant, expected):
    weight = torch.tensor([-3.0, -1.0, 1.0, 3.0]).view(2, 2, 1, 1)
    method = build(DAQConfig(variant=variant))
    out = method.weight_quantizer(Site("", "block", 2), weight, 2)(weight)
    assert torch.allclose(out.flatten(), torch.tensor(expected), atol=1e-3)


def test_equal_weights_become_zero():
    weight = torch.full((2, 2, 3, 3), 0.5)
    out = build(DAQConfig()).weight_quantizer(Site("", "block", 2), weight, 4)(weight)
    assert not out.any()


def test_after_relu():
    # First: 2 positive values, n = 3, mean 2, deviation sqrt(20 / 3 - 4) = 1.633, step 1.626.
    # Second: 15 ones and 16: n = 17, deviation sqrt(271 / 17 - (31 / 17)^2) = 3.552, step 3.538:
    # 16 is 4.5 steps, the last level 3.
    x = channels([0.0, 0.0, 2.0, 4.0] + 12 * [0.0], [*([1.0] * 15), 16.0])
    out = ChannelStatistics(2, qq=32, positive=True)(x)
    assert_rows(out, [0.0, 0.0, 1.626, 3.253] + 12 * [0.0], [*([0.0] * 15), 10.614])


def test_after_relu_in_released_code_has_no_last_level():
    # Steps 1.596 * 1.633 = 2.606 and, of 31 ones and 64 (n = 33, deviation 10.806), 17.247:
    # 64 is 3.7 steps.
    x = channels([0.0, 0.0, 2.0, 4.0] + 28 * [0.0], [*([1.0] * 31), 64.0])
    out = ReleasedStatistics(2, qq=32, positive=True)(x)
    assert_rows(out, [0.0, 0.0, 2.606, 5.213] + 28 * [0.0], [*([0.0] * 31), 68.987])


@pytest.mark.parametrize(
    ("quantizer", "expected"),
    [
        (ChannelStatistics, [96.143, 98.714, 101.286, 103.857]),
        (ReleasedStatistics, [97.940, 97.940, 102.060, 102.060]),
    ],
)
def test_around_the_mean(quantizer, expected):
    assert_rows(quantizer(2, 32, False)(channels([97.0, 99.0, 101.0, 103.0])), expected)


def test_deviations_are_quantized():
    # Deviations 2.582 and 25.820: mean 14.201, deviation 16.432.
    x = channels([-3.0, -1.0, 1.0, 3.0], [-30.0, -10.0, 10.0, 30.0])
    # 4 bits: steps of 0.335 * 16.432 = 5.505 around the mean: 0.439 and 27.962, times 0.996.
    assert_rows(
        ChannelStatistics(2, 4, False)(x),
        [-0.656, -0.656, 0.656, 0.656],
        [-41.776, -13.925, 13.925, 41.776],
    )
    # Released: steps of 0.586 * 16.432 = 9.629: -0.243 and 28.644; a negative deviation clips all
    # to 1.5 * 1.596 * 0.243.
    assert_rows(ReleasedStatistics(2, 4, False)(x), 4 * [0.580], [-22.858, -22.858, 22.858, 22.858])


@pytest.mark.parametrize("quantizer", [ChannelStatistics, ReleasedStatistics])
@pytest.mark.parametrize("qq", [4, 32])
def test_zero_deviation(quantizer, qq):
    assert_rows(quantizer(3, qq, False)(channels(4 * [7.0], 4 * [-2.0])), 4 * [7.0], 4 * [-2.0])
    assert not quantizer(3, qq, True)(torch.zeros(2, 3, 4, 4)).any()


def test_negative_quantized_deviation():
    # Deviations 0, s, s at qq 2: mean 0.667 s, deviation 0.577 s, so that 0 becomes
    # 0.667 s - 1.5 * 0.996 * 0.577 s = -0.196 s.
    signed = channels([5.0, 5.0, 5.0, 5.0], *(2 * [[-3.0, -1.0, 1.0, 3.0]]))
    assert (ChannelStatistics(2, 2, False)(signed)[0, 0] == 5).all()
    positive = channels([0.0, 0.0, 0.0, 0.01], *(2 * [[0.0, 0.0, 2.0, 4.0]]))
    assert not ChannelStatistics(2, 2, True)(positive)[0, 0].any()


def test_negative_quantized_deviation_in_released_code():
    # Deviations 0, s at qq 2: 0.5 s - 0.5 * 1.596 * 0.707 s = -0.0643 s. The thresholds are
    # +-1.5 * 1.596 * 0.0643 s, s = 2.582 and 1.633, and in the wrong order.
    signed = channels(4 * [5.0], [-3.0, -1.0, 1.0, 3.0])
    assert_rows(ReleasedStatistics(2, 2, False)(signed)[:, :1], 4 * [5.3974])
    positive = channels(4 * [0.0], [0.0, 0.0, 2.0, 4.0])
    assert_rows(ReleasedStatistics(2, 2, True)(positive)[:, :1], 4 * [-0.2513])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_corrected_has_all_levels_and_no_more(bits):
    # A narrow peak and a long tail.
    x = torch.cat([torch.linspace(-10, 10, 10_000), torch.full((300_000,), 1e-3)])
    x = x.view(1, 1, 1, -1)
    for positive, values in ((True, x.relu()), (False, x)):
        out = ChannelStatistics(bits, 32, positive)(values)
        assert len(out.unique()) == 2**bits


def test_released_code_has_too_many_levels_after_relu():
    out = ReleasedStatistics(2, 32, True)(noise(1, 1, 200, 200).relu())
    assert len(out.unique()) > 4
    assert len(ReleasedStatistics(2, 32, True)(noise(1, 1, 200, 200)).unique()) == 4


@pytest.mark.parametrize("quantizer", [ChannelStatistics, ReleasedStatistics])
@pytest.mark.parametrize("positive", [True, False])
def test_gradient_is_the_identity(quantizer, positive):
    x = noise(2, 3, 5, 5)
    x = (x.relu() if positive else x).requires_grad_()
    gradient = noise(2, 3, 5, 5, seed=1)
    quantizer(2, 4, positive)(x).backward(gradient)
    assert torch.equal(x.grad, gradient)


def test_samples_do_not_depend_on_each_other():
    quantizer = ChannelStatistics(3, 4, True)
    batch = noise(3, 4, 6, 6).relu()
    alone = torch.cat([quantizer(sample) for sample in batch.split(1)])
    assert torch.allclose(quantizer(batch), alone, atol=1e-6)


def test_in_released_code_one_sample_flips_the_branch_of_all():
    quantizer = ReleasedStatistics(2, 32, True)
    positive = noise(1, 2, 6, 6).abs() + 0.1
    zeros = noise(1, 2, 6, 6).relu()
    alone, together = quantizer(positive), quantizer(torch.cat([positive, zeros]))[:1]
    assert not torch.allclose(alone, together, atol=0.1)
    assert torch.allclose(alone, ReleasedStatistics(2, 32, False)(positive))


def test_channels_last_gives_the_same():
    x = noise(2, 8, 7, 5)
    for positive, values in ((True, x.relu()), (False, x)):
        quantizer = ChannelStatistics(4, 4, positive)
        last = quantizer(values.contiguous(memory_format=torch.channels_last))
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(last, quantizer(values), atol=1e-5)


def test_channels_in_the_last_dimension():
    x = noise(2, 8, 6, 6)
    quantizer = build(DAQConfig()).input_quantizer(Site("", "linear", 8), 4)
    out = quantizer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.allclose(out, ChannelStatistics(4, 4, False)(x), atol=1e-6)


def test_statistics_are_float32_under_autocast():
    x = noise(2, 4, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = ChannelStatistics(4, 4, False)(x)
    assert out.dtype == torch.float32
    assert torch.equal(out, ChannelStatistics(4, 4, False)(x.float()))


@torch.no_grad()
def test_eight_bits_are_close():
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = tiny_edsr()(x)
    difference = quantized_edsr(DAQConfig(qq=32), FULL, bits=8)(x) - expected
    assert difference.std() < 0.05 * expected.std()


def test_bits_of_deviations():
    with pytest.raises(ValidationError, match="qq"):
        DAQConfig(qq=9)


@pytest.mark.parametrize(
    ("bits", "qq", "measured"),
    [(2, 8, 0.23037701845169067), (3, 8, 0.23775407671928406), (4, 8, 0.24279507994651794)],
)
def test_constant_channels_go_down_in_released_code(bits, qq, measured):
    # Measured with the authors' Quantization (github.com/Cheeun/DAQ-pytorch, commit 28c56e4).
    x = (0.37 * torch.arange(240.0)).sin().view(2, 4, 5, 6)
    x = x * torch.tensor([1.0, 3.0, 0.5, 0.0]).view(1, 4, 1, 1)
    x[:, 3] = 0.25
    found = ReleasedStatistics(bits, qq, False)(x)[0, 3]
    assert found.amin().item() == found.amax().item() == pytest.approx(measured, rel=1e-5)
    step = 2 * (0.25 - measured)
    mean = ReleasedStatistics(bits, qq, False).grid(x).origin[0, 3] + step / 2
    assert mean.item() == pytest.approx(0.25, rel=1e-4)
