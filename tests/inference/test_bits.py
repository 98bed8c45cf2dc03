"""Feature average bits and bit operations against numbers worked out by hand."""

import numpy as np
import pytest
import torch

from sr_quant_cli.imaging.tiling import Patches, Span
from sr_quant_cli.inference.bits import BitMeter, Cost, bitops_of_choice, followed_inputs
from sr_quant_cli.inference.patchwise import PatchwiseUpscaler
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods.minmax import MinMaxConfig
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.networks import build
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.cost import Operation
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, Operands
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import tiny_edsr, tiny_swinir
from tests.inference.dynamic import INPUTS, dynamic_edsr

CPU = torch.device("cpu")
# Of the tiny EDSR x2: 8 features, two blocks of two 3x3 convolutions.
BLOCK_CONV = 9 * 8 * 8
HEAD, BODY_LAST, UPSAMPLER, TAIL = 9 * 3 * 8, 9 * 8 * 8, 9 * 8 * 32, 9 * 8 * 3 * 4
FLOAT_MACS = HEAD + BODY_LAST + UPSAMPLER + TAIL
"""Multiply-accumulates per LR pixel; the tail runs on four times as many pixels."""


def whole(height, width, bits=None):
    return TileResult(Span(0, height, 0, height), Span(0, width, 0, width), bits)


def quantized(network, placement=None, bits=4, method="pams"):
    config = PAMSConfig() if method == "pams" else MinMaxConfig()
    how = build_method(config)
    quantize_network(network, how, placement or how.paper_placement(), Bits(bits, bits))
    return network


@pytest.mark.slow
def test_the_published_figure_of_the_unquantized_edsr():
    cost = BitMeter(build(EDSRConfig(scale=4))).cost([whole(270, 480)])
    assert cost.fab == 32
    assert cost.bitops == cost.bitops_once
    # 527.0 T is printed; that is 0.12 % more, as if it held some element-wise operations.
    assert cost.bitops / 1e12 == pytest.approx(526.4, abs=0.05)
    assert cost.bitops / 1e12 == pytest.approx(527.0, rel=0.002)


def test_fixed_bits_by_hand():
    meter = BitMeter(quantized(tiny_edsr()))
    cost = meter.cost([whole(10, 12)])
    assert cost.fab == 4
    expected = 2 * 120 * (4 * BLOCK_CONV * 4 * 4 + FLOAT_MACS * 32 * 32)
    assert cost.bitops == cost.bitops_once == expected
    assert "mean bits of 4 inputs (block_first, block) of 8 layers" in meter.counted
    assert not meter.dynamic


def test_float_inputs_and_tensor_sites_in_front():
    assert BitMeter(tiny_edsr()).cost([whole(6, 6)]).fab == 32
    # Only the second convolutions have quantized inputs: the float ones are not counted.
    second = quantized(tiny_edsr(), {"block": Operands("low", "low")})
    assert BitMeter(second).cost([whole(6, 6)]).fab == 4
    # The tensor in front of the first convolutions has 8 bits, and so has their input.
    mixed = {"block_in": Operands("int8"), "block_first": Operands("fp32", "low")}
    mixed |= {"block": Operands("low", "low")}
    assert BitMeter(quantized(tiny_edsr(), mixed)).cost([whole(6, 6)]).fab == 6
    only_weights = {"block": Operands("fp32", "low")}
    meter = BitMeter(quantized(tiny_edsr(), only_weights))
    assert meter.cost([whole(6, 6)]).fab == 32
    assert "32" in meter.counted


def test_a_transformer_counts_its_linear_layers():
    meter = BitMeter(quantized(tiny_swinir(), {"linear": Operands("low", "low")}, bits=3))
    assert meter.cost([whole(8, 8)]).fab == 3
    assert "(linear)" in meter.counted
    full = BitMeter(quantized(tiny_swinir(), FULL, bits=4, method="minmax"))
    assert full.cost([whole(8, 8)]).fab == 4


def test_chosen_bits_by_hand():
    network = dynamic_edsr()
    network(torch.zeros(1, 3, 8, 8))
    meter = BitMeter(network)
    assert meter.dynamic
    assert meter.candidates == (4, 6, 8)
    assert "mean bits of 4 inputs (block_in, block) of 8 layers" in meter.counted
    ran = [
        # The rows 0 to 10 of 20, of which 8 are kept; and the rest.
        TileResult(Span(0, 10, 0, 8), Span(0, 6, 0, 6), np.float32([8, 4, 6, 4])),
        TileResult(Span(6, 20, 8, 20), Span(0, 6, 0, 6), np.float32([4, 4, 4, 4])),
    ]
    cost = meter.cost(ran)
    assert cost.fab == (5.5 + 4) / 2  # a patch counts as much as another
    first = 2 * (BLOCK_CONV * 4 * (8 + 4 + 6 + 4) + FLOAT_MACS * 1024)
    second = 2 * (BLOCK_CONV * 4 * (4 + 4 + 4 + 4) + FLOAT_MACS * 1024)
    assert cost.bitops == 60 * first + 84 * second
    assert cost.bitops_once == pytest.approx(48 * first + 72 * second)


def test_layers_take_the_bits_of_the_tensor_in_front():
    assert followed_inputs(dynamic_edsr()) == {
        "body.0.conv1": "body.0.block_in",
        "body.0.conv2": "body.0.conv2",
        "body.1.conv1": "body.1.block_in",
        "body.1.conv2": "body.1.conv2",
    }
    assert followed_inputs(quantized(tiny_edsr())) == {}


def test_chosen_bits_stand_in_for_fixed_ones():
    operations = [Operation("a", 10, 1, 8, 4), Operation("b", 1, 1, 2, 32)]
    assert bitops_of_choice(operations, {"a": 1}, np.float32([7, 5.5])) == 2 * 10 * 8 * 5.5 + 128


def test_the_mean_over_pictures_counts_each_alike():
    assert Cost.mean([Cost(4, 10, 6), Cost(7, 20, 8)]) == Cost(5.5, 15, 7)


def test_bits_of_patches_and_of_whole_pictures():
    network = dynamic_edsr()
    lr = np.zeros((10, 30, 3), np.uint8)
    lr[:, 10:20] = 128
    lr[:, 20:] = 255
    traits = traits_of_network(network, "net")
    assert traits.dynamic
    meter, runtime = BitMeter(network), TorchRuntime(network, CPU)
    ran = []
    PatchwiseUpscaler(runtime, traits, meter, Patches(10, 10))(lr, ran.append)
    assert [tile.bits.tolist() for tile in ran] == [[bits, 4, bits, 4] for bits in (4, 6, 8)]
    assert meter.cost(ran).fab == 5
    ran = []
    TiledUpscaler(runtime, traits, meter=meter)(lr, ran.append)
    assert [tile.bits.tolist() for tile in ran] == [[6, 4, 6, 4]]
    assert network.bit_provider.choices.keys() == set(INPUTS)
