import numpy as np
import pytest
import torch
from torch import nn

from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import config_class
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.folding import (
    CONTEXT,
    ComposedEnd,
    ExactBorder,
    fold,
    fold_exactly,
    linear_chain,
)
from sr_quant_cli.networks.layers import Surround, Trim
from sr_quant_cli.networks.tracing import Link, links
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL
from tests.helpers import ranked_quantsr_c, tiny_edsr


def conv(channels_in, channels_out, size=3):
    return nn.Conv2d(channels_in, channels_out, size, padding=size // 2)


CHAINS = {
    "shuffle x4": lambda: [
        conv(6, 16),
        nn.PixelShuffle(2),
        conv(4, 16),
        nn.PixelShuffle(2),
        conv(4, 3),
    ],
    "shuffle x3": lambda: [conv(6, 18), nn.PixelShuffle(3), conv(2, 3, 5)],
    "shuffle last": lambda: [conv(6, 6), nn.Identity(), conv(6, 12), nn.PixelShuffle(2)],
    "transposed 17x17 x2": lambda: [
        conv(6, 5, 1),
        nn.ConvTranspose2d(5, 3, 17, stride=2, padding=8, output_padding=1),
    ],
    "transposed 17x17 x4": lambda: [
        conv(6, 5),
        nn.ConvTranspose2d(5, 3, 17, stride=4, padding=8, output_padding=3),
    ],
    "transposed 4x4": lambda: [nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1), conv(4, 3)],
}


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize("size", [(40, 33), (5, 60), (3, 3)])
def test_folded_chain_equals_the_layers_on_the_whole_picture(make, size):
    torch.manual_seed(0)
    chain = [module.double() for module in make()]
    folded = ExactBorder(chain).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        wanted = nn.Sequential(*chain)(x)
        assert torch.allclose(folded(x), wanted, rtol=0, atol=1e-6)
        if min(size) > 2 * folded.radius:
            # Only the folded convolution, whose weights were computed in float32.
            inside = folded.radius * folded.scale
            difference = (folded.folded(x) - wanted).abs()[:, :, inside:-inside, inside:-inside]
            assert difference.max() < 1e-6
            assert (folded.folded(x) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("make", [tiny_edsr, ranked_quantsr_c])
def test_networks_fold(scale, make):
    network = make(scale)
    x = torch.rand(1, 3, 14, 17)
    with torch.no_grad():
        assert torch.allclose(fold_exactly(network)(x), network(x), atol=1e-5)
        folded = fold(network)
        assert folded.config.context == CONTEXT
        network.set_context(CONTEXT)
        # With padding the folded convolution equals the layers up to the last pixel.
        assert torch.allclose(folded(x), network(x), atol=1e-5)
    assert network.config.folded is False
    assert [site.path for site in folded.sites()][-1] == "upsampler.0"
    assert {site.kind for site in folded.sites()}.isdisjoint({"upsampler"})


def test_multiply_accumulates_of_a_folded_baseline_x4():
    # The tail falls from 44.1 to 4.4 G at 320x180, which is 25 * 64 * 48 for each LR pixel.
    kernel = 9 * (3 * 64 + 33 * 64 * 64) + 25 * 64 * 48
    assert count_macs(build(EDSRConfig(scale=4, folded=True)), 180, 320) == kernel * 180 * 320


def test_network_without_a_chain_stays():
    network = build(EDSRConfig(scale=2, n_blocks=1, n_feats=4, upsampler="direct")).eval()
    assert linear_chain(network) == []
    assert fold(network).config == network.config
    assert fold(fold(tiny_edsr())).config.folded


class Chain(nn.Module):
    def __init__(self, between, skip):
        super().__init__()
        self.first, self.shuffle, self.last = conv(4, 16), nn.PixelShuffle(2), conv(4, 3)
        self.between, self.skip = between, skip

    def forward(self, x):
        y = self.shuffle(self.first(x))
        z = self.last(self.between(y))
        return z + y[:, :3] if self.skip else z


@pytest.mark.parametrize(
    ("between", "skip", "expected"),
    [
        (nn.Identity(), False, ["first", "shuffle", "between", "last"]),
        (nn.ReLU(), False, []),
        (nn.PReLU(), False, []),
        (nn.Identity(), True, []),
    ],
)
def test_only_linear_layers_in_a_row_are_a_chain(between, skip, expected):
    assert linear_chain(Chain(between, skip)) == expected


def test_folded_network_is_quantized_and_saved(tmp_path):
    network, method = fold(tiny_edsr(4)), build_method(config_class("dobi")())
    quantize_network(network, method, FULL, Bits(4, 4))
    x = torch.rand(1, 3, 12, 12)
    method.calibrate(network, [x])
    save_model(tmp_path / "folded.safetensors", network, Card())
    loaded, _ = load_model(tmp_path / "folded.safetensors")
    assert loaded.config.folded
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_links_tell_whether_all_uses_of_a_module_agree():
    a, b, relu = conv(3, 3), conv(3, 3), nn.ReLU()

    def found(*modules):
        return links(nn.Sequential(*modules), (nn.Conv2d,), (nn.Conv2d,))

    assert found(a, relu, b) == [Link("0", "2", relu=True, enlargement=1)]
    assert found(a, b, relu, b) == [
        Link("0", "1", relu=False, enlargement=1, always=False),
        Link("1", "1", relu=True, enlargement=1, always=False),
    ]
    assert found(a, b, a, b) == [
        Link("0", "1", relu=False, enlargement=1),
        Link("1", "0", relu=False, enlargement=1, always=False),
    ]


@pytest.mark.parametrize("scale", [2, 4])
def test_a_composed_end_learns_as_the_layers_do(scale):
    network = tiny_edsr(scale).double().train()
    end = ComposedEnd(network)
    assert end.border == 2
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    inside = (..., *[slice(2 * scale, -2 * scale)] * 2)
    weight = torch.randn(network(x)[inside].shape, dtype=torch.float64)
    names, parameters = list(network.state_dict()), list(network.parameters())

    def gradients():
        network.zero_grad()
        y = network(x)[inside]
        (y * weight).sum().backward()
        return y, [parameter.grad for parameter in parameters]

    wanted, theirs = gradients()
    with end.composed():
        got, ours = gradients()
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert list(network.state_dict()) == names


def test_a_composed_end_is_left_out_where_there_is_none():
    network = build(EDSRConfig(scale=2, n_blocks=1, n_feats=4, upsampler="direct"))
    end, x = ComposedEnd(network), torch.rand(1, 3, 6, 6)
    with torch.no_grad(), end.composed():
        assert torch.equal(network(x), network.enlarge(x))
    assert end.border == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (4, 5), (9, 5)])
def test_surroundings_are_mirrored_for_any_size(size):
    x = torch.rand(1, 3, *size)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="symmetric")
    surround, trim = Surround(4).eval(), Trim(4).eval()
    assert np.array_equal(surround(x).numpy(), padded)
    assert torch.equal(trim(surround(x)), x)
    assert surround.train()(x) is x
