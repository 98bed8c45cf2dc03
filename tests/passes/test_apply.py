"""Inserting quantizers into networks, and saving and loading these."""

import pytest
import torch

from sr_quant_cli.methods import build
from sr_quant_cli.methods.minmax import MinMaxConfig
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, read_header, save_model
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.passes.apply import count_operations, quantize_network
from sr_quant_cli.quant.grids import encode
from sr_quant_cli.quant.layers import QuantConv2d
from sr_quant_cli.quant.plan import Bits, plan_sites
from sr_quant_cli.quant.sites import FULL, Operands
from tests.helpers import tiny_edsr

METHODS = {"minmax": MinMaxConfig(), "pams": PAMSConfig()}


def lr_batch(seed=0):
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def quantized(name, bits, placement=None):
    network = tiny_edsr()
    method = build(METHODS[name])
    quantize_network(network, method, placement or method.paper_placement(), bits)
    method.calibrate(network, [lr_batch(1), lr_batch(2)])
    return network.eval()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_loaded_network_is_saved_as_the_same_file(tmp_path, name):
    save_model(tmp_path / "q.safetensors", quantized(name, Bits(3, 7)), Card())
    loaded, header = load_model(tmp_path / "q.safetensors")
    assert (header.quantization.w, header.quantization.a) == (3, 7)
    save_model(tmp_path / "again.safetensors", loaded, header.card)
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "q.safetensors"
    ).read_bytes()


def test_trainable_files_keep_the_float_weights(tmp_path):
    network = quantized("pams", Bits(2, 2))
    save_model(tmp_path / "t.safetensors", network, Card(), packed=False)
    loaded, _ = load_model(tmp_path / "t.safetensors")
    assert torch.equal(loaded.body[0].conv1.weight, network.body[0].conv1.weight)
    with torch.no_grad():
        assert torch.equal(loaded(lr_batch()), network(lr_batch()))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_take_their_bits_in_the_file(tmp_path, bits):
    network = quantized("minmax", Bits(bits, 4), FULL)
    save_model(tmp_path / "q.safetensors", network, Card())
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "q.safetensors")
    values = 8 * 8 * 9
    assert tensors["body.0.conv1.weight_codes"].numel() == -(-values * bits // 8)
    assert tensors["tail.weight_codes"].numel() == 3 * 8 * 9
    assert not [key for key in tensors if key.endswith("conv1.weight")]


def test_full_quantizes_every_convolution():
    network = quantized("minmax", Bits(4, 4), FULL)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions == []
    layers = [m for m in network.modules() if isinstance(m, QuantConv2d)]
    assert len(layers) == 1 + 2 * 2 + 1 + 1 + 1
    widths = {
        path: (network.get_submodule(path).weight_quantizer.bits)
        for path in ("head", "body.0.conv1", "body.1.conv2", "body_last", "upsampler.0", "tail")
    }
    assert list(widths.values()) == [8, 4, 4, 4, 8, 8]


def test_the_level_count_is_that_of_the_bits():
    network = quantized("minmax", Bits(3, 2))
    layer = network.body[0].conv2
    with torch.no_grad():
        assert len(layer.weight_quantizer(layer.weight).unique()) == 8
        values = layer.input_quantizer(torch.linspace(-5, 300, 1000))
        codes = encode(values, layer.input_quantizer.grid(values))
    assert len(values.unique()) == 4
    assert codes.unique().tolist() == [0, 1, 2, 3]


def test_an_input_that_is_quantized_already_is_not_quantized_again():
    low = Operands("low", "low")
    plan = plan_sites(
        tiny_edsr().sites(), {"block_in": Operands("low"), "block_first": low}, Bits(4, 4)
    )
    first = next(entry for entry in plan if entry.site.kind == "block_first")
    assert (first.input_bits, first.weight_bits) == (4, 4)
    network = quantized("minmax", Bits(4, 4), {"block_in": Operands("low"), "block_first": low})
    assert isinstance(network.body[0].conv1.input_quantizer, torch.nn.Identity)
    network = quantized("minmax", Bits(4, 4), {"block_in": Operands("int8"), "block_first": low})
    assert network.body[0].conv1.input_quantizer.bits == 4


def test_a_placement_without_a_site_is_refused():
    with pytest.raises(
        ValueError, match="quantizes linear; the network's sites are head, block_in"
    ):
        quantized("minmax", Bits(4, 4), {"linear": Operands("low", "low")})
    with pytest.raises(ValueError, match="quantizes nothing; the network's"):
        quantized("minmax", Bits(4, 4), {"block": Operands()})


def test_ranges_that_were_never_found_are_an_error():
    network = tiny_edsr()
    method = build(METHODS["minmax"])
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    with pytest.raises(RuntimeError, match="calibrate first"):
        network(lr_batch())


def test_calibration_sees_float_values_at_every_site():
    recorded = []
    network = tiny_edsr()
    network.body[1].conv2.register_forward_pre_hook(lambda _m, args: recorded.append(args[0]))
    with torch.no_grad():
        for seed in (1, 2):
            network(lr_batch(seed))
    seen = torch.cat(recorded)
    quantizer = quantized("minmax", Bits(2, 2)).body[1].conv2.input_quantizer
    assert quantizer.lower.item() == seen.min().item()
    assert quantizer.upper.item() == seen.max().item()


@pytest.mark.slow
def test_operations_are_counted_with_their_bits():
    network = quantized("pams", Bits(2, 3))
    operations = {op.name: op for op in count_operations(network, 10, 20)}
    block = operations["body.0.conv1"]
    assert block.macs == 10 * 20 * 8 * 8 * 9
    assert (block.weights, block.weight_bits, block.input_bits) == (8 * 8 * 9, 2, 3)
    assert operations["head"].weight_bits == operations["head"].input_bits == 32
    assert sum(op.macs for op in operations.values()) == count_macs(network, 10, 20)


def test_the_header_says_how_it_was_quantized(tmp_path):
    save_model(tmp_path / "q.safetensors", quantized("pams", Bits(4, 4)), Card())
    header = read_header(tmp_path / "q.safetensors")
    assert header.quantization.method["name"] == "pams"
    assert header.quantization.placement["block_in"] == Operands("low")
