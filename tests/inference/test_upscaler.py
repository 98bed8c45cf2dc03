"""Inputs that an upscaler takes, and outputs of a network that are no pictures."""

import json
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.inference.upscaler import BicubicUpscaler, WholeUpscaler
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime
from sr_quant_cli.runtimes.openvino import OpenVinoRuntime
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import nearest_onnx, open_path, picture, tiny_edsr


@pytest.mark.parametrize(
    ("lr", "error", "message"),
    [
        (
            picture(5, 6).astype(np.float32) / 255,
            TypeError,
            "an array of uint8 or uint16, not float32",
        ),
        (picture(5, 6).astype(np.int16), TypeError, "not int16"),
        ([[0, 0, 0]], TypeError, "not list"),
        (picture(5, 6)[:, :, 0], ValueError, r"of shape \[h, w, 3\], not \[5, 6\]"),
        (np.zeros((5, 6, 4), np.uint8), ValueError, r"not \[5, 6, 4\]"),
        (np.zeros((3, 5, 6), np.uint8), ValueError, r"not \[3, 5, 6\]"),
        (np.zeros((0, 6, 3), np.uint8), ValueError, r"not \[0, 6, 3\]"),
    ],
)
def test_what_is_no_picture_is_refused(lr, error, message):
    with pytest.raises(error, match=message):
        BicubicUpscaler(2)(lr)


def with_traits(path, scale):
    """Write traits with the given scale into a graph."""
    traits = {"name": "liar", "scale": scale, "receptive_radius": 1, "bytes_per_pixel": 100}
    model = onnx.load(path)
    helper.set_model_props(model, {"srq": json.dumps({"facts": traits})})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("scale", [3, 4])
def test_a_graph_that_lies_about_its_scale_is_refused(tmp_path, scale, srq):
    model = with_traits(nearest_onnx(tmp_path / "n.onnx"), scale)
    with pytest.raises(UsageError, match=f"liar makes 12x10 of 6x5, which is not x{scale}"):
        open_path(model, runtime="onnxruntime")(picture(5, 6))
    write_rgb(tmp_path / "a.png", picture(5, 6))
    code, out, err = srq("upscale", tmp_path / "a.png", "--model", model)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "n.onnx"]


def test_an_output_that_follows_no_scale_is_refused():
    class Crooked:
        runtime = "onnxruntime"

        def __call__(self, lr):
            return np.zeros((2 * (len(lr) // 8 * 8), 2 * lr.shape[1], 3), np.uint8)

    upscaler = WholeUpscaler(Crooked(), "crooked")
    assert upscaler(picture(16, 6)).shape == (32, 12, 3)
    with pytest.raises(UsageError, match="crooked makes 12x32 of 6x17, which is not x2"):
        upscaler(picture(17, 6))


def one_constant(path, value):
    """A graph that adds a constant to its picture."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("c", TensorProto.FLOAT, [1, 3, 1, 1], [0, value, 0])],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


@pytest.mark.parametrize("runtime", [OnnxRuntime, OpenVinoRuntime])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_no_picture(tmp_path, runtime, value):
    network = runtime(one_constant(tmp_path / "x.onnx", value), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FailedError, match=r"x\.onnx: its output is not a number, or infinite"):
            network(picture(5, 6))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_so_it_is_in_torch(value):
    network = tiny_edsr()
    with torch.no_grad():
        next(network.parameters()).flatten()[0] = value
    upscaler = TiledUpscaler(
        TorchRuntime(network, torch.device("cpu")), traits_of_network(network, "tiny")
    )
    with pytest.raises(FailedError, match="the network's output is not a number, or infinite"):
        upscaler(picture(5, 6))


def test_nothing_is_written_of_it(tmp_path, srq):
    model = one_constant(tmp_path / "x.onnx", np.nan)
    write_rgb(tmp_path / "a.png", picture(60, 60))
    code, out, err = srq("upscale", tmp_path / "a.png", "--model", model)
    assert (code, out) == (1, "")
    assert err == f"srq: error: {model}: its output is not a number, or infinite\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "x.onnx"]


@pytest.mark.parametrize(
    "output",
    [
        np.zeros((3, 5, 6), np.float32),
        np.zeros((2, 3, 5, 6), np.float32),
        np.zeros((1, 3, 5, 6), np.int64),
    ],
)
def test_an_output_of_another_form_is_refused(tmp_path, output):
    network = OnnxRuntime(nearest_onnx(tmp_path / "n.onnx"), 1)
    with pytest.raises(UsageError, match=r"n\.onnx: its output is .* which is no picture"):
        network.to_pixels([output])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", "8"), "--tile 8: {} does not say by how much its tiles must overlap"),
        (("--device", "cuda"), "--device cuda: {} is a graph, which runs on the CPU"),
    ],
)
def test_what_a_graph_cannot_do_is_refused(tmp_path, srq, options, message):
    model = nearest_onnx(tmp_path / "n.onnx")
    write_rgb(tmp_path / "a.png", picture(5, 6))
    code, out, err = srq("upscale", tmp_path / "a.png", "--model", model, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message.format(model) in err


def test_tiles_of_a_graph_that_knows_their_overlap_are_taken(tmp_path):
    model = with_traits(nearest_onnx(tmp_path / "n.onnx"), 2)
    upscaler = open_path(model, runtime="onnxruntime", tile=4)
    lr = picture(9, 11)
    assert upscaler.tile_count(9, 11) == 9
    assert np.array_equal(upscaler(lr), lr.repeat(2, axis=0).repeat(2, axis=1))


def test_sides_in_multiples_are_hinted_at(tmp_path):
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "s"], ["r"]),
            helper.make_node("Shape", ["x"], ["t"]),
            helper.make_node("Reshape", ["r", "t"], ["y"]),
        ],
        "window",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("s", TensorProto.INT64, [3], [-1, 16, 16])],
    )
    opset = helper.make_opsetid("", 17)
    path = tmp_path / "w.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    upscaler = WholeUpscaler(OnnxRuntime(path, 1), "w")
    with pytest.raises(UsageError, match=r"14x9 RGB picture: .*takes 48x48: only multiples") as e:
        upscaler(picture(9, 14))
    assert "\n" not in str(e.value)


def test_traits_of_a_tile_are_checked_too():
    traits = ModelTraits("liar", 2, receptive_radius=1, bytes_per_pixel=100)
    upscaler = TiledUpscaler(_Same(), traits, tile=4)
    with pytest.raises(UsageError, match="liar makes 4x4 of 4x4, which is not x2"):
        upscaler(picture(9, 9))


class _Same:
    """A runtime that returns its input."""

    runtime = "onnxruntime"

    def __call__(self, lr):
        return lr

    def part(self, lr, rows, columns):
        return None

    def latest_bits(self):
        return None
