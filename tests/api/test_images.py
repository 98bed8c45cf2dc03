"""Images of all kinds come back as they went in, and anything else is one clear error."""

import numpy as np
import pytest
import torch
from PIL import Image

import sr_quant_cli as srq
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from tests.helpers import picture


@pytest.fixture(scope="module")
def fast():
    return srq.load_model("fast", threads=1)


@pytest.fixture
def in_torch(tiny_model):
    """A model that takes all depths without preparing a graph."""
    return srq.load_model(tiny_model, runtime="torch", threads=1)


def with_channels(channels, dtype=np.uint8, size=(11, 14)):
    levels = np.dstack([picture(*size), picture(*size, seed=1)])[:, :, -channels:]
    if dtype == np.uint16:
        return levels.astype(np.uint16) * 257
    return (levels / 255).astype(dtype) if np.dtype(dtype).kind == "f" else levels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", ["HW", 1, 2, 3, 4])
def test_an_array_comes_back_as_one_of_its_kind(in_torch, shape, dtype):
    image = with_channels(1, dtype)[:, :, 0] if shape == "HW" else with_channels(shape, dtype)
    before = image.copy()
    made = in_torch.upscale(image)
    assert type(made) is np.ndarray
    assert made.dtype == dtype
    assert made.shape == (22, 28, *image.shape[2:])
    assert np.array_equal(image, before)
    assert made.std() > 0
    if np.dtype(dtype).kind == "f":
        assert 0 <= made.min() <= made.max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_floats_are_pictures_of_16_bits(in_torch, channels):
    deep = np.random.default_rng(0).integers(0, 2**16, (9, 12, channels), np.uint16)
    floats = in_torch.upscale(deep / 65535)
    assert np.array_equal(np.rint(floats * 65535), in_torch.upscale(deep))


def test_grey_is_the_mean_of_the_enlarged_channels(fast):
    grey = with_channels(1)
    colours = fast.upscale(np.repeat(grey, 3, axis=2))
    assert np.array_equal(fast.upscale(grey)[:, :, 0], np.rint(colours.mean(axis=2)))
    assert np.array_equal(fast.upscale(grey[:, :, 0]), fast.upscale(grey)[:, :, 0])


def test_memory_layout_does_not_matter(fast):
    image = with_channels(3, size=(24, 28))
    wanted = fast.upscale(image[::2, ::-2])
    plain = np.ascontiguousarray(image[::2, ::-2])
    assert np.array_equal(fast.upscale(plain), wanted)
    assert np.array_equal(fast.upscale(np.asfortranarray(plain)), wanted)
    plain.flags.writeable = False
    assert np.array_equal(fast.upscale(plain), wanted)


def test_byte_order_does_not_matter(in_torch):
    image = with_channels(3, np.uint16)
    made = in_torch.upscale(image.astype(">u2"))
    assert made.dtype == np.dtype(">u2")
    assert np.array_equal(made, in_torch.upscale(image))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_pillow_images(fast, mode, channels):
    array = with_channels(channels).squeeze()
    image = Image.fromarray(array)
    assert image.mode == mode
    image.info["icc_profile"] = b"profile"
    made = fast.upscale(image)
    assert isinstance(made, Image.Image)
    assert made.mode == mode
    assert made.info["icc_profile"] == b"profile"
    assert np.array_equal(np.asarray(made), fast.upscale(array))


def test_pillow_images_of_16_bits(in_torch):
    array = with_channels(1, np.uint16)[:, :, 0]
    made = in_torch.upscale(Image.fromarray(array))
    assert made.mode == "I;16"
    assert np.array_equal(np.asarray(made), in_torch.upscale(array))


