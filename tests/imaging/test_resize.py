"""Resampling to any size."""

import numpy as np
import pytest
import pyvips

from sr_quant_cli.imaging.resize import resample


def linear(levels):
    """Linear light of sRGB levels 0..255."""
    values = np.asarray(levels) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def image(pixels, space="srgb"):
    return pyvips.Image.new_from_array(pixels).copy(interpretation=space)


@pytest.mark.parametrize("width", [80, 60, 50, 41, 39, 30, 25, 20])
@pytest.mark.parametrize("height", [60, 40, 24])
def test_centres_of_pixels_stay_where_they_are(height, width):
    """A ramp in linear light is reproduced, except near the border."""
    light = np.tile(np.linspace(0.1, 0.9, 40), (40, 1))
    ramp = np.rint(65535 * (1.055 * light ** (1 / 2.4) - 0.055)).astype(np.uint16)
    for turned in (False, True):
        given = ramp.T if turned else ramp
        size = (width, height) if turned else (height, width)
        out = resample(image(np.dstack([np.ascontiguousarray(given)] * 3), "rgb16"), *size).numpy()
        assert out.shape == (*size, 3)
        assert out.dtype == np.uint16
        row = linear((out[:, :, 0].T if turned else out[:, :, 0])[height // 2] / 257)
        expected = np.interp((np.arange(width) + 0.5) / width * 40 - 0.5, range(40), light[0])
        inner = slice(width // 6, -width // 6)
        assert np.abs(row - expected)[inner].max() < 0.002


@pytest.mark.parametrize(
    ("bits", "space"), [(8, "srgb"), (16, "rgb16"), (8, "b-w"), (16, "grey16")]
)
@pytest.mark.parametrize("size", [(7, 9), (20, 30), (5, 30)])
def test_a_flat_picture_stays_flat(bits, space, size):
    level = 37 if bits == 8 else 37 * 257 + 5
    bands = 1 if space in ("b-w", "grey16") else 3
    pixels = np.full((10, 12, bands), level, np.uint8 if bits == 8 else np.uint16)
    out = resample(image(pixels, space), *size)
    assert (out.height, out.width, out.bands, out.interpretation) == (*size, bands, space)
    assert np.abs(out.numpy().astype(int) - level).max() <= (0 if bits == 8 else 2)


def test_light_is_averaged_and_not_levels():
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    out = resample(image(stripes), 4, 16).numpy()[2, 8]
    assert np.abs(linear(out) - 0.5).max() < 0.02


@pytest.mark.parametrize("size", [(10, 14), (40, 60)])
def test_hidden_colours_do_not_bleed(size):
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:, 15:] = (200, 40, 40, 255)
    out = resample(image(pixels), *size).numpy()
    seen = out[:, :, 3] > 40
    assert np.abs(out[seen][:, :3].astype(int) - (200, 40, 40)).max() <= 3
    assert out[:, -3:, 3].min() == 255
    assert out[:, :3, 3].max() == 0
