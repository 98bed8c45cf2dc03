"""Winograd's algorithm: its matrices, where it is exact, and programs that use it."""

from functools import partial

import numpy as np
import pytest

from sr_quant_cli.kernels import executor
from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.packing import pack
from sr_quant_cli.kernels.winograd import ALGORITHMS
from tests.helpers import picture
from tests.kernels.programs import check_parts, few_bits
from tests.kernels.test_sums import codes, isas, run, wanted

LIMITS = {2: (63, 14), 3: (7, 2)}
"""largest span of codes and largest weight of each algorithm"""

needs_kernels = pytest.mark.skipif(bool(kernels.missing()), reason="the kernels were not built")
by_tile = pytest.mark.parametrize("winograd", ALGORITHMS, ids=lambda each: str(each.tile))


def transforms(winograd):
    """Matrices from codes and weights to segments, ``[segments, codes]`` and ``[segments, 9]``."""
    return winograd.inputs, np.kron(winograd.rows, winograd.columns).astype(int)


@by_tile
def test_the_matrices_make_a_convolution(winograd):
    random = np.random.default_rng(2)
    tile, edge = winograd.tile, winograd.tile + 2
    d, g = random.integers(-99, 100, (edge, edge)), random.integers(-99, 100, (3, 3))
    of_codes, of_weights = transforms(winograd)
    found = winograd.outputs @ ((of_codes @ d.ravel()) * (of_weights @ g.ravel()))
    exact = [(d[y : y + 3, x : x + 3] * g).sum() for y in range(tile) for x in range(tile)]
    assert found.tolist() == [winograd.scale * value for value in exact]


@by_tile
def test_the_limits_of_codes_and_weights(winograd):
    span, largest = LIMITS[winograd.tile]
    least, most = winograd.codes(3, 3 + span)
    assert (most - least).max() == 252
    least, most = winograd.codes(3, 4 + span)
    assert (most - least).max() > 255
    of_weights = np.abs(transforms(winograd)[1]).sum(1).max()
    assert largest * of_weights <= 127 < (largest + 1) * of_weights


@needs_kernels
@pytest.mark.parametrize(
    ("span", "largest", "tile", "sums"),
    [
        (3, 1, 3, 8),
        (3, 2, 3, 8),
        (7, 1, 3, 4),
        (7, 2, 3, 2),
        (8, 2, 2, 8),
        (7, 3, 2, 8),
        (15, 7, 2, 8),
        (31, 7, 2, 4),
        (31, 14, 2, 2),
        (63, 7, 2, 2),
        (63, 14, 2, 1),
    ],
)
def test_products_that_fit_16_bits(span, largest, tile, sums):
    pairs = [isa for isa in kernels.all_kernels() if isa.sums]
    if not pairs:
        pytest.skip("this processor has neither AVX2 nor AVX-512")
    winograd = next(each for each in ALGORITHMS if each.tile == tile)
    # An output for each segment, whose weights make that one as large as can be.
    signs = np.sign(transforms(winograd)[1]).reshape(-1, 1, 3, 3)
    packed = pack((largest * signs).astype(np.int8), codes(0, span, 0), pairs)
    assert (packed.tile, packed.isa.sums) == (tile, sums)


@needs_kernels
@by_tile
@pytest.mark.parametrize("isa", isas())
def test_every_transformed_value_may_be_extreme(isa, winograd):
    tile, edge = winograd.tile, winograd.tile + 2
    span, largest = LIMITS[tile]
    of_codes, of_weights = transforms(winograd)
    weights = np.repeat(largest * np.sign(of_weights).reshape(-1, 1, 3, 3), 32, 1).astype(np.int8)
    packed = pack(weights, codes(0, span, 0), kernels.kernels_of(isa), tile=tile)
    for segment, signs in enumerate(of_codes):
        for sign in (1, -1):
            lr = np.zeros((2 * tile, 2 * tile, 32), np.uint8)
            inside = np.where(sign * signs > 0, span, 0).reshape(edge, edge)
            lr[tile - 1 :, tile - 1 :] = inside[: tile + 1, : tile + 1, None]
            exact = wanted(lr, weights, 0)
            for y, x in np.ndindex(tile, tile):
                value = exact[tile + y, tile + x, segment]
                shown = run(packed, lr, 0, 1, 128 - value, size=3)
                assert np.array_equal(
                    shown[..., : len(weights)], np.clip(exact + 128 - value, 0, 255)
                )


@needs_kernels
def test_larger_tiles_are_taken_where_they_are_exact():
    all_kernels = kernels.all_kernels()
    weights = np.full((16, 16, 3, 3), 2, np.int8)
    assert pack(weights, codes(100, 107, 0), all_kernels).tile == 3
    assert pack(weights, codes(0, 8, 0), all_kernels).tile == 2
    with pytest.raises(ValueError, match="do not fit 8 bits"):
        pack(weights, codes(0, 8, 0), all_kernels, tile=3)
    weights[3, 5] = 3
    assert pack(weights, codes(0, 7, 0), all_kernels).tile == 2
    # The transform decides, not the single weight.
    weights[3, 5] = [[3, 0, 0], [0, 3, 0], [0, 0, 0]]
    assert pack(weights, codes(0, 7, 0), all_kernels).tile == 3
    assert pack(weights, codes(0, 7, 0), all_kernels, tile=0).tile == 0
    assert pack(np.ones((16, 16, 5, 5), np.int8), codes(0, 7, 0), all_kernels).tile == 0


@needs_kernels
@pytest.mark.parametrize("isa", isas())
def test_programs_give_the_picture_of_direct_kernels(isa, monkeypatch):
    chosen = kernels.kernels_of(isa)
    by_winograd = [Executor(few_bits(), threads, chosen) for threads in (1, 2, 3)]
    assert by_winograd[0].tiles() == [0, 3, 3, 2]
    monkeypatch.setattr(executor, "pack", partial(pack, tile=0))
    direct = Executor(few_bits(), 1, chosen)
    assert direct.tiles() == [0] * 4
    for size in ((1, 1), (2, 5), (7, 3), (16, 19), (40, 61)):
        lr = picture(*size, seed=4)
        right = direct(lr)
        assert len(np.unique(right)) > 3
        for enlarge in by_winograd:
            assert np.array_equal(enlarge(lr), right)


@needs_kernels
def test_a_part_is_that_of_the_whole_picture():
    check_parts(few_bits())
