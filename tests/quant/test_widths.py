"""Widths in levels: what they are, their grids by hand, and files."""

import copy
import pickle

import pytest
import torch
from pydantic import TypeAdapter

from sr_quant_cli.methods import build, config_class, method_names
from sr_quant_cli.quant.frozen import FrozenInput, FrozenWeight
from sr_quant_cli.quant.grids import (
    affine_int,
    affine_real,
    affine_zero,
    levels,
    midrise,
    quantize,
    sym_full,
    sym_narrow,
    unsigned,
)
from sr_quant_cli.quant.learned_step import LearnedStep
from sr_quant_cli.quant.max_scale import MaxScale
from sr_quant_cli.quant.packing import pack, unpack
from sr_quant_cli.quant.ranges import search_scale, search_two_sided
from sr_quant_cli.quant.sites import FULL, Site
from sr_quant_cli.quant.widths import (
    MAX_LEVELS,
    MIN_LEVELS,
    NarrowBits,
    WeightWidth,
    Width,
    check_weight_width,
    check_width,
    level_count,
)

ONE, TWO = torch.tensor(1.0), torch.tensor(2.0)


@pytest.mark.parametrize("count", range(MIN_LEVELS, MAX_LEVELS + 1))
def test_bits_are_the_fewest_that_hold_the_levels(count):
    width = NarrowBits(count)
    assert 2 ** (width - 1) < count <= 2**width
    assert level_count(width) == count
    assert (width == int(width)) == (count == 2**width)
    assert hash(width) == hash(int(width))


def test_levels_survive_copies():
    width = NarrowBits(29)
    for made in (copy.deepcopy(width), copy.copy(width), pickle.loads(pickle.dumps(width))):
        assert made.levels == 29
        assert made == width


def test_widths_of_different_levels_differ():
    assert NarrowBits(29) != NarrowBits(31)
    assert NarrowBits(29) == NarrowBits(29)
    assert NarrowBits(29) not in (4, 5, 6)
    assert 6 in (NarrowBits(64), NarrowBits(61))


@pytest.mark.parametrize("value", [2, 8, "3L", "256L", "029L", NarrowBits(29)])
def test_widths(value):
    adapter = TypeAdapter(Width)
    width = adapter.validate_python(value)
    assert adapter.validate_python(adapter.dump_python(width)) == width
    assert adapter.validate_json(adapter.dump_json(width)) == width


@pytest.mark.parametrize(
    "value",
    [1, 9, True, 4.0, None, "", "L", "4", "2L", "257L", "1000L", "29l", "29 L", "-29L", "٢٩L"],
)
def test_no_widths(value):
    with pytest.raises(ValueError, match=r"^must be 2 to 8 \(bits\), or 3L to 256L \(levels\)$"):
        check_width(value)
    with pytest.raises(ValueError, match=r"^must be 2 to 8 \(bits\), or an odd number from 3L to "):
        check_weight_width(value)


def test_weights_have_an_odd_number_of_levels():
    assert TypeAdapter(WeightWidth).validate_python("29L").levels == 29
    for value in ("28L", "256L", NarrowBits(32)):
        with pytest.raises(ValueError, match="an odd number from 3L to 255L"):
            check_weight_width(value)


@pytest.mark.parametrize(
    ("grid", "first", "last", "step"),
    [
        (sym_narrow(torch.tensor(7.0), NarrowBits(29)), -14, 14, 0.5),
        (sym_narrow(torch.tensor(6.5), NarrowBits(28)), -13, 13, 0.5),
        (sym_full(TWO, NarrowBits(29)), -14, 14, 2),
        (sym_full(TWO, NarrowBits(28)), -14, 13, 2),
        (unsigned(TWO, NarrowBits(61)), 0, 60, 2),
        (affine_int(-ONE, torch.tensor(19.0), NarrowBits(11)), 0, 10, 2),
        (affine_real(-ONE, torch.tensor(19.0), NarrowBits(11)), 0, 10, 2),
        (affine_zero(ONE, torch.tensor(20.0), NarrowBits(11)), 0, 10, 2),
        (midrise(TWO, NarrowBits(28)), -14, 13, 2),
    ],
)
def test_grids_by_hand(grid, first, last, step):
    assert (grid.first, grid.last, grid.step.item()) == (first, last, step)
    assert levels(grid).numel() == last - first + 1


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("to_grid", [sym_narrow, sym_full, unsigned, midrise])
def test_all_levels_of_the_bits_are_the_grid_of_the_bits(to_grid, bits):
    narrow = to_grid(ONE, NarrowBits(2**bits)) if bits > 1 else None
    whole = to_grid(ONE, bits)
    assert (narrow.first, narrow.last) == (whole.first, whole.last)
    assert torch.equal(levels(narrow), levels(whole))


