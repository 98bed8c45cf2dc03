"""Other samples are converted to levels of 8 or 16 bits, or the file is refused."""

import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import open_picture, read_rgb
from tests.helpers import picture

PIXELS = picture(12, 17)


def save(path, samples):
    photometric = "rgb" if samples.ndim == 3 else "minisblack"
    extra = ["unassalpha"] if samples.ndim == 3 and samples.shape[2] == 4 else None
    tifffile.imwrite(path, samples, photometric=photometric, extrasamples=extra)
    return path


DEEP = {
    "float32": lambda x: x.astype(np.float32) / 255,
    "float16": lambda x: x.astype(np.float16) / np.float16(255),
    "uint16": lambda x: x.astype(np.uint16) * 257,
    "uint32": lambda x: x.astype(np.uint32) * 16843009,
}
LOSSES = {"uint16": (), "uint32": ("32 bits a sample (reduced to 16)",)}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("grey", [False, True])
def test_tones_are_kept_whatever_the_samples_are(tmp_path, kind, grey):
    pixels = PIXELS[:, :, 0] if grey else PIXELS
    opened = open_picture(save(tmp_path / "a.tif", DEEP[kind](pixels)))
    expected = np.repeat(pixels[:, :, None], 3, axis=2) if grey else pixels
    assert (opened.grey, opened.bits) == (grey, 16)
    most = 16 if kind == "float16" else 0  # half a step below 1
    assert np.abs(opened.read(0, 12, 0, 17).astype(int) - 257 * expected.astype(int)).max() <= most
    assert np.array_equal(read_rgb(tmp_path / "a.tif"), expected)
    assert opened.losses == LOSSES.get(kind, ("float samples (reduced to 16 bits)",))


def test_transparency_in_floats_is_of_0_to_1_too(tmp_path):
    rgba = np.dstack([PIXELS, PIXELS[:, :, 1]])
    opened = open_picture(save(tmp_path / "a.tif", rgba.astype(np.float32) / 255))
    assert np.array_equal(opened.read(0, 12, 0, 17), 257 * PIXELS.astype(int))
    assert np.array_equal(opened.alpha.numpy(), 257 * PIXELS[:, :, 1].astype(int))


def test_floats_beyond_0_to_1_are_clipped_and_said_so(tmp_path):
    samples = np.linspace(-0.5, 1.5, 12 * 17 * 3, dtype=np.float32).reshape(12, 17, 3)
    opened = open_picture(save(tmp_path / "a.tif", samples))
    expected = np.rint(np.clip(samples, 0, 1) * 65535)
    assert np.array_equal(opened.read(0, 12, 0, 17), expected)
    assert "values outside 0..1 (clipped)" in opened.losses


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (PIXELS.astype(np.float32), r"its float samples are [\d.]+ on average"),
        (np.where(PIXELS.max() == PIXELS, np.nan, 0.5).astype(np.float32), "not a number"),
        (np.where(PIXELS.max() == PIXELS, np.inf, 0.5).astype(np.float32), "or infinite"),
        (PIXELS.astype(np.float64) / 255, "its samples are float64"),
        (PIXELS.astype(np.int8), "its samples are int8"),
        (PIXELS.astype(np.int16), "its samples are int16"),
        (PIXELS.astype(np.int32), "its samples are int32"),
        (PIXELS[:, :, 0].astype(np.complex64), "its samples are complex64"),
    ],
)
def test_samples_that_mean_no_levels_are_refused(tmp_path, samples, message):
    path = save(tmp_path / "a.tif", samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match=message) as refused:
            read_rgb(path)
    assert str(refused.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(refused.value)


def test_ycbcr_that_nothing_converts_is_refused(tmp_path):
    ycbcr = Image.fromarray(PIXELS).convert("YCbCr")
    ycbcr.save(tmp_path / "raw.tif")
    with pytest.raises(UsageError, match="YCbCr without JPEG compression"):
        read_rgb(tmp_path / "raw.tif")
    ycbcr.save(tmp_path / "jpeg.tif", compression="jpeg", quality=100)
    assert np.abs(read_rgb(tmp_path / "jpeg.tif").mean((0, 1)) - PIXELS.mean((0, 1))).max() < 2
