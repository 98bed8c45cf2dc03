"""Quantization from Python: from arrays and folders, in memory, as the command does it."""

import numpy as np
import pytest
import torch

import sr_quant_cli as srq
from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.system.files import cache_dir
from tests.helpers import picture

SMALL = {
    "calibration.images": 2,
    "calibration.batch": 1,
    "calibration.patch_lr": 12,
    "calibration.mix": False,
    "data.patch_hr": 24,
    "validation.crop_hr": 24,
}
PHOTOGRAPHS = [picture(40 + 2 * index, 52, seed=index) for index in range(3)]
LR = [downscale(photograph, 2) for photograph in PHOTOGRAPHS]


def same(network, other):
    ours, theirs = network.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


QUICK = {"method": "minmax", "placement": "full", "overrides": SMALL}


def as_options(overrides):
    return [f"--set={key}={str(value).lower()}" for key, value in overrides.items()]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    from sr_quant_cli.modelfiles.card import Card
    from sr_quant_cli.modelfiles.modelfile import save_model
    from tests.helpers import tiny_edsr

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, tiny_edsr(), Card(name="tiny"))
    return srq.calibrate(path, LR, overrides=SMALL)


def test_a_calibrated_model_is_in_memory_and_has_a_history(calibrated):
    assert repr(calibrated) == "Model('edsr-x2-dobi-w8a8-full', scale=2, bits='w8a8')"
    (run,) = calibrated.card.training
    assert (run.task, run.steps, run.started_from, run.photographs) == ("quantize", 0, "tiny", 3)
    assert run.recipe["calibration"]["images"] == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_saved_model_makes_the_same_pixels(calibrated, tmp_path, dtype):
    calibrated.save(tmp_path / "q.safetensors")
    loaded = srq.load_model(
        tmp_path / "q.safetensors", runtime="auto" if dtype == np.uint8 else "torch"
    )
    image = picture(21, 30).astype(dtype) * (np.iinfo(dtype).max // 255)
    made = calibrated.upscale(image)
    assert made.shape == (42, 60, 3)
    assert np.array_equal(loaded.upscale(image), made)
    assert loaded.bits == calibrated.bits
    assert loaded.card == calibrated.card


def test_arrays_of_all_kinds_calibrate_alike(tiny_model, tmp_path):
    for index, image in enumerate(LR):
        write_rgb(tmp_path / f"lr/{index}.png", image)
    network = srq.calibrate(tiny_model, LR, **QUICK).to_torch()
    for images in (
        tmp_path / "lr",
        (image.astype(np.uint16) * 257 for image in LR),
        [image / 255 for image in LR],
        [torch.from_numpy(image).permute(2, 0, 1) for image in LR],
    ):
        again = srq.calibrate(tiny_model, images, **QUICK)
        assert same(again.to_torch(), network)


def test_a_calibration_takes_as_many_threads_as_it_is_given(tiny_model):
    before = torch.get_num_threads()
    try:
        srq.calibrate(tiny_model, LR, **QUICK, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(srq.UsageError, match="`threads` 0"):
        srq.calibrate(tiny_model, LR, **QUICK, threads=0)


def test_a_folder_that_is_missing_is_named(tiny_model):
    with pytest.raises(srq.UsageError, match=r"^no training pictures in .*nowhere: there is no"):
        srq.quantize(tiny_model, "nowhere", **QUICK)
    with pytest.raises(srq.UsageError, match=r"^no pictures in nowhere: there is no such folder"):
        srq.calibrate(tiny_model, "nowhere", **QUICK)


@pytest.mark.slow
def test_calibration_is_that_of_the_command(tiny_model, tmp_path, srq_command):
    for index, photograph in enumerate(PHOTOGRAPHS):
        write_rgb(tmp_path / f"photos/{index}.png", photograph)
    held_out = {"data.validation": ["0.png"]}
    code, _, err = srq_command(
        *("quantize", tiny_model, "--data", tmp_path / "photos", "--run", tmp_path / "run"),
        *("--method", "minmax", "--placement", "full", *as_options(SMALL)),
        '--set=data.validation=["0.png"]',
    )
    assert code == 0, err
    by_command, _ = load_model(tmp_path / "run/trainable.safetensors")
    assert same(srq.calibrate(tiny_model, LR[1:], **QUICK).to_torch(), by_command)
    options = QUICK | {"overrides": SMALL | held_out}
    quantized = srq.quantize(tiny_model, tmp_path / "photos", **options)
    assert same(quantized.to_torch(), by_command)


def test_training_on_arrays_leaves_nothing_behind(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, seen = torch.random.get_rng_state(), []
    model = srq.quantize(
        tiny_model,
        PHOTOGRAPHS,
        method="pams",
        w=4,
        a=4,
        iters=2,
        overrides=SMALL | {"train.batch": 2},
        device="cpu",
        progress=seen.append,
    )
    assert (model.bits, model.card.training[-1].steps) == ("w4a4", 2)
    assert model.upscale(picture(9, 9)).shape == (18, 18, 3)
    assert {each.unit for each in seen} >= {"photo", "step"}
    assert all(0 <= each.fraction <= 1 for each in seen)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]
    assert not cache_dir().exists() or not any(cache_dir().rglob("pairs.bin"))


def test_a_quantized_model_is_the_start_of_the_next_method(tiny_model):
    small = SMALL | {"train.batch": 2}
    first = srq.quantize(tiny_model, PHOTOGRAPHS, method="pams", w=8, a=8, iters=1, overrides=small)
    made = srq.quantize(first, PHOTOGRAPHS, method="cadyq", iters=1, overrides=small)
    assert [run.recipe["method"]["name"] for run in made.card.training] == ["pams", "cadyq"]
    with pytest.raises(srq.UsageError, match="quantized already, by pams"):
        srq.calibrate(first, LR, method="dobi", overrides=SMALL)


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        ([], {}, ValueError, "there are no images"),
        (3, {}, TypeError, "a folder or a sequence, not int"),
        ([np.zeros((20, 20, 4), np.uint8)], {}, ValueError, "remove its alpha channel"),
        ([np.zeros((20, 20, 3), int)], {}, TypeError, "not int64"),
        ("no/such", {}, srq.UsageError, "no pictures in no/such"),
        (LR, {"method": "pamz"}, srq.UsageError, "unknown method 'pamz': did you mean 'pams'"),
        (LR, {"w": 9}, srq.UsageError, "`w` 9: must be"),
        (LR, {"recipe": "my.toml"}, srq.UsageError, "no such recipe file"),
        (LR, {"placement": "some"}, srq.UsageError, "`placement` some"),
        (LR, {"overrides": {"calibration.image": 3}}, srq.UsageError, "calibration.images?"),
        (LR, {"overrides": {"a b": 3}}, srq.UsageError, "must be section.key"),
        ([np.zeros((7, 9, 3), np.uint8)], {}, srq.UsageError, "smaller than a patch of 12x12"),
    ],
)
def test_mistakes_are_clear_errors(tiny_model, images, options, error, message):
    options = options | {"overrides": SMALL | options.get("overrides", {})}
    with pytest.raises(error, match=message):
        srq.calibrate(tiny_model, images, **options)


def test_overrides_are_a_mapping(tiny_model):
    with pytest.raises(TypeError, match="overrides are a mapping, not list"):
        srq.calibrate(tiny_model, LR, overrides=["train.iters=1"])


def test_one_photograph_is_too_few(tiny_model):
    with pytest.raises(ValueError, match="two images or more"):
        srq.quantize(tiny_model, PHOTOGRAPHS[0])