def test_tensors_of_8_bits(fast):
    arrays = [picture(11, 14, seed=seed) for seed in range(2)]
    batch = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays])
    made = fast.upscale(batch)
    assert (made.dtype, tuple(made.shape)) == (torch.uint8, (2, 3, 44, 56))
    for array, sr in zip(arrays, made, strict=True):
        assert np.array_equal(sr.permute(1, 2, 0).numpy(), fast.upscale(array))
    assert torch.equal(fast.upscale(batch[0]), made[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_floats(in_torch, dtype):
    lr = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    made = in_torch.upscale(lr.requires_grad_())
    assert (made.dtype, tuple(made.shape)) == (dtype, (2, 3, 16, 18))
    assert not made.requires_grad
    with torch.no_grad():
        wanted = in_torch.to_torch()(lr.float()).clamp(0, 1)
    assert (made.float() - wanted).abs().max() < 0.01  # bfloat16 has 8 bits


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((0, 0, 3), np.uint8), ValueError, "at least one pixel"),
        (np.zeros((0, 5), np.uint8), ValueError, "at least one pixel"),
        (np.zeros((4, 4, 0), np.uint8), ValueError, r"not \[4, 4, 0\]"),
        (np.zeros((4, 4, 5), np.uint8), ValueError, r"not \[4, 4, 5\]"),
        (np.zeros((3, 40, 40), np.uint8), ValueError, r"not \[3, 40, 40\]"),
        (np.zeros(7, np.uint8), ValueError, r"\[H, W\] or \[H, W, C\]"),
        (np.uint8(7), TypeError, "not uint8"),
        (np.array(7, np.uint8), ValueError, r"not \[\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, r"not \[1, 4, 4, 3\]"),
        (np.full((4, 4), np.nan), ValueError, "NaN or infinity"),
        (np.full((4, 4), np.inf), ValueError, "NaN or infinity"),
        (np.full((4, 4), 255.0), ValueError, r"0..1, not 255..255: divide it"),
        (np.full((4, 4), -0.1), ValueError, r"not -0.1..-0.1"),
        (np.zeros((4, 4), bool), TypeError, "not bool"),
        (np.zeros((4, 4), np.int64), TypeError, "not int64"),
        (np.zeros((4, 4), np.int8), TypeError, "not int8"),
        (np.zeros((4, 4), np.uint32), TypeError, "not uint32"),
        (np.zeros((4, 4), complex), TypeError, "not complex128"),
        (np.full((4, 4), None), TypeError, "not object"),
        (np.full((4, 4), "a"), TypeError, "not <U1"),
        ([[1, 2], [3, 4]], TypeError, "not list"),
        (None, TypeError, "not NoneType"),
        ("photo.png", TypeError, "not str"),
        (torch.zeros(3, 4), ValueError, r"\[C, H, W\] or \[N, C, H, W\]"),
        (torch.zeros(4, 4, 3), None, ""),
        (torch.zeros(5, 4, 4), ValueError, r"not \[5, 4, 4\]"),
        (torch.zeros(0, 3, 4, 4), ValueError, "no image in a batch"),
        (torch.zeros(3, 0, 4), ValueError, "at least one pixel"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), TypeError, "not int32"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), TypeError, "not bool"),
        (torch.full((3, 4, 4), 2.0), ValueError, "0..1, not 2..2"),
        (Image.new("P", (4, 4)), ValueError, "not P: convert it"),
        (Image.new("CMYK", (4, 4)), ValueError, "not CMYK"),
        (Image.new("1", (4, 4)), ValueError, "not 1"),
        (Image.new("F", (4, 4)), ValueError, "not F"),
    ],
)
def test_what_is_no_image_is_one_clear_error(in_torch, image, error, message):
    if error is None:
        in_torch.upscale(image)
        return
    with pytest.raises(error, match=message) as raised:
        in_torch.upscale(image)
    assert "\n" not in str(raised.value)


def test_rounding_errors_of_floats_are_no_errors(in_torch):
    noisy = np.array([[-1e-9, 1 + 2e-16], [0.5, 0.25]])
    assert np.array_equal(in_torch.upscale(noisy), in_torch.upscale(noisy.clip(0, 1)))


def test_an_orientation_in_a_file_is_the_users(fast, tmp_path):
    write_rgb(tmp_path / "a.png", picture(11, 14))
    with Image.open(tmp_path / "a.png") as image:
        made = fast.upscale(image)
    assert np.array_equal(np.asarray(made), fast.upscale(read_rgb(tmp_path / "a.png")))
