import re

import numpy as np
import pytest
from pydantic import ValidationError

from sr_quant_cli.data.benchmark import Pair
from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.data.degrade import CLEAN, Degradations, parse_degradations
from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import pack_pairs
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.recipe.load import load_recipe
from tests.helpers import picture

SCALE = 4
HEAVY = Degradations(
    kernels=["box", "lanczos"], blur=[0.5, 1.0], noise=[5.0, 10.0], shot=[0.0, 5.0], jpeg=[30, 60]
)


def degrade(hr, seed=0, **settings):
    random = np.random.default_rng(seed)
    return Degradations(**settings).degrade(downscale(hr, SCALE), hr, random)


def flat(value, side=512):
    return np.full((side, side, 3), value, np.uint8)


def test_without_settings_the_clean_patch_comes_back():
    hr = picture(64, 64)
    assert not CLEAN.active
    assert np.array_equal(degrade(hr), downscale(hr, SCALE))


def test_a_box_kernel_takes_the_mean_of_each_block():
    hr = picture(64, 48, seed=3)
    means = hr.reshape(16, SCALE, 12, SCALE, 3).mean((1, 3))
    assert np.abs(degrade(hr, kernels=["box"]) - means).max() <= 1


def test_blur_spreads_an_edge_by_its_standard_deviation():
    hr = np.zeros((16, 256, 3), np.uint8)
    hr[:, 128:] = 255
    row = degrade(hr, kernels=["box"], blur=[2.0, 2.0])[2, :, 0]
    # One pixel of a box on the edge's side ends 1 LR pixel behind it: the normal distribution,
    # averaged over 0..1 with a deviation of 2, is 0.5976.
    assert row[32] == pytest.approx(255 * 0.5976, abs=1.5)
    assert row[:26].max() <= 2
    assert row[38:].min() >= 253


