"""Bit maps: patches have the colours of the scale."""

import numpy as np

from sr_quant_cli.imaging.io import read_rgb
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.inference.bitmap import draw_bit_map
from sr_quant_cli.inference.tiles import TileResult


def test_patches_have_the_colours_of_their_bits(tmp_path):
    patches = Patches(10, 10)
    ran = [
        TileResult(row, column, np.float32([8, 8] if column.first == 10 else [4, 4]))
        for row in patches.spans(20)
        for column in patches.spans(20)
    ]
    draw_bit_map(np.full((20, 20, 3), 128, np.uint8), ran, (4, 6, 8), "$a$", tmp_path / "m.png")
    drawn = read_rgb(tmp_path / "m.png").astype(int)
    height, width, _ = drawn.shape
    # Left of the middle violet, right of it yellow, above and below alike.
    for row in (height // 3, 2 * height // 3):
        red, green, blue = drawn[row, width // 5]
        assert blue > green
        red, green, blue = drawn[row, 3 * width // 5]
        assert min(red, green) > blue + 40
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]
