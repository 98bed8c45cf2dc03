"""Models as objects: the pixels of the command, sizes, threads, files, and light imports."""

import ast
import inspect
import io
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sr_quant_cli as srq
from sr_quant_cli import api
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import user_models_dir
from tests.helpers import nearest_onnx, picture, tiny_edsr
from tests.modelfiles.released import carn


def saved(path, array):
    """Write an array as a PNG file, by other means than srq's."""
    Image.fromarray(array).save(path)
    return path


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def with_hole(array):
    """Add an alpha channel with opaque, hidden and half visible pixels."""
    alpha = np.full((*array.shape[:2], 1), 255, np.uint8)
    alpha[:, : array.shape[1] // 2] = 0
    alpha[::3] = 130
    return np.concatenate([array.reshape(*array.shape[:2], -1), alpha], axis=2)


IMAGES = {
    "RGB": picture(19, 23),
    "grey": picture(19, 23)[:, :, 0],
    "RGB and alpha": with_hole(picture(19, 23)),
    "grey and alpha": with_hole(picture(19, 23)[:, :, 0]),
}


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ({}, ()),
        ({"scale": 2}, ("--scale", 2)),
        ({"scale": 2.5}, ("--scale", 2.5)),
        ({"scale": (1.5, 1)}, ("--scale", "1.5x1")),
        ({"width": 61}, ("--width", 61)),
        ({"height": 80}, ("--height", 80)),
        ({"width": 61, "height": 70}, ("--width", 61, "--height", 70)),
    ],
)
@pytest.mark.parametrize("kind", IMAGES)
def test_the_pixels_are_those_that_the_command_writes(srq_command, tmp_path, kind, size, options):
    path = saved(tmp_path / "a.png", IMAGES[kind])
    code, _, err = srq_command("upscale", path, "-o", tmp_path / "b.png", *options)
    assert code == 0, err
    assert np.array_equal(srq.upscale(IMAGES[kind], **size), read(tmp_path / "b.png"))


def test_a_named_model_makes_the_pixels_of_the_command(srq_command, tmp_path):
    path = saved(tmp_path / "a.png", IMAGES["RGB"])
    assert srq_command("upscale", path, "-o", tmp_path / "b.png", "--model", "fast")[0] == 0
    wanted = read(tmp_path / "b.png")
    assert np.array_equal(srq.upscale(IMAGES["RGB"], "fast"), wanted)
    assert np.array_equal(srq.load_model("fast").upscale(IMAGES["RGB"]), wanted)
    assert np.array_equal(srq.upscale(IMAGES["RGB"], srq.load_model("fast")), wanted)


def test_16_bits_are_those_that_the_command_writes(srq_command, tiny_model, tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (9, 12), np.uint16)
    path = saved(tmp_path / "a.png", deep)
    code, _, err = srq_command(
        *("upscale", path, "-o", tmp_path / "b.png", "--model", tiny_model, "--runtime", "torch")
    )
    assert code == 0, err
    model = srq.load_model(tiny_model, runtime="torch")
    assert np.array_equal(model.upscale(deep), read(tmp_path / "b.png"))


def test_two_threads_share_a_model(tiny_model):
    images = [picture(40, 52, seed=seed) for seed in range(6)]
    for model in (srq.load_model("fast", tile=24), srq.load_model(tiny_model, runtime="torch")):
        wanted = [model.upscale(image) for image in images]
        started = threading.Barrier(2)

        def work(order, model=model, started=started):
            started.wait()
            return {index: model.upscale(images[index]) for index in order}

        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(work, order) for order in (range(6), range(5, -1, -1))]
            for future in futures:
                for index, made in future.result().items():
                    assert np.array_equal(made, wanted[index])


