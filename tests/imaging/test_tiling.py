import pytest

from sr_quant_cli.imaging.tiling import aligned, core_size, spans


@pytest.mark.parametrize(("length", "core", "halo"), [(1, 4, 3), (10, 4, 3), (17, 5, 0), (8, 8, 2)])
def test_spans_keep_every_pixel_once_and_see_the_halo(length, core, halo):
    tiles = list(spans(length, core, halo))
    assert [p for tile in tiles for p in range(tile.first, tile.last)] == list(range(length))
    for tile in tiles:
        assert tile.start == max(tile.first - halo, 0)
        assert tile.stop == min(tile.last + halo, length)


@pytest.mark.parametrize(
    ("length", "core", "halo"), [(1, 4, 3), (50, 4, 3), (61, 20, 9), (64, 8, 8)]
)
def test_aligned_tiles_begin_and_end_at_multiples_or_with_the_picture(length, core, halo):
    tiles = list(spans(length, core, halo, alignment=8))
    assert [p for tile in tiles for p in range(tile.first, tile.last)] == list(range(length))
    for tile in tiles:
        assert tile.start % 8 == 0
        assert tile.stop % 8 == 0 or tile.stop == length
        assert tile.start <= max(tile.first - halo, 0)
        assert tile.stop >= min(tile.last + halo, length)
    assert len(tiles) == -(-length // aligned(core, 8))


def test_core_size_keeps_tile_and_halo_within_the_budget():
    core = core_size(4000, 6000, halo=36, budget=90_000)
    assert (core + 2 * 36) ** 2 <= 90_000 < (core + 2 * 36 + 1) ** 2
    assert core_size(100, 300, halo=36, budget=90_000) == 300
    assert core_size(4000, 6000, halo=36, budget=100) == 18


def test_tiles_are_of_equal_size():
    kept = [span.last - span.first for span in spans(1360, core=640, halo=36)]
    assert kept == [454, 454, 452]
