"""Counts against published figures, from srq's own network if there is one."""

import pytest
from torch import nn

from sr_quant_cli.networks import build
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.quant.cost import (
    Operation,
    Shares,
    bitops,
    operand_shares,
    operation_ratio,
    storage_bytes,
)

LR_HEIGHT, LR_WIDTH = 270, 480
"""1920x1080 at x4."""


@pytest.fixture(scope="module")
def edsr():
    return build(EDSRConfig(scale=4))


def convolution_weights(module):
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))


def with_blocks_at(bits, network):
    """Operations of EDSR with quantized residual blocks, and the number of other values."""
    weights, block_weights = convolution_weights(network), convolution_weights(network.body)
    # Blocks work at LR size, so each of their weights is used once per pixel.
    block_macs = block_weights * LR_HEIGHT * LR_WIDTH
    rest_macs = count_macs(network, LR_HEIGHT, LR_WIDTH) - block_macs
    operations = [
        Operation("blocks", block_macs, block_weights, bits, bits),
        Operation("rest", rest_macs, weights - block_weights, 32, 32),
    ]
    return operations, network.parameter_count() - weights


def swinir_light(bits):
    """SwinIR-light x4 as 2DQuant counts it on 128x128 pixels: linear layers and all the rest."""
    return [
        Operation("linear", 14_340_000_000, 691_200, bits, bits),
        Operation("rest", 2_400_000_000, 206_028, 32, 32),
    ]


@pytest.mark.slow
def test_bitops_of_the_unquantized_network_are_those_published(edsr):
    operations, _ = with_blocks_at(32, edsr)
    assert bitops(operations) == 2 * 32 * 32 * count_macs(edsr, LR_HEIGHT, LR_WIDTH)
    # The published figure is 0.12 % higher, as if it included some element-wise operations.
    assert bitops(operations) == pytest.approx(527.0e12, rel=0.002)


def test_bitops_of_8_bit_blocks_are_not_those_published_for_pams(edsr):
    operations, _ = with_blocks_at(8, edsr)
    assert bitops(operations) / 1e12 == pytest.approx(232.8, abs=0.05)


def test_bitops_take_the_product_of_unequal_bits():
    assert bitops([Operation("a", 10, 1, 8, 4), Operation("b", 1, 1, 2, 32)]) == 640 + 128
    assert bitops([]) == 0


@pytest.mark.parametrize(
    ("bits", "megabytes"), [(2, 1.647), (3, 1.794), (4, 1.942), (8, 2.531), (32, 6.070)]
)
def test_storage_with_quantized_blocks(edsr, bits, megabytes):
    assert round(storage_bytes(*with_blocks_at(bits, edsr)) / 1e6, 3) == megabytes


def test_8_bit_storage_is_that_published_for_pams(edsr):
    # The paper prints 631K float32 equivalents of 1518K.
    assert storage_bytes(*with_blocks_at(8, edsr)) / 4 == pytest.approx(631e3, rel=0.005)


def test_storage_may_end_within_a_byte():
    assert storage_bytes([Operation("a", 0, 3, 3, 8)], other_values=1) == 4 + 9 / 8


@pytest.mark.parametrize(("bits", "saved"), [(2, 0.558), (4, 0.520), (8, 0.446)])
def test_saved_operations_of_quantized_blocks(edsr, bits, saved):
    assert round(operation_ratio(with_blocks_at(bits, edsr)[0]), 3) == saved


@pytest.mark.parametrize(
    ("bits", "compression", "speedup"), [(4, 3.07, 3.99), (3, 3.31, 4.47), (2, 3.60, 5.08)]
)
def test_ratios_are_those_published_for_2dquant(bits, compression, speedup):
    operations = swinir_light(bits)
    assert (
        round(storage_bytes(swinir_light(32), 0) / storage_bytes(operations, 0), 2) == compression
    )
    assert round(1 / (1 - operation_ratio(operations)), 2) == speedup


def test_a_float_operand_saves_no_operations():
    assert operation_ratio([Operation("a", 5, 1, 2, 32), Operation("b", 5, 1, 4, 8)]) == 0.375


def test_shares_follow_both_operands():
    operations = [
        Operation("both low", 1, 1, 4, 7),
        Operation("input of 8 bits", 2, 1, 4, 8),
        Operation("weight of 8 bits", 4, 1, 8, 2),
        Operation("both of 8 bits", 8, 1, 8, 8),
        Operation("float input", 16, 1, 2, 32),
        Operation("float weight", 32, 1, 32, 8),
        Operation("float product", 1, 0, 32, 32),
    ]
    assert operand_shares(operations) == Shares(low=1 / 64, int8=14 / 64, float=49 / 64)


def test_shares_of_quantized_blocks(edsr):
    shares = operand_shares(with_blocks_at(4, edsr)[0])
    assert round(shares.low, 3) == 0.595
    assert shares.low + shares.int8 + shares.float == pytest.approx(1)


@pytest.mark.parametrize("share", [operation_ratio, operand_shares])
def test_shares_of_nothing_are_refused(share):
    with pytest.raises(ValueError, match="no multiply-accumulates"):
        share([])
