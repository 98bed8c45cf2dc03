import numpy as np
import pytest

from sr_quant_cli.data.benchmark import find_set
from sr_quant_cli.data.bicubic import cubic, downscale, enlarge, resize, taps
from sr_quant_cli.imaging.io import read_rgb


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_kernel_by_hand():
    # 1.5 d^3 - 2.5 d^2 + 1 up to 1, -0.5 d^3 + 2.5 d^2 - 4 d + 2 up to 2.
    distances = np.array([0, 0.25, -0.25, 0.5, 1, 1.25, 1.5, -1.75, 2, 2.5])
    expected = [1, 111 / 128, 111 / 128, 9 / 16, 0, -9 / 128, -1 / 16, -3 / 128, 0, 0]
    assert cubic(distances).tolist() == expected


def test_weights_of_halving_by_hand():
    # Pixel 2 of 4 lies between pixels 4 and 5 of 8; distances 0.5, 1.5, 2.5, 3.5 are halved by the
    # widened kernel, and its values halved by the normalisation.
    index, weights = taps(8, 4)
    assert index[2].tolist() == [1, 2, 3, 4, 5, 6, 7, 7]
    assert (weights[2] * 256).tolist() == [-3, -9, 29, 111, 111, 29, -9, -3]


def test_weights_of_a_third_by_hand():
    index, weights = taps(27, 9)
    assert index[4].tolist() == list(range(8, 20))
    expected = [-1, -2, 0, 9, 21, 27, 21, 9, 0, -2, -1, 0]
    np.testing.assert_allclose(weights[4] * 81, expected, atol=1e-12)


def test_mirror_repeats_the_edge_pixel():
    index, _ = taps(4, 8)
    assert index[0].tolist() == [1, 0, 0, 1]
    assert index[-1].tolist() == [2, 3, 3, 2]


def test_mirror_of_a_picture_smaller_than_the_kernel():
    index, _ = taps(2, 1)
    assert index[0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(("size", "resized"), [(7, 3), (12, 3), (5, 20), (9, 9), (100, 37)])
def test_weights_sum_to_one_and_stay_inside(size, resized):
    index, weights = taps(size, resized)
    assert len(index) == resized
    assert index.min() >= 0
    assert index.max() < size
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("size", [(5, 4), (40, 31), (17, 23)])
def test_constant_stays_constant(level, size):
    resized = resize(np.full((17, 23, 3), level, np.uint8), *size)
    assert resized.shape == (*size, 3)
    assert (resized == level).all()


def test_same_size_is_the_same_picture():
    image = noise(13, 9, 3)
    np.testing.assert_array_equal(resize(image, 13, 9), image)


def test_half_rounds_up():
    # The tap of weight 29 / 256 alone: 14.5, which rounding to even would make 14.
    image = np.zeros((8, 1), np.uint8)
    image[4] = 128
    assert resize(image, 4, 1)[1, 0] == 15


def test_overshoot_is_clipped():
    step = np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1)
    row = enlarge(step, 4)[0].tolist()
    assert row == sorted(row)
    assert (row[0], row[-1]) == (0, 255)


def test_rows_are_rounded_before_columns():
    image = noise(32, 24)
    rows_then_columns = resize(resize(image, 8, 24), 8, 6)
    columns_then_rows = resize(resize(image, 32, 6), 8, 6)
    np.testing.assert_array_equal(resize(image, 8, 6), rows_then_columns)
    assert (rows_then_columns != columns_then_rows).any()


def test_channels_are_independent():
    image = noise(21, 30, 3)
    whole = downscale(image, 3)
    for channel in range(3):
        np.testing.assert_array_equal(whole[..., channel], downscale(image[..., channel], 3))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_odd_sizes_are_cropped_to_a_multiple_first(scale):
    image = noise(8 * scale + 1, 5 * scale + scale - 1, 3)
    lr = downscale(image, scale)
    assert lr.shape == (8, 5, 3)
    np.testing.assert_array_equal(lr, downscale(image[: 8 * scale, : 5 * scale], scale))


def test_enlarge_by_hand():
    # Phases of x2: weights (-9, 111, 29, -3) / 128 and mirrored; (111 * 100 + 29 * 20) / 128 less
    # (9 * 60 + 3 * 200) / 128 is 82.34.
    assert enlarge(np.array([[60, 100, 20, 200]], np.uint8), 2)[0, 3] == 82


def test_refuses_what_is_no_8_bit_picture():
    with pytest.raises(ValueError, match="need uint8"):
        resize(np.zeros((4, 4), np.float32), 2, 2)
    with pytest.raises(ValueError, match="need uint8"):
        resize(np.zeros(4, np.uint8), 2, 2)
    with pytest.raises(ValueError, match="empty"):
        downscale(np.zeros((3, 9, 3), np.uint8), 4)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_official_lr_files_bit_for_bit(real_data, name, scale):
    found = find_set(name, scale, real_data)
    assert found.lr_origin == "folder"
    for pair in found.pairs:
        lr, hr = pair.load(scale)
        np.testing.assert_array_equal(downscale(hr, scale), lr, err_msg=pair.name)


def test_b100_lr_files_inside(real_data):
    # These files repeat the edge pixel instead of mirroring: two pixels from each border differ.
    for pair in find_set("B100", 4, real_data).pairs[:20]:
        lr = read_rgb(pair.lr)
        made = downscale(read_rgb(pair.hr), 4)
        np.testing.assert_array_equal(made[2:-2, 2:-2], lr[2:-2, 2:-2], err_msg=pair.name)
