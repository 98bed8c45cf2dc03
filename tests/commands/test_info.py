from math import prod

import pytest

from sr_quant_cli.commands.info import InfoRequest, info
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.modelfiles.named import embedded_model
from sr_quant_cli.quant.layers import QuantConv2d


@pytest.fixture(scope="module")
def folded():
    """An embedded model on integers, whose convolutions after the body are folded into one."""
    path = embedded_model(4)
    network, _ = load_model(path)
    return path, network


def test_a_folded_network_has_the_sites_that_it_was_quantized_at(folded):
    path, network = folded
    sites = info(InfoRequest(path)).quantization.sites
    assert [site.path for site in sites] == [site.path for site in network.sites()]
    assert sum(site.mac_share_counted for site in sites) == pytest.approx(1, abs=1e-3)


def test_storage_is_counted_of_what_the_network_has(folded):
    path, network = folded
    layers = [layer for layer in network.modules() if isinstance(layer, QuantConv2d)]
    weights = sum(prod(layer.weight.shape) for layer in layers)
    biases = sum(len(layer.weight) for layer in layers)
    told = info(InfoRequest(path)).to_json()
    assert told["parameters"] == weights + biases
    assert told["quantization"]["storage_bytes_counted"] == weights + 4 * biases
    assert told["quantization"]["operations_saved_counted"] == 0.75
