import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.networks import build
from sr_quant_cli.networks.idn import IDNConfig
from sr_quant_cli.networks.layers import enlarge_bicubic
from tests.helpers import picture


def silent(**config):
    """A network that adds a constant of 3 to its enlarged picture."""
    network = build(IDNConfig(n_blocks=1, n_feats=16, **config)).eval()
    with torch.no_grad():
        network.tail.weight.zero_()
        network.tail.bias.fill_(3.0)
    return network


def test_parameter_counts():
    assert build(IDNConfig(scale=4)).parameter_count() == 590_915
    # One channel instead of three at both ends.
    luma = 590_915 - 2 * 9 * 64 - 2 * (17 * 17 * 64 + 1)
    assert build(IDNConfig(scale=4, luma=True)).parameter_count() == luma


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_rgb_is_added_to_the_bicubic_picture_of_torch(scale):
    x = torch.rand(1, 3, 7, 6)
    base = F.interpolate(x, scale_factor=scale, mode="bicubic")
    assert torch.allclose(silent(scale=scale)(x), base + 3 / 255, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_enlargement_is_that_of_matlab(scale):
    x = torch.rand(1, 3, 20, 17, dtype=torch.float64)
    ours = enlarge_bicubic(x, scale)
    # With antialiasing torch also uses a = -1/2; at the edges it normalizes the weights.
    theirs = F.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)
    inside = np.s_[..., 2 * scale : -2 * scale, 2 * scale : -2 * scale]
    assert torch.allclose(ours[inside], theirs[inside], atol=1e-6)
    # MATLAB rounds pixels after each direction.
    pixels = picture(20, 17, seed=3)
    enlarged = enlarge_bicubic(torch.from_numpy(pixels).permute(2, 0, 1)[None].double(), scale)
    off = enlarged[0].permute(1, 2, 0).numpy().clip(0, 255) - enlarge(pixels, scale)
    assert np.abs(off).max() <= 3
    assert np.abs(off[inside[1:]]).max() <= 1.2


def test_gradients_go_back_through_the_bicubic_enlargement():
    x = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: enlarge_bicubic(x, 2), x)


def test_luma_changes_all_colours_alike_and_keeps_chroma():
    x = torch.rand(1, 3, 8, 9)
    change = silent(scale=3, luma=True)(x) - enlarge_bicubic(x, 3)
    coefficients = torch.tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255
    # 3 in luma of 0..1.
    assert torch.allclose((change * coefficients).sum(1), torch.tensor(3.0), atol=1e-5)
    assert torch.allclose(change[:, 0], change[:, 1])
    assert torch.allclose(change[:, 0], change[:, 2])


def test_luma_network_sees_luma_alone():
    network = build(IDNConfig(scale=2, n_blocks=1, n_feats=16, luma=True)).eval()
    seen = []
    network.head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    white, black = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    network(white)
    network(black)
    assert seen[0].shape == (1, 1, 4, 4)
    assert torch.allclose(seen[0] * 255, torch.tensor(235.0), atol=1e-3)
    assert torch.allclose(seen[1] * 255, torch.tensor(16.0), atol=1e-3)


def test_a_quarter_is_taken_out_and_the_rest_goes_on():
    block = build(IDNConfig(scale=2, n_blocks=1, n_feats=16)).body[0].eval()
    seen = {}
    block.lower.register_forward_hook(lambda _m, i, o: seen.update(rest=i[0], lower=o))
    block.upper.register_forward_hook(lambda _m, _i, o: seen.update(upper=o))
    block.compression.register_forward_hook(lambda _m, i, _o: seen.update(sum=i[0]))
    x = torch.randn(1, 16, 5, 5)
    block(x)
    assert torch.equal(seen["rest"], seen["upper"][:, 4:])
    beside = torch.cat([x, seen["upper"][:, :4]], 1)
    assert torch.equal(seen["sum"], seen["lower"] + beside)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_luma_kernels_are_centred_further_on(scale):
    network = build(IDNConfig(scale=scale, n_blocks=1, n_feats=16, luma=True)).eval()
    with torch.no_grad():
        network.tail.weight.zero_()
        network.tail.bias.zero_()
        network.tail.weight[:, 0, 8, 8] = 1.0
    deep = torch.zeros(1, 16, 7, 7)
    deep[0, 0, 3, 3] = 1.0
    spread = network.tail(deep)[0, 0, : 7 * scale, : 7 * scale].nonzero().tolist()
    assert spread == [[3 * scale + scale - 1] * 2]
