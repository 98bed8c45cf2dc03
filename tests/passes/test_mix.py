from copy import deepcopy

import pytest
import torch

from sr_quant_cli.methods import build, config_class
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.passes.mix import STEPS, _look, mix
from sr_quant_cli.quant.plan import Bits, plan_sites
from sr_quant_cli.quant.sites import FULL
from sr_quant_cli.system.reporting import Silent, reporting
from tests.helpers import tiny_block, tiny_edsr


def pictures(count=4, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def bits_at(network, bits):
    plan = plan_sites(network.sites(), FULL, Bits(bits, bits))
    return {entry.site.path: entry.input_bits for entry in plan if not entry.given}


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        tiny_edsr(4),
        EDSR(EDSRConfig(scale=2, n_blocks=1, n_feats=8, res_scale=0.1)),
        EDSR(EDSRConfig(scale=2, n_blocks=1, n_feats=12, upsampler="direct")),
    ],
)
def test_float_network_stays_the_same(network):
    network = network.eval()
    x = pictures()
    with torch.no_grad():
        before = network(x)
        weight = network.head.weight.clone()
    mix(network, [x], bits_at(network, 4))
    with torch.no_grad():
        assert not torch.allclose(network.head.weight, weight)
        assert torch.allclose(network(x), before, atol=1e-5)


def test_influence_on_the_last_convolution_is_that_of_its_weights():
    # Every feature reaches all outputs within the kernel. Away from the border, outer products of
    # derivatives therefore sum to those of the weights, with the factor RANGE / 255.
    network = EDSR(EDSRConfig(scale=2, n_blocks=1, n_feats=4, upsampler="direct")).eval()
    place = _look(network, [pictures(8, 40)], {"tail.0": 4})[0]
    weight = network.tail[0].weight.transpose(0, 1).flatten(1)
    wanted = weight @ weight.T / 255**2 / 15**2
    # Random signs and the border cause errors of a few hundredths.
    assert (place.influence - wanted).abs().max() < 0.1 * wanted.diag().mean()


def test_the_stages_are_reported():
    class Listener(Silent):
        def progress(self, total, unit, what="", done=0):
            heard.append((total, unit, what))
            return super().progress(total, unit, what, done)

    heard = []
    network = tiny_edsr(4).eval()
    with reporting(Listener()):
        mix(network, [pictures(3)], bits_at(network, 4))
    assert heard == [
        (3, "picture", "mixing channels, 1 of 2"),
        (STEPS, "step", "mixing channels, 2 of 2"),
    ]


@pytest.mark.slow
def test_output_of_the_quantized_network_comes_nearer():
    network = EDSR(EDSRConfig(scale=2, n_blocks=2, n_feats=16, upsampler="direct")).eval()
    with torch.no_grad():
        # The output depends little on the channels with the largest values.
        far = torch.logspace(1, -1, 16)
        network.head.weight.mul_(far.view(-1, 1, 1, 1))
        x = pictures()
        wanted = network(x)
    mixed = deepcopy(network)
    mix(mixed, [x], bits_at(mixed, 8))

    def error(start):
        quantized, method = deepcopy(start), build(config_class("minmax")())
        quantize_network(quantized, method, FULL, Bits(8, 8))
        method.calibrate(quantized, [x])
        with torch.no_grad():
            return (quantized(x) - wanted).square().mean()

    assert error(mixed) < 0.8 * error(network)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ValueError, match="no residual stream"):
        mix(tiny_block(), [pictures()], {})
    network = tiny_edsr()
    with pytest.raises(ValueError, match="the residual stream is not quantized"):
        mix(network, [pictures()], bits_at(network, 8) | dict.fromkeys(bits_at(network, 8), 32))
