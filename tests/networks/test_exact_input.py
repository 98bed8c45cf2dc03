"""Pictures minus a level of 8 bits, which codes of 8 bits hold exactly."""

import pytest
import torch

from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import config_class
from sr_quant_cli.networks import build
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL
from tests.tiny import network_config, network_forms


def pictures(side=40):
    levels = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(0))
    levels[0, :, :4, :4], levels[1, :, :4, :4] = 0, 255
    return levels / 255


def made(name, form):
    torch.manual_seed(0)
    return build(network_config(name, form)).eval()


@pytest.mark.parametrize(("name", "form"), network_forms())
@torch.no_grad()
def test_the_output_stays_the_same_away_from_the_border(name, form):
    network, x = made(name, form), pictures()
    before = network(x)
    network.make_input_exact()
    after = network(x)
    assert (after - before).abs().mean() < 0.01
    # The output of a transformer depends on the border everywhere.
    if network.receptive_radius < 16:
        border = network.scale * network.receptive_radius
        inside = (slice(None), slice(None), slice(border, -border), slice(border, -border))
        torch.testing.assert_close(after[inside], before[inside], atol=1e-5, rtol=1e-4)
    # The configuration rebuilds it.
    again = build(network.config)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(x), after)


@pytest.mark.parametrize("name", ["edsr", "carn", "quantsr_c"])
@torch.no_grad()
def test_codes_of_8_bits_hold_pictures_exactly(name):
    def error(network):
        method = build_method(config_class("dobi")())
        quantize_network(network, method, {"head": FULL["head"]}, Bits(8, 8))
        method.calibrate(network, [pictures()])
        seen = []
        network.head.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        network(pictures())
        return (network.head.input_quantizer(seen[0]) - seen[0]).abs().max() / seen[0].abs().max()

    network = made(name, "")
    assert error(made(name, "")) > 1e-3
    network.make_input_exact()
    assert error(network) < 1e-5


def test_a_network_without_a_mean_stays_as_it_is():
    for name, form in (("edsr", "luma"), ("rdn", "")):
        network = made(name, form)
        before = network.config
        network.make_input_exact()
        assert network.config == before
