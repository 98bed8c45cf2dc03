"""Networks whose sites have bits of their own: costs, files, bits that follow the picture."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sr_quant_cli.imaging.tiling import Span
from sr_quant_cli.inference.bits import BitMeter, followed_inputs
from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.methods import build, config_class
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.passes.apply import count_operations, quantize_network
from sr_quant_cli.quant.cost import bitops
from sr_quant_cli.quant.dynamic import dynamic_quantizers
from sr_quant_cli.quant.plan import Bits, plan_sites
from sr_quant_cli.quant.sites import FULL, RESIDUAL_CONVOLUTIONS, Operands, Site
from tests.helpers import tiny_edsr

MIXED = {"body.0.conv2": Operands(6, 5), "body.1.conv1": Operands("fp32", 3)}


def lr_batch(seed=0):
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def quantized(method="minmax", placement=RESIDUAL_CONVOLUTIONS, bits=(4, 4), sites=MIXED):
    network, made = tiny_edsr(), build(config_class(method)())
    quantize_network(network, made, placement | sites, Bits(*bits))
    made.calibrate(network, [lr_batch(1), lr_batch(2)])
    return network.eval()


def widths(network):
    return {e.site.path: (e.input_bits, e.weight_bits) for e in network.quantization.sites}


def test_bit_operations_by_hand():
    network = quantized()
    # Four 3x3 convolutions of 8 to 8 channels in blocks; head, body_last, upsampler and tail.
    conv, float_macs = 9 * 8 * 8, 9 * (3 * 8 + 8 * 8 + 8 * 32 + 8 * 3 * 4)
    products = 4 * 4 + 5 * 6 + 3 * 32 + 4 * 4
    expected = 2 * 120 * (conv * products + float_macs * 32 * 32)
    assert bitops(count_operations(network, 10, 12)) == expected
    cost = BitMeter(network).cost([TileResult(Span(0, 10, 0, 10), Span(0, 12, 0, 12))])
    assert cost.bitops == expected
    assert cost.fab == (4 + 6 + 4) / 3


def test_modules_have_the_bits_of_the_plan():
    network = quantized()
    assert widths(network)["body.0.conv2"] == (6, 5)
    assert network.body[0].conv2.weight_quantizer.bits == 5
    assert network.body[0].conv2.input_quantizer.bits == 6
    assert network.body[1].conv1.weight_quantizer.bits == 3
    assert isinstance(network.body[1].conv1.input_quantizer, torch.nn.Identity)
    assert network.body[1].conv2.weight_quantizer.bits == 4
    assert [entry.site.path for entry in network.quantization.exceptions()] == list(MIXED)
    assert quantized(sites={}).quantization.exceptions() == []


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("method", ["minmax", "pams", "quantsr", "2dquant"])
def test_files_keep_the_bits_of_every_site(tmp_path, method, packed):
    network = quantized(method)
    save_model(tmp_path / "q.safetensors", network, Card(), packed=packed)
    loaded, header = load_model(tmp_path / "q.safetensors")
    assert loaded.quantization == network.quantization
    with torch.no_grad():
        assert torch.equal(loaded(lr_batch()), network(lr_batch()))
    save_model(tmp_path / "again.safetensors", loaded, header.card, packed=packed)
    first, again = (tmp_path / f"{name}.safetensors" for name in ("q", "again"))
    assert first.read_bytes() == again.read_bytes()
    sites = header.model_dump()["quantization"]["sites"]
    assert sites["body.0.conv2"] == {"input": 6, "weight": 5}
    assert sites["body.1.conv1"] == {"weight": 3}
    assert sites["head"] == {}


def test_the_sites_of_a_file_count_not_its_placement(tmp_path):
    network = quantized(placement=FULL, sites={"body.0.conv2": Operands(6, 5, integer=True)})
    save_model(tmp_path / "q.safetensors", network, Card())
    with safe_open(tmp_path / "q.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["srq"])
    header["quantization"] |= {"w": 8, "a": 8, "placement": {"head": {"input": "low"}}}
    tensors = load_file(tmp_path / "q.safetensors")
    save_file(tensors, tmp_path / "q.safetensors", metadata={"srq": json.dumps(header)})
    loaded, _ = load_model(tmp_path / "q.safetensors")
    assert loaded.quantization.sites == network.quantization.sites
    with torch.no_grad():
        assert torch.equal(loaded(lr_batch()), network(lr_batch()))


@pytest.mark.parametrize("method", ["minmax", "cadyq", "adabm"])
def test_files_without_sites_load_by_their_placement(tmp_path, method):
    network = quantized(method, FULL, (8, 8), sites={})
    save_model(tmp_path / "q.safetensors", network, Card())
    with safe_open(tmp_path / "q.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["srq"])
    del header["quantization"]["sites"]
    for changed in (header, {**header, "format": 1, "inputs": None}):
        tensors = load_file(tmp_path / "q.safetensors")
        save_file(tensors, tmp_path / "old.safetensors", metadata={"srq": json.dumps(changed)})
        loaded, _ = load_model(tmp_path / "old.safetensors")
        assert loaded.quantization == network.quantization
        with torch.no_grad():
            assert torch.equal(loaded(lr_batch()), network(lr_batch()))


def test_fixed_sites_of_a_method_that_chooses_bits(tmp_path):
    sites = {"body.0.conv2": Operands(6, 8), "body.1.conv1": Operands(8, 8)}
    placement = build(config_class("cadyq")()).paper_placement()
    before = quantized("pams", placement, (8, 8), sites)
    network, method = tiny_edsr(), build(config_class("cadyq")())
    quantize_network(network, method, placement | sites, Bits(8, 8))
    method.inherit(network, before, [])
    network.eval()
    chosen = ["body.0.block_in", "body.1.block_in", "body.1.conv2"]
    assert list(dynamic_quantizers(network)) == list(network.bit_provider.inputs) == chosen
    # The second one reads a tensor with chosen bits, but has 8 fixed bits itself.
    assert followed_inputs(network) == {
        "body.0.conv1": "body.0.block_in",
        "body.1.conv2": "body.1.conv2",
    }
    fixed, source = network.body[0].conv2.input_quantizer, before.body[0].conv2.input_quantizer
    assert (fixed.bits, fixed.alpha) == (6, source.alpha)
    entered = before.body[1].block_in.input_quantizer.alpha
    assert network.body[1].conv1.input_quantizer.alpha == entered
    with torch.no_grad():
        expected = network(lr_batch())
    assert network.bit_provider.chosen().shape == (2, 3)
    save_model(tmp_path / "q.safetensors", network, Card())
    loaded, _ = load_model(tmp_path / "q.safetensors")
    assert loaded.quantization == network.quantization
    with torch.no_grad():
        assert torch.equal(loaded(lr_batch()), expected)


def test_inputs_come_from_the_nearest_tensor_site_in_front():
    sites = [
        Site("a", "concat_in", 8),
        Site("b", "block_in", 8, quantized_by="concat_in"),
        Site("c", "block_first", 8, quantized_by="block_in"),
        Site("d", "block_in", 8),
        Site("e", "block_first", 8, quantized_by="block_in"),
    ]
    low = {"concat_in": Operands("low"), "block_in": Operands("low"), "block_first": Operands(4, 4)}

    def found(changes):
        plan = plan_sites(sites, low | changes, Bits(4, 4), dynamic="dynamic" in changes)
        return {entry.site.path: (entry.source, entry.given) for entry in plan}

    assert found({}) == {
        "a": (None, False),
        "b": ("a", True),
        "c": ("a", True),
        "d": (None, False),
        "e": ("d", True),
    }
    assert found({"b": Operands(6)})["c"] == ("b", False)
    assert found({"b": Operands("fp32")})["c"] == ("a", False)
    assert found({"d": Operands("fp32")})["e"] == (None, False)
    # Four fixed bits are not the bits that are chosen before.
    assert found({"dynamic": Operands()})["c"] == ("a", False)