@pytest.mark.parametrize("kernel", ["box", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("value", [0, 131, 255])
def test_a_flat_picture_stays_flat_without_noise(kernel, value):
    lr = degrade(flat(value, 96), kernels=[kernel], blur=[0.3, 2.0], jpeg=[80, 80])
    assert np.abs(lr.astype(int) - value).max() <= 1


@pytest.mark.parametrize(
    ("settings", "value", "deviation"),
    [
        ({"noise": [9.0, 9.0]}, 128, 9.0),
        ({"shot": [12.0, 12.0]}, 191, 12 * (191 / 255) ** 0.5),
        ({"shot": [12.0, 12.0]}, 48, 12 * (48 / 255) ** 0.5),
        ({"noise": [5.0, 5.0], "shot": [12.0, 12.0]}, 128, (25 + 144 * 128 / 255) ** 0.5),
    ],
)
def test_noise_has_its_deviation_and_no_bias(settings, value, deviation):
    lr = degrade(flat(value), seed=1, **settings).astype(float)
    # 128 x 128 pixels of at least one channel: 0.55 % for the deviation, 0.8 % for the mean.
    assert lr.std() == pytest.approx(deviation, rel=0.02)
    assert lr.mean() == pytest.approx(value, abs=0.04 * deviation)


def test_every_second_noise_is_grey():
    noisy = [degrade(flat(128, 64), seed=seed, noise=[9.0, 9.0]) for seed in range(200)]
    grey = [np.ptp(lr, axis=2).max() == 0 for lr in noisy]
    assert 70 < sum(grey) < 130


def test_jpeg_has_a_quality_between_the_limits():
    hr = picture(128, 128, seed=5)
    clean = downscale(hr, SCALE).astype(int)

    def error(low, high):
        return np.mean(
            [np.abs(degrade(hr, seed=i, jpeg=[low, high]) - clean).mean() for i in range(20)]
        )

    assert error(10, 10) > error(10, 95) > error(95, 95) > 0


def test_shares_leave_the_other_patches_clean():
    hr = picture(64, 64)
    settings = {"noise": [5.0, 5.0], "noise_share": 0.25, "jpeg": [50, 50], "jpeg_share": 0.2}
    clean = downscale(hr, SCALE)
    same = [np.array_equal(degrade(hr, seed=i, **settings), clean) for i in range(400)]
    assert sum(same) / 400 == pytest.approx(0.75 * 0.8, abs=0.08)


@pytest.fixture
def store(tmp_path):
    write_rgb(tmp_path / "a.png", picture(400, 320))
    return pack_pairs([Pair("a", tmp_path / "a.png", None)], SCALE)


def sampler(store, degradations=HEAVY, **changes):
    settings = {"seed": 0, "patch_hr": 64, "batch": 8, "augment": ("hflip", "transpose")}
    return PatchSampler(store, degradations=degradations, **settings | changes)


def test_degraded_batches_are_a_function_of_seed_and_step(store):
    lr, hr = sampler(store).batch(7)
    clean_lr, clean_hr = sampler(store, CLEAN).batch(7)
    assert np.array_equal(hr, clean_hr)
    assert lr.shape == clean_lr.shape
    assert all((a != b).any() for a, b in zip(lr, clean_lr, strict=True))
    again = sampler(store)
    again.batch(3)
    assert np.array_equal(again.batch(7)[0], lr)
    assert not np.array_equal(sampler(store, seed=1).batch(7)[0], lr)


def test_processes_share_a_degraded_batch(store):
    whole = sampler(store).batch(5)[0]
    parts = [sampler(store, part=(rank, 4)).batch(5)[0] for rank in range(4)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_degraded_patches_stay_aligned(tmp_path):
    # LR is HR without repetition, and noise below half a level changes nothing.
    small = np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8)
    write_rgb(tmp_path / "hr/a.png", small.repeat(2, 0).repeat(2, 1))
    store = pack_pairs([Pair("a", tmp_path / "hr/a.png", None)], 2)
    boxes = Degradations(kernels=["box"])
    lr, hr = sampler(store, boxes, batch=64, patch_hr=32).batch(0)
    assert np.array_equal(lr.repeat(2, 1).repeat(2, 2), hr)


def test_blocks_of_jpeg_begin_anywhere(tmp_path):
    write_rgb(tmp_path / "a.png", picture(320, 320))
    store = pack_pairs([Pair("a", tmp_path / "a.png", None)], 1)
    patches = sampler(store, Degradations(jpeg=[5, 5]), batch=400, patch_hr=24, augment=())
    lr = patches.batch(0)[0].astype(float)
    steps = np.abs(np.diff(lr.mean(3), axis=2)).mean(1)  # [N, 23]: between columns
    begins = [max(range(8), key=lambda at: step[at::8].mean()) for step in steps]
    assert min(np.bincount(begins, minlength=8)) > 15


@pytest.mark.parametrize(
    "settings",
    [
        {"jpeg": [95, 30]},
        {"jpeg": [50]},
        {"jpeg": [0, 50]},
        {"noise": [1.0]},
        {"blur": [2.0, 1.0]},
        {"noise": [-1.0, 1.0]},
        {"kernels": []},
        {"kernels": ["cubic"]},
        {"blur_share": 1.5},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        Degradations(**settings)


def test_recipes_for_photographs_degrade_most_patches():
    assert load_recipe("pretrain-edsr-photo").degradations.active
    assert not load_recipe("pretrain-edsr").degradations.active


def test_strengths_in_a_text_are_fixed():
    read = parse_degradations("blur:0.8, jpeg:75")
    assert read == Degradations(blur=[0.8, 0.8], jpeg=[75, 75])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("jpeg:101", "jpeg must be at most 100"),
        ("jpeg:7.5", "jpeg must be a whole number"),
        ("noise:-1", "noise must be 0 or more"),
        ("noise", "noise must be a number"),
        ("noise:nan", "noise must be"),
        ("jpeg:50,jpeg:60", "names jpeg twice"),
        ("rain:3", "must be blur:STRENGTH"),
        ("", "must be blur:STRENGTH"),
    ],
)
def test_wrong_texts_are_refused(text, why):
    with pytest.raises(UsageError, match=re.escape(why)):
        parse_degradations(text)
