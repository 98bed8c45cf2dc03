import pytest
import torch

from sr_quant_cli.networks import build, network_names, register
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig
from sr_quant_cli.networks.layers import DIV2K_MEAN, enlarge_bicubic
from tests.helpers import tiny_edsr


@pytest.mark.parametrize(("scale", "parameters"), [(2, 1369859), (3, 1554499), (4, 1517571)])
def test_baseline_has_the_published_parameter_count(scale, parameters):
    assert build(EDSRConfig(scale=scale)).parameter_count() == parameters


@pytest.mark.slow
def test_full_network_has_the_published_parameter_count():
    config = EDSRConfig(scale=4, n_blocks=32, n_feats=256, res_scale=0.1)
    with torch.device("meta"):
        assert build(config).parameter_count() == 43_089_923


def test_multiply_accumulates_of_baseline_x4():
    # Convolutions at 320x180, by hand: head, 33 in the body, 64 -> 256 at 1x and 2x, tail at 4x.
    kernel = 9 * (3 * 64 + 33 * 64 * 64 + (1 + 4) * 64 * 256 + 16 * 64 * 3)
    assert count_macs(build(EDSRConfig(scale=4)), 180, 320) == kernel * 180 * 320


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_output_is_enlarged(scale):
    network = tiny_edsr(scale)
    assert network(torch.rand(2, 3, 7, 5)).shape == (2, 3, 7 * scale, 5 * scale)


def test_mean_and_range_surround_the_network():
    # With all weights zero but the tail's bias, the output is that bias on the mean, in 0..1.
    network = tiny_edsr()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.tail.bias.fill_(25.5)
    expected = torch.tensor(DIV2K_MEAN).view(3, 1, 1) + 0.1
    output = network(torch.rand(1, 3, 4, 4))[0]
    assert torch.allclose(output, expected.expand_as(output))


def test_luma_is_enlarged_by_the_network_and_chroma_by_bicubic():
    network = build(EDSRConfig(scale=2, n_blocks=1, n_feats=4, luma=True)).eval()
    seen = []
    network.head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.tail.bias.fill_(100.0)
    x = torch.rand(1, 3, 6, 5)
    output = network(x)
    weights = torch.tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    assert torch.allclose(seen[0][0, 0], (x[0] * weights).sum(0) + 16, atol=1e-3)
    # Luma is what the network says, and the differences of the colours are bicubic.
    assert torch.allclose((output[0] * weights).sum(0) + 16, torch.tensor(100.0), atol=1e-3)
    bicubic = enlarge_bicubic(x, 2)
    difference = (output - bicubic)[0]
    assert torch.allclose(difference, difference[:1].expand(3, -1, -1), atol=1e-6)


def test_residual_branch_is_scaled():
    network = build(EDSRConfig(scale=2, n_blocks=1, n_feats=4, res_scale=0.1))
    block = network.body[0]
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.fill_(2.0)
    x = torch.rand(1, 4, 3, 3)
    assert torch.allclose(block(x), x + 0.2)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_receptive_radius_covers_all_that_a_pixel_depends_on(scale):
    # Positive weights leave no dependence hidden by a ReLU or by cancellation.
    network = build(EDSRConfig(scale=scale, n_blocks=2, n_feats=2)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)
    size = 2 * network.receptive_radius + 5
    x = (torch.rand(1, 3, 1, size, dtype=torch.float64) + 1).requires_grad_()
    reached = 0
    for column in range(scale):  # every output column of the middle LR pixel
        (gradient,) = torch.autograd.grad(network(x)[0, :, 0, size // 2 * scale + column].sum(), x)
        touched = gradient.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
        reached = max(reached, int((touched - size // 2).abs().max()))
    assert network.receptive_radius - 1 <= reached <= network.receptive_radius


def test_x4_starts_from_the_body_of_x2():
    x2, x4 = tiny_edsr(2, seed=1), tiny_edsr(4, seed=2)
    x4.start_from(x2)
    assert torch.equal(x4.body[0].conv1.weight, x2.body[0].conv1.weight)
    assert torch.equal(x4.head.bias, x2.head.bias)
    x3 = tiny_edsr(3, seed=3)
    fresh = x3.upsampler[0].weight.clone()
    x3.start_from(x2)
    assert torch.equal(x3.upsampler[0].weight, fresh)


def test_start_from_another_shape_is_refused():
    other = build(EDSRConfig(scale=2, n_blocks=1, n_feats=4))
    with pytest.raises(ValueError, match=r"head\.weight"):
        tiny_edsr(2).start_from(other)


def test_a_second_network_of_the_same_name_leaves_the_registry_as_it_was():
    before = network_names()
    with pytest.raises(ValueError, match="edsr"):
        register(EDSR, EDSRConfig)
    assert network_names() == before