def test_progress_counts_the_tiles_and_can_end_the_call():
    model = srq.load_model("fast", tile=16)
    seen = []
    model.upscale(picture(32, 48), progress=seen.append)
    assert [(each.done, each.total) for each in seen] == [(n, 6) for n in range(1, 7)]
    assert seen[-1].fraction == 1
    assert seen[0].to_json() == {"task": "upscaling", "done": 1, "total": 6, "unit": "tile"}
    with pytest.raises(FrozenInstanceError):
        seen[0].done = 2

    def stop(_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        model.upscale(picture(32, 48), progress=stop)
    assert model.upscale(picture(5, 5)).shape == (20, 20, 3)


def test_nothing_is_printed(capfd, tiny_model):
    srq.load_model(tiny_model, runtime="torch").upscale(picture(9, 9).astype(np.uint16))
    srq.upscale(picture(9, 9))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scale": 0}, srq.UsageError, "`scale` 0: must be more than 1, and at most 16"),
        ({"scale": float("nan")}, srq.UsageError, "must be more than 1"),
        ({"scale": 99}, srq.UsageError, "at most 16"),
        ({"scale": "2"}, TypeError, "scale is a number or a pair"),
        ({"scale": True}, TypeError, "scale is a number or a pair"),
        ({"scale": (1, 2, 3)}, TypeError, "scale is a number or a pair"),
        ({"width": 0}, srq.UsageError, "`width` 0: must be 1 or more"),
        ({"width": 2.5}, TypeError, "width is a whole number"),
        ({"width": 5}, srq.UsageError, "would not enlarge"),
        ({"scale": 2, "width": 50}, srq.UsageError, "give only one of them"),
        ({"model": "fasst"}, srq.UsageError, "did you mean 'fast'"),
        ({"model": "no/such.safetensors"}, srq.UsageError, "no such model file"),
        ({"model": ""}, srq.UsageError, "the name of a model is empty"),
        ({"model": 3}, TypeError, "a name, a path or a Model, not int"),
    ],
)
def test_mistakes_are_one_clear_error(arguments, error, message):
    with pytest.raises(error, match=message) as raised:
        srq.upscale(picture(9, 9), **arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 5}, "`scale` 5: must be one of 2, 3, 4, 8"),
        ({"model": "fast", "runtime": "tvm"}, "`runtime` tvm: must be one of auto"),
        ({"model": "edsr-baseline-x2", "scale": 3}, "enlarges by 2, not by 3"),
        ({"device": "tpu"}, "`device` tpu: must be auto, cpu, cuda or cuda:N"),
        ({"threads": -1}, "`threads` -1: must be a whole number from 1 to 512"),
        ({"threads": 0}, "`threads` 0: must be"),
        ({"threads": "2"}, "`threads` 2: must be"),
        ({"threads": True}, "`threads` True: must be"),
        ({"tile": -1}, "`tile` -1: must be a whole number from 1"),
        ({"tile": 8.0}, "`tile` 8.0: must be"),
        ({"precision": "fp16"}, "`precision` fp16: must be one of auto, fp32, bf16"),
        ({"depth": "third"}, "`depth` third: must be one of full, half, quarter"),
    ],
)
def test_loading_refuses_mistakes_at_once(arguments, message):
    with pytest.raises(srq.UsageError, match=message):
        srq.load_model(**arguments)


def test_a_damaged_file_is_refused_at_once(tmp_path, tiny_model):
    damaged = tmp_path / "a.safetensors"
    damaged.write_bytes(tiny_model.read_bytes().replace(b'"scale', b'"scalf', 1))
    with pytest.raises(srq.UsageError, match=str(damaged)):
        srq.load_model(damaged)


def test_names_bits_and_cards(tiny_model):
    model = srq.load_model(tiny_model)
    assert repr(model) == "Model('tiny', scale=2, bits='float')"
    assert srq.load_model().bits.startswith("w")
    assert srq.load_model(scale=2).scale == 2
    assert srq.load_model("fast").card.licence == "MIT"


