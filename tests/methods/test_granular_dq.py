"""Granular-DQ's entropy rule."""

import pytest
import torch

from sr_quant_cli.methods.granular_dq import EntropyRule, GranularDQ, GranularDQConfig
from sr_quant_cli.methods.pams import PAMS, PAMSConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.pictures import entropy
from sr_quant_cli.quant.plan import Bits
from tests.helpers import tiny_edsr


def patches(count=10):
    """Make pictures with rising entropy."""
    noise = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    spread = torch.linspace(0.01, 0.9, count).view(-1, 1, 1, 1)
    return (0.5 + spread * (noise - 0.5)).expand(count, 3, 16, 16)


def quantized(method, bits=8):
    network = tiny_edsr()
    quantize_network(network, method, method.paper_placement(), Bits(8, bits))
    return network


def test_thresholds_are_percentiles_of_the_training_patches():
    method = GranularDQ(GranularDQConfig())
    network = quantized(method)
    before = quantized(pams := PAMS(PAMSConfig()))
    pams.calibrate(before, [patches()])
    method.inherit(network, before, [patches()[:4], patches()[4:]])
    found = entropy(patches())
    assert (found.diff() > 0).all()
    assert network.bit_provider.thresholds.tolist() == pytest.approx(
        torch.quantile(found, torch.tensor([0.5, 0.9])).tolist()
    )
    with torch.no_grad():
        network(patches())
    assert network.bit_provider.chosen().tolist() == [[4] * 4] * 5 + [[5] * 4] * 4 + [[8] * 4]


def test_on_a_threshold_the_fewer_bits():
    rule = EntropyRule((4, 8), 1)
    rule.thresholds.copy_(entropy(patches()[3:4]))
    rule.begin(patches()[3:5])
    assert rule.choice("", torch.zeros(2, 1, 1, 1)).bits.tolist() == [4, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"percentiles": [50.0]}, "needs 2, one between each two of"),
        ({"percentiles": [90.0, 50.0]}, "must ascend"),
    ],
)
def test_percentiles_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        GranularDQConfig(**changes)


def test_other_bits_are_refused():
    with pytest.raises(ValueError, match=r"`a` 5: bits are chosen among \[4, 5, 8\]"):
        quantized(GranularDQ(GranularDQConfig()), bits=5)