@pytest.mark.parametrize("count", [3, 5, 29, 61, 255])
def test_zero_stays_a_level_of_an_integer_grid(count):
    grid = affine_zero(torch.tensor(-0.731), torch.tensor(3.117), NarrowBits(count))
    assert quantize(torch.zeros(1), grid).item() == 0
    assert levels(grid).numel() == count


def test_searches_count_the_error_of_the_levels_that_are_there():
    x = torch.cat([torch.arange(-14.0, 15.0).repeat(9), torch.tensor([15.5])])
    wide = search_scale(x, sym_narrow, 5, torch.tensor(15.5), candidates=31)
    narrow = search_scale(x, sym_narrow, NarrowBits(29), torch.tensor(15.5), candidates=31)
    assert (wide.item(), narrow.item()) == (15.0, 14.0)
    low, high = search_two_sided(x, NarrowBits(31), candidates=60)
    assert (high - low).item() == pytest.approx(30, abs=0.6)


def test_learned_steps_and_bounds():
    x = torch.tensor([-100.0, -1.0, 0.0, 1.0, 100.0])
    step = LearnedStep(NarrowBits(29), "clip", sym_full)
    step.value.data.fill_(1.0)
    step.batches.add_(1)
    assert step(x).tolist() == [-14, -1, 0, 1, 14]
    bound = MaxScale(NarrowBits(29))
    bound.alpha.data.fill_(14.0)
    assert bound(x).tolist() == [-14, -1, 0, 1, 14]


def test_frozen_grids_keep_their_last_code():
    grid = sym_narrow(torch.tensor([7.0, 14.0]).view(2, 1, 1, 1), NarrowBits(29))
    weight = levels(grid)[:, 0, 0, 0][:, None, None, :5].clone()
    frozen = FrozenWeight.of(grid, weight).grid(weight)
    assert (frozen.first, frozen.last, frozen.bits) == (-14, 14, NarrowBits(29))
    given = FrozenInput.of(affine_zero(-ONE, TWO, NarrowBits(61))).static_grid()
    assert (given.first, given.last, given.bits) == (0, 60, NarrowBits(61))


def test_codes_are_packed_into_the_bits_that_hold_them():
    codes = torch.arange(-14, 15, dtype=torch.int16)
    packed = pack(codes, -14, NarrowBits(29))
    assert len(packed) == -(-29 * 5 // 8)
    assert torch.equal(unpack(packed, codes.shape, -14, NarrowBits(29)), codes)


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_the_levels_or_says_that_it_has_none(name):
    """Weights and inputs for integer kernels have at most the codes that were asked for."""
    method = build(config_class(name)())
    if not method.takes_levels:
        pytest.skip("refused before any quantizer is made")
    torch.manual_seed(0)
    site, weight = Site("conv", "block", 8), torch.randn(8, 8, 3, 3)
    assert FULL["block"].integer
    quantizer = method.weight_quantizer(site, weight, NarrowBits(29), per_channel=True)
    quantizer.observe(weight)
    grid = quantizer.grid(weight)
    assert (grid.first, grid.last) == (-14, 14)
    given = method.input_quantizer(site, NarrowBits(61))
    given.require_zero_level()
    x = torch.randn(2, 8, 12, 12)
    given.observe(x)
    assert len(given(x).unique()) <= 61
