"""What all runtimes have in common: pictures in and out, refusals in one line."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sr_quant_cli.errors import UsageError
from sr_quant_cli.runtimes.base import PROBE, Facts
from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime
from sr_quant_cli.runtimes.openvino import OpenVinoRuntime
from sr_quant_cli.runtimes.torch import TorchRuntime, facts_of_network
from tests.helpers import nearest_onnx, picture, ranked_quantsr_c, tiny_edsr
from tests.lowered import CPU, quantize, quantized_edsr, transformer

each_runtime = pytest.mark.parametrize(
    "runtime", [OnnxRuntime, OpenVinoRuntime], ids=["onnxruntime", "openvino"]
)


def one_operation(path, kind, shape, operation="Relu", **attributes):
    """A graph of a single operation: ``x`` -> ``y``."""
    graph = helper.make_graph(
        [helper.make_node(operation, ["x"], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


@each_runtime
def test_float_outputs_are_rounded_half_to_even_and_clipped(tmp_path, runtime):
    run = runtime(one_operation(tmp_path / "x.onnx", TensorProto.FLOAT, ["n", 3, "h", "w"]), 1)
    lr = picture(9, 14)
    assert np.array_equal(run(lr), lr)
    output = np.array([-1.0, -0.001, 0.5, 254.6 / 255, 1.0, 7.0], np.float32).reshape(1, 1, 1, 6)
    pixels = run.to_pixels([output])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1, 6, 1)
    assert pixels.flatten().tolist() == [0, 0, 128, 255, 255, 255]


@each_runtime
def test_further_outputs_of_a_graph_are_no_bits(tmp_path, runtime):
    graph = runtime(nearest_onnx(tmp_path / "two.onnx", outputs=("y", "c")), 1)
    assert graph(picture(4, 5)).shape == (8, 10, 3)
    assert graph.latest_bits() is None


@each_runtime
def test_8_bit_graphs_see_and_give_pixels(tmp_path, runtime):
    path = one_operation(
        *(tmp_path / "x.onnx", TensorProto.UINT8, [1, "h", "w", 3]),
        *("Transpose",),
        perm=[0, 2, 1, 3],
    )
    lr = picture(9, 14)
    pixels = runtime(path, 1)(lr)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, lr.transpose(1, 0, 2))


@each_runtime
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (TensorProto.FLOAT, ["n", 3, "w"]),
        (TensorProto.DOUBLE, ["n", 3, "h", "w"]),
        (TensorProto.FLOAT16, ["n", 3, "h", "w"]),
    ],
)
def test_graphs_that_take_no_picture_are_refused(tmp_path, runtime, kind, shape):
    path = one_operation(tmp_path / "x.onnx", kind, shape)
    with pytest.raises(UsageError, match=r"x\.onnx: needs one input, float"):
        runtime(path)


@each_runtime
def test_files_that_are_no_graphs_are_refused_in_a_line(tmp_path, runtime):
    for name, content in (("a.onnx", b"nonsense"), ("b.onnx", b""), ("c.onnx", b"\x08\x09" * 99)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name} is no readable network: .") as refused:
            runtime(tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="no such model file"):
        runtime(tmp_path / "d.onnx")


@each_runtime
def test_a_picture_that_a_graph_does_not_take_is_refused(tmp_path, runtime):
    run = runtime(nearest_onnx(tmp_path / "grey.onnx", channels=1), 1)
    with pytest.raises(UsageError, match=r"grey\.onnx does not take a 14x9 RGB picture: .") as told:
        run(picture(9, 14))
    assert "\n" not in str(told.value)


def test_no_output_is_an_error(tmp_path, monkeypatch):
    run = OpenVinoRuntime(nearest_onnx(tmp_path / "n.onnx"), 1, "fp32")
    nothing = {"sr": np.empty((1, 3, 0, 0), np.float32)}
    monkeypatch.setattr(run, "_compiled", lambda inputs: nothing)
    with pytest.raises(UsageError, match=r"14x9 RGB picture: OpenVINO computes nothing in fp32"):
        run(picture(9, 14))


@each_runtime
def test_kernels_of_a_float_graph(tmp_path, runtime):
    run = runtime(nearest_onnx(tmp_path / "n.onnx"), 1)
    kernels = run.kernels()
    assert (kernels.integer, kernels.floating, len(kernels.float_names)) == (0, 1, 1)
    # Counting leaves it as it was.
    assert run(PROBE).shape == (64, 48, 3)


def test_threads_and_precision_reach_openvino(tmp_path):
    path = nearest_onnx(tmp_path / "n.onnx")
    run = OpenVinoRuntime(path, 1, "fp32")
    assert run.precision == "fp32"
    assert run._compiled.get_property("INFERENCE_NUM_THREADS") == 1
    asked = OpenVinoRuntime(path, precision="bf16")
    used = asked._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert asked.precision == ("bf16" if used == "bf16" else "fp32")


def test_compiled_graphs_are_kept_where_told(tmp_path):
    OpenVinoRuntime(nearest_onnx(tmp_path / "n.onnx"), 1, cache=tmp_path / "compiled")
    assert list((tmp_path / "compiled").iterdir())


def test_torch_counts_simulated_products_as_float():
    lr = picture(8, 9)
    for network, count in ((tiny_edsr(), 8), (quantized_edsr("minmax", "full", 8), 8)):
        runtime = TorchRuntime(network, CPU)
        assert (runtime.kernels().integer, runtime.kernels().floating) == (0, count)
        assert (runtime.runtime, runtime.precision) == ("torch", "fp32")
        assert runtime(lr).shape == (16, 18, 3)
    products = TorchRuntime(quantize(transformer(), "minmax", bits=8), CPU).kernels()
    assert products.floating == 10


def test_facts_of_a_network():
    network = tiny_edsr(4)
    # Float32: around the upsampler 2.25 * 16 * 8 values a pixel, and 12 * 16 of the output.
    expected = Facts("tiny", 4, network.receptive_radius, 4 * (288 + 192), least=1, dynamic=False)
    assert facts_of_network(network, "tiny") == expected
    assert facts_of_network(quantize(tiny_edsr(), "daq", "paper"), "daq").dynamic
    assert not facts_of_network(quantized_edsr("pams", "paper", 4), "pams").dynamic
    half = ranked_quantsr_c()
    radius = half.receptive_radius
    half.set_depth("half")
    assert facts_of_network(half, "half", 3).receptive_radius == radius - 4
    assert facts_of_network(half, "half", 3).least == 3