def test_a_graph_is_a_model(tmp_path):
    model = srq.load_model(nearest_onnx(tmp_path / "n.onnx"))
    assert model.scale == 2
    image = picture(6, 7)
    assert np.array_equal(model.upscale(image), image.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.slow
def test_the_scale_of_a_checkpoint_is_kept_everywhere(tmp_path):
    tensors = {
        key: value for scale in (2, 3, 4) for key, value in carn(scale, several=True)[1].items()
    }
    torch.save(tensors, tmp_path / "carn.pth")
    model = srq.load_model(tmp_path / "carn.pth", scale=3, runtime="torch")
    assert model.scale == 3
    assert model.upscale(picture(9, 9)).shape == (27, 27, 3)
    assert srq.evaluate(model, [picture(30, 30)]).scale == 3


def test_list_models_has_the_users_own():
    folder = user_models_dir()
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "mine.safetensors", tiny_edsr(), Card(name="mine"))
    models = {model.name: model for model in srq.list_models()}
    assert models["mine"].owner == "user"
    assert models["edsr-baseline-x2"].scale == 2
    assert all(srq.load_model(name).scale == model.scale for name, model in models.items())
    json.dumps([model.to_json() for model in models.values()])


def test_to_torch_is_a_copy(tiny_model):
    model = srq.load_model(tiny_model, runtime="torch")
    image = picture(9, 11)
    before = model.upscale(image)
    network = model.to_torch()
    assert isinstance(network, torch.nn.Module)
    with torch.no_grad():
        sr = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
        for parameter in network.parameters():
            parameter.zero_()
    levels = (sr[0] * 255).round().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.abs(levels.astype(int) - before).max() <= 1
    assert np.array_equal(model.upscale(image), before)


def test_save_copies_a_model_and_refuses_mistakes(tmp_path, tiny_model):
    model = srq.load_model(tiny_model, runtime="torch")
    model.save(tmp_path / "b.safetensors")
    copy = srq.load_model(tmp_path / "b.safetensors", runtime="torch")
    assert np.array_equal(copy.upscale(picture(9, 9)), model.upscale(picture(9, 9)))
    with pytest.raises(srq.UsageError, match="exists; use `overwrite`"):
        model.save(tmp_path / "b.safetensors")
    model.save(tmp_path / "b.safetensors", overwrite=True)
    with pytest.raises(srq.UsageError, match=r"must end in \.safetensors"):
        model.save(tmp_path / "b.pt")
    with pytest.raises(srq.FailedError):
        model.save(tiny_model / "c.safetensors")


def in_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_else():
    code = """
import sys
before = set(sys.modules)
import sr_quant_cli as srq
print(sorted(set(sys.modules) - before))
dir(srq)
srq.UsageError
print(sorted({"numpy", "torch", "pydantic", "pyvips"} & set(sys.modules)))
"""
    assert in_new_process(code) == "['sr_quant_cli']\n[]\n"


def test_the_embedded_model_runs_without_torch():
    code = """
import sys
import numpy as np
import sr_quant_cli as srq
assert srq.upscale(np.zeros((8, 9, 3), np.uint8)).shape == (32, 36, 3)
assert srq.load_model("fast").upscale(np.zeros((8, 9, 4), np.uint8)).shape == (32, 36, 4)
print(sorted({"torch", "onnx", "onnxruntime", "openvino"} & set(sys.modules)))
"""
    assert in_new_process(code) == "[]\n"


def test_the_names_of_the_package():
    assert set(api.__all__) | {"FailedError", "SrqError", "UsageError"} == set(srq.__all__)
    assert set(srq.__all__) <= set(dir(srq))
    for name in srq.__all__:
        assert inspect.getdoc(getattr(srq, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'upscayl'"):
        srq.upscayl  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(srq.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = [each.name for node in block.body for each in node.names]
    assert sorted(imported) == sorted(srq.__all__)


def test_a_broken_stream_of_pillow_is_no_silent_success():
    stream = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(stream, "PNG")
    cut = Image.open(io.BytesIO(stream.getvalue()[:-3000]))
    with cut as image, pytest.raises(OSError, match="truncated"):
        srq.upscale(image, "fast")
