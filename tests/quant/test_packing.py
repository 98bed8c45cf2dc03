import math

import pytest
import torch

from sr_quant_cli.quant.grids import encode, sym_full
from sr_quant_cli.quant.packing import pack, unpack

ALL_BITS = range(2, 9)


def int16(values):
    return torch.tensor(values, dtype=torch.int16)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (8,), (1001,), (5, 3, 3, 3)])
def test_codes_come_back_from_as_few_bytes_as_they_need(bits, shape):
    first = -(2 ** (bits - 1))
    generator = torch.Generator().manual_seed(bits)
    codes = int16(first) + torch.randint(2**bits, shape, generator=generator).to(torch.int16)
    packed = pack(codes, first, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (math.ceil(math.prod(shape) * bits / 8),)
    back = unpack(packed, shape, first, bits)
    assert back.dtype == torch.int16
    assert torch.equal(back, codes)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("first", [-128, 0, 100])
def test_every_code_comes_back(bits, first):
    codes = torch.arange(first, first + 2**bits, dtype=torch.int16)
    assert torch.equal(unpack(pack(codes, first, bits), codes.shape, first, bits), codes)


def test_bits_are_stored_lowest_first_without_gaps():
    # 1 = 100, 5 = 101, 3 = 110, lowest bit first: 100 101 11 | 0, and seven zeros.
    assert pack(int16([1, 5, 3]), 0, 3).tolist() == [0b11101001, 0b00000000]
    # 9 = 1001 fills the lower half of the byte, 6 = 0110 the upper one.
    assert pack(int16([9, 6, 15]), 0, 4).tolist() == [0x69, 0x0F]
    assert pack(int16([-128, 0, 127]), -128, 8).tolist() == [0, 128, 255]


def test_codes_are_packed_in_the_order_of_their_elements():
    codes = torch.arange(12, dtype=torch.int16).view(3, 4)
    assert torch.equal(pack(codes.T, 0, 4), pack(codes.T.contiguous(), 0, 4))


def test_codes_of_a_grid():
    grid = sym_full(torch.tensor(0.25), 3)
    codes = encode(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)), grid)
    packed = pack(codes, grid.first, grid.bits)
    assert torch.equal(unpack(packed, codes.shape, grid.first, grid.bits), codes)


@pytest.mark.parametrize("stray", [-5, 4, -32768, 32767])
def test_codes_that_do_not_fit_are_refused(stray):
    with pytest.raises(ValueError, match=rf"{stray}.*3 bits hold -4 to 3"):
        pack(int16([0, stray]), -4, 3)


def test_wrong_length_is_refused():
    packed = pack(int16([0, 1, 2]), 0, 3)
    with pytest.raises(ValueError, match=r"shape \[2\]: 6 codes of 3 bits are 3 bytes"):
        unpack(packed, (2, 3), 0, 3)
    with pytest.raises(ValueError, match=r"shape \[1, 2\]"):
        unpack(packed[None], (3,), 0, 3)


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match="must be 2 to 8"):
        pack(int16([0]), 0, bits)
    with pytest.raises(ValueError, match="must be 2 to 8"):
        unpack(torch.zeros(1, dtype=torch.uint8), (1,), 0, bits)
