from math import inf, log10
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sr_quant_cli.methods import build, config_class
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.passes.statistics import operand_statistics
from sr_quant_cli.quant.grids import affine_real
from sr_quant_cli.quant.layers import QuantTensor
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import BoundsQuantizer
from tests.helpers import tiny_edsr
from tests.lowered import lr_batch, quantized_edsr


class OneSite(nn.Module):
    """A network of one quantized tensor, with the levels 0, 1, 2 and 3."""

    def __init__(self):
        super().__init__()
        quantizer = BoundsQuantizer(2, "ste", affine_real, lambda x: (x.min(), x.max()))
        quantizer.observe(torch.tensor([0.0, 3.0]))
        self.site = QuantTensor(quantizer)
        self.quantization = SimpleNamespace(
            sites=[SimpleNamespace(site=SimpleNamespace(path="site"))]
        )

    def forward(self, x):
        return self.site(x)


def test_statistics_of_known_values():
    network = OneSite()
    # Levels 0, 0, 1 and 3; the first and the last value are clipped.
    (found,) = operand_statistics(network, [torch.tensor([-1.0, 0.4]), torch.tensor([1.0, 5.0])])[
        "site"
    ]
    assert (found.operand, found.bits, found.levels) == ("input", 2, 4)
    assert (found.lower, found.upper, found.clipped) == (0.0, 3.0, 0.5)
    signal, noise = 1 + 0.16 + 1 + 25, 1 + 0.16 + 0 + 4
    assert found.sqnr == pytest.approx(10 * log10(signal / noise))
    assert (found.histogram.low, found.histogram.high) == (-1.0, 5.0)
    assert sum(found.histogram.counts) == 4
    assert found.histogram.counts[0] == found.histogram.counts[-1] == 1
    (exact,) = operand_statistics(network, [torch.tensor([0.0, 1.0, 3.0])])["site"]
    assert (exact.sqnr, exact.clipped) == (inf, 0.0)


def test_nothing_is_left_behind():
    network = OneSite()
    operand_statistics(network, [torch.zeros(3)])
    assert not network.site.input_quantizer._forward_hooks


def calibrated(name):
    method = build(config_class(name)())
    network = tiny_edsr()
    quantize_network(network, method, method.paper_placement(), Bits(8, 8))
    method.calibrate(network, [lr_batch(2)])
    return network.eval()


@pytest.mark.parametrize("name", ["minmax", "pams", "daq", "quantsr", "cadyq", "granular_dq"])
def test_all_kinds_of_quantizers_have_statistics(name):
    found = operand_statistics(calibrated(name), [lr_batch(2)])
    operands = [each for site in found.values() for each in site]
    assert {each.operand for each in operands} >= {"input", "weight"}
    for each in operands:
        assert each.lower < each.upper
        assert 0 <= each.clipped < 1
        assert each.sqnr > 5


def test_more_bits_make_less_noise():
    coarse, fine = (
        operand_statistics(quantized_edsr("minmax", "full", bits), [lr_batch(2)]) for bits in (4, 8)
    )
    for path in ("body.0.conv1", "body.1.conv2"):
        few, many = (
            next(each for each in found[path] if each.operand == "weight")
            for found in (coarse, fine)
        )
        # Four more bits: 16 times as fine, 24 dB.
        assert many.sqnr - few.sqnr == pytest.approx(24, abs=4)
