from dataclasses import replace
from math import prod

import pytest
import torch

from sr_quant_cli.commands.info import InfoRequest, info
from sr_quant_cli.methods import build, config_class
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.modelfiles.named import embedded_model, embedded_models
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.layers import QuantConv2d
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Operands
from sr_quant_cli.report.info import print_info
from tests.helpers import tiny_edsr


@pytest.fixture(scope="module")
def folded():
    """An embedded model on integers, whose convolutions after the body are folded into one."""
    path = embedded_models()["edsr-baseline-x4-w8a8"]
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


def test_sites_with_bits_of_their_own_are_named(srq, tmp_path):
    network, method = tiny_edsr(), build(config_class("minmax")())
    sites = {"body.1.conv2": Operands(6, 5), "body.0.conv1": Operands("low", "low")}
    quantize_network(network, method, RESIDUAL_CONVOLUTIONS | sites, Bits(4, 4))
    method.calibrate(network, [torch.rand(1, 3, 12, 12)])
    save_model(tmp_path / "q.safetensors", network, Card())
    quantization = info(InfoRequest(tmp_path / "q.safetensors")).quantization
    assert quantization.exceptions == ("body.1.conv2",)
    bits = {site.path: (site.input_bits, site.weight_bits) for site in quantization.sites}
    assert (bits["body.1.conv1"], bits["body.1.conv2"]) == ((4, 4), (6, 5))
    _, out, _ = srq("info", tmp_path / "q.safetensors")
    assert "own bits:        body.1.conv2; other sites as their kind\n" in out
    _, out, _ = srq("info", embedded_model(4))
    assert "own bits" not in out


def test_an_imported_network_is_told_by_what_was_found(tmp_path, capsys):
    save_model(tmp_path / "t.safetensors", tiny_edsr(), Card(name="t"))
    found = info(InfoRequest(tmp_path / "t.safetensors"))
    print_info(found)
    assert "network:         edsr (scale 2, " in capsys.readouterr().out
    nodes = {"name": "imported", "nodes": "[]", "input_range": [0.0, 1.0], "whole": True}
    print_info(replace(found, network=nodes, structure="9 operations; takes RGB 0..1"))
    out = capsys.readouterr().out
    assert "network:         imported\nfound:           9 operations; takes RGB 0..1\n" in out
    assert "whole" not in out
