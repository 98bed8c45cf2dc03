"""Loss by quantizing single sites, computed by hand."""

import math
from typing import Literal

import pytest
import torch
from torch import nn

from sr_quant_cli.methods import build, config_class
from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.passes.sensitivity import in_float, quantized_sites, site_losses
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, Operands, Site
from tests.helpers import tiny_edsr


class CopyConfig(NetworkConfig):
    """Configuration of a network that no user has."""

    name: Literal["copy"] = "copy"


class Copy(Network):
    """Nearest-neighbour enlargement behind a convolution that doubles and one that halves."""

    def __init__(self):
        super().__init__(CopyConfig(scale=2))
        self.twice, self.halve = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(2))
        self.twice.weight.data = 2 * torch.eye(3).view(3, 3, 1, 1)
        self.halve.weight.data = torch.eye(3).view(3, 3, 1, 1) / 2
        self.up = nn.Upsample(scale_factor=2)

    @property
    def receptive_radius(self):
        return 0

    @property
    def floats_per_pixel(self):
        return 12

    def declared_sites(self):
        return Site("twice", "block", 3), Site("halve", "block", 3)

    def enlarge(self, x):
        return self.up(self.halve(self.twice(x)))


def ramp():
    return torch.linspace(0, 1, 16).view(1, 1, 4, 4).expand(1, 3, 4, 4)


def quantized(placement):
    network = Copy().eval()
    method = build(config_class("minmax")())
    quantize_network(network, method, placement, Bits(8, 8))
    method.calibrate(network, [ramp()])
    return network


def test_every_site_loses_what_its_levels_do():
    network = quantized({"twice": Operands(3), "halve": Operands(2)})
    # Levels of 0..1 in sevenths, and of 0..2 in thirds of 2: 0.4 becomes 3/7 and 1/3.
    lr = torch.full((2, 3, 4, 4), 0.4)
    hr = torch.full((2, 3, 8, 8), 0.5)
    twice, halve = site_losses(network, Copy(), [lr], [hr])
    assert (twice.path, halve.path) == ("twice", "halve")
    assert twice.psnr == pytest.approx(-20 * math.log10(3 / 7 - 0.4), abs=1e-3)
    assert halve.psnr == pytest.approx(-20 * math.log10(0.4 - 1 / 3), abs=1e-3)
    # HR is 0.5: 3/7 is nearer to it than 0.4, and 1/3 is not.
    assert twice.drop == pytest.approx(20 * math.log10((0.5 - 3 / 7) / 0.1), abs=1e-3)
    assert halve.drop == pytest.approx(20 * math.log10((0.5 - 1 / 3) / 0.1), abs=1e-3)


def test_without_hr_only_the_output_is_compared():
    network = quantized({"twice": Operands(3), "halve": Operands(2)})
    (loss,) = site_losses(network, Copy(), [ramp()], paths=["halve"])
    assert loss.path == "halve"
    assert loss.drop is None


def test_a_site_without_an_error_loses_nothing():
    network = quantized({"twice": Operands(2), "halve": Operands("fp32", 8)})
    _, halve = site_losses(network, Copy(), [ramp()])
    assert halve.psnr == math.inf


def test_rounded_weights_count_with_their_site_alone():
    network, reference = tiny_edsr(), tiny_edsr()
    method = build(config_class("dobi")(candidates=10))
    quantize_network(network, method, {"block": Operands(weight=2)}, Bits(8, 8))
    pictures = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    method.calibrate(network, [pictures])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        for layer in (network.body[0].conv2, network.body[1].conv2):
            layer.bias += 0.5
        changed = {key: value.clone() for key, value in network.state_dict().items()}
        losses = {loss.path: loss.psnr for loss in site_losses(network, reference, [pictures])}
        assert losses.keys() == {"body.0.conv2", "body.1.conv2"} == set(quantized_sites(network))
        expected = tiny_edsr()
        quantize_network(expected, method, {"body.1.conv2": Operands(weight=2)}, Bits(8, 8))
        expected.load_state_dict({key: before[key] for key in expected.state_dict()})
        expected.body[1].conv2.bias += 0.5
        error = (expected.eval()(pictures) - reference(pictures)).square().mean()
    assert losses["body.1.conv2"] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    # The network itself stays as it was.
    for key, value in network.state_dict().items():
        assert torch.equal(value, changed[key])


def test_sites_in_float_are_no_longer_measured():
    network = quantized(FULL)
    in_float(network, Copy(), "halve")
    assert quantized_sites(network) == ["twice"]
    assert [loss.path for loss in site_losses(network, Copy(), [ramp()])] == ["twice"]
