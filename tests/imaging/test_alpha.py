"""Transparency is centred, and invisible colours do not bleed into visible pixels."""

import numpy as np
import pytest
import pyvips
from PIL import Image

from sr_quant_cli.imaging.alpha import enlarge_alpha, opaque, spread_colour
from tests.helpers import picture


def spread(colour, alpha):
    made = spread_colour(pyvips.Image.new_from_array(colour), pyvips.Image.new_from_array(alpha))
    assert made.format == "uchar"
    return made


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_alpha_is_enlarged_about_the_pixels_centres(scale):
    y, x = np.mgrid[:32, :32]
    disc = np.clip(255 * (10.5 - np.hypot(x - 15.5, y - 15.5)), 0, 255).astype(np.uint8)
    large = enlarge_alpha(pyvips.Image.new_from_array(disc), scale).numpy().astype(float)
    assert large.shape == (32 * scale, 32 * scale)
    y, x = np.mgrid[: 32 * scale, : 32 * scale]
    centre = (32 * scale - 1) / 2
    assert (large * x).sum() / large.sum() == pytest.approx(centre, abs=1e-6)
    assert (large * y).sum() / large.sum() == pytest.approx(centre, abs=1e-6)
    floats = Image.fromarray(disc.astype(np.float32))
    expected = floats.resize((32 * scale, 32 * scale), Image.Resampling.BICUBIC)
    assert np.abs(large - np.clip(np.asarray(expected), 0, 255)).max() <= 3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_step_stays_where_it_is_and_ends_stay_what_they_are(scale):
    step = np.zeros((8, 16), np.uint8)
    step[:, 8:] = 255
    row = enlarge_alpha(pyvips.Image.new_from_array(step), scale).numpy()[4].astype(float)
    assert np.interp(127.5, row, np.arange(16 * scale)) == pytest.approx(8 * scale - 0.5)
    assert (row[: 6 * scale] == 0).all()
    assert (row[10 * scale :] == 255).all()


def test_an_opaque_alpha_is_255_everywhere():
    made = opaque(7, 9)
    assert (made.height, made.width, made.bands, made.format) == (7, 9, 1, "uchar")
    assert made.min() == 255


def test_what_is_visible_keeps_its_colour():
    colour, alpha = picture(40, 60), np.zeros((40, 60), np.uint8)
    alpha[10:30, 20:40] = np.arange(1, 401).reshape(20, 20) % 255 + 1
    made = spread(colour, alpha).numpy()
    assert np.array_equal(made[alpha > 0], colour[alpha > 0])


@pytest.mark.parametrize("bands", [1, 3])
def test_the_colour_beside_an_edge_goes_on_behind_it(bands):
    y, x = np.mgrid[:64, :64]
    alpha = np.clip(255 * (20 - np.hypot(x - 31.5, y - 31.5)), 0, 255).astype(np.uint8)
    truth = np.full((64, 64, bands), [220, 30, 90][:bands], np.uint8)
    hidden = np.where(alpha[:, :, None] > 0, truth, 0)
    made = spread(hidden[:, :, 0] if bands == 1 else hidden, alpha).numpy().reshape(64, 64, bands)
    distance, error = np.hypot(x - 31.5, y - 31.5), np.abs(made.astype(int) - truth)
    assert error[distance < 22].max() <= 1
    assert error[distance < 28].max() <= 8


def test_two_colours_each_go_on_on_their_side():
    colour = np.zeros((40, 60, 3), np.uint8)
    alpha = np.zeros((40, 60), np.uint8)
    colour[:, :25], colour[:, 35:] = (200, 40, 40), (40, 40, 200)
    alpha[:, :25] = alpha[:, 35:] = 255
    made = spread(colour, alpha).numpy().astype(int)
    assert np.abs(made[:, 25] - (200, 40, 40)).max() <= 8
    assert np.abs(made[:, 34] - (40, 40, 200)).max() <= 8


def test_far_from_everything_there_is_mid_grey():
    colour, alpha = np.full((9, 200, 3), 255, np.uint8), np.zeros((9, 200), np.uint8)
    alpha[:, :5] = 255
    made = spread(colour, alpha).numpy()
    assert (made[:, 60:] == 128).all()


def test_a_tile_is_the_same_part_of_the_whole():
    """Tiles are computed one by one and must join without seams."""
    colour = picture(90, 120)
    alpha = (picture(90, 120, seed=1)[:, :, 0] > 150).astype(np.uint8) * 255
    made = spread(colour, alpha)
    whole = made.numpy()
    for top, left in ((0, 0), (33, 41), (60, 80)):
        assert np.array_equal(
            made.crop(left, top, 40, 30).numpy(), whole[top : top + 30, left : left + 40]
        )
