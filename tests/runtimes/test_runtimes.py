"""Behaviour that all runtimes share: pictures in and out, refusals in one line."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_quant_cli.errors import FailedError, SrqError, UsageError
from sr_quant_cli.runtimes.base import PROBE, ModelTraits
from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime
from sr_quant_cli.runtimes.openvino import OpenVinoRuntime
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import nearest_onnx, picture, ranked_quantsr_c, tiny_edsr
from tests.lowered import CPU, quantize, quantized_edsr, transformer

each_runtime = pytest.mark.parametrize(
    "runtime", [OnnxRuntime, OpenVinoRuntime], ids=["onnxruntime", "openvino"]
)


def one_operation(path, kind, shape, operation="Relu", further=(), **attributes):
    """A graph of a single operation: ``x``, and constants -> ``y``."""
    graph = helper.make_graph(
        [helper.make_node(operation, ["x", *(t.name for t in further)], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        further,
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
    ("kind", "shape", "told"),
    [
        (TensorProto.FLOAT, ["n", 3, "w"], "float32 [?, 3, ?]"),
        (TensorProto.FLOAT16, ["n", 3, "h", "w"], "float16 [?, 3, ?, ?]"),
        (TensorProto.FLOAT, ["n", 1, "h", "w"], "float32 [?, 1, ?, ?]"),
        (TensorProto.FLOAT, [1, "h", "w", 3], "float32 [1, ?, ?, 3]"),
        (TensorProto.FLOAT, [1, 3, 224, 224], "float32 [1, 3, 224, 224]"),
        (TensorProto.FLOAT, [8, 3, "h", "w"], "float32 [8, 3, ?, ?]"),
    ],
)
def test_graphs_that_take_no_picture_are_refused(tmp_path, runtime, kind, shape, told):
    path = one_operation(tmp_path / "x.onnx", kind, shape)
    with pytest.raises(UsageError, match=r"x\.onnx: needs one input, float32 \[N, 3, H, W\]") as e:
        runtime(path)
    assert str(e.value).endswith(f"it has {told}")


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
    kind, shape = TensorProto.FLOAT, ["n", 3, "h", "w"]
    block = numpy_helper.from_array(np.zeros((1, 3, 8, 8), np.float32), "block")
    run = runtime(one_operation(tmp_path / "b.onnx", kind, shape, "Add", [block]), 1)
    # OpenVINO gives nothing, and does not say why.
    refused = r"b\.onnx(?: does not take a 14x9 RGB picture: .|: OpenVINO computes nothing of 14x9)"
    with pytest.raises(SrqError, match=refused) as told:
        run(picture(9, 14))
    line = str(told.value)
    assert not any(word in line for word in ("\n", ".cpp", "Exception", "ONNXRuntimeError"))


def test_no_output_is_an_error(tmp_path, monkeypatch):
    run = OpenVinoRuntime(nearest_onnx(tmp_path / "n.onnx"), 1, "fp32")
    nothing = {"sr": np.empty((1, 3, 0, 0), np.float32)}
    monkeypatch.setattr(run, "_compiled", lambda inputs: nothing)
    with pytest.raises(FailedError, match=r"n\.onnx: OpenVINO computes nothing of 14x9 pixels"):
        run(picture(9, 14))
    run.precision = "bf16"
    with pytest.raises(UsageError, match=r"14x9 RGB picture: OpenVINO computes nothing in bf16"):
        run(picture(9, 14))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_want_of_memory_is_told_as_such(tmp_path, runtime):
    """Runs in a process that may take only a little more memory."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from sr_quant_cli.errors import FailedError\n"
        "from sr_quant_cli.runtimes.registry import get_runtime\n"
        "run = get_runtime(sys.argv[1]).open(Path(sys.argv[2]), 1, 'fp32')\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "lr = np.zeros((4000, 4000, 3), np.uint8)\n"
        "limit = pages * resource.getpagesize() + 2 ** 29\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try: run(lr)\n"
        "except FailedError as error: print(error)\n"
    )
    path = nearest_onnx(tmp_path / "n.onnx")
    command = [sys.executable, "-c", code, runtime, path]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    # OpenVINO may give nothing, and does not say why.
    assert ran.stdout in (
        f"out of memory: {path}, with 4000x4000 pixels at once\n",
        f"{path}: OpenVINO computes nothing of 4000x4000 pixels: "
        "they do not fit the network, or the memory\n",
    )


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


@pytest.fixture
def compiled(tmp_path):
    """A graph, and what OpenVINO compiled of it."""
    path = nearest_onnx(tmp_path / "n.onnx")
    OpenVinoRuntime(path, 1, cache=tmp_path / "kept")
    (kept,) = (tmp_path / "kept").iterdir()
    return path, kept


def never(*_arguments):
    raise AssertionError("compiled again")


def test_what_was_compiled_is_taken_again(compiled, monkeypatch):
    path, kept = compiled
    monkeypatch.setattr(OpenVinoRuntime, "_compile", never)
    run = OpenVinoRuntime(path, 1, cache=kept.parent)
    lr = picture(9, 14)
    assert np.array_equal(run(lr), lr.repeat(2, 0).repeat(2, 1))
    assert run.kernels().floating == 1
    assert run._compiled.get_property("INFERENCE_NUM_THREADS") == 1
    for other in ({"threads": 2}, {"threads": 1, "precision": "fp32"}):
        with pytest.raises(AssertionError, match="compiled again"):
            OpenVinoRuntime(path, **other, cache=kept.parent)


@pytest.mark.parametrize("damage", ["empty", "cut", "a bit", "another graph's", "nonsense"])
def test_what_was_compiled_and_is_no_longer_whole_is_made_anew(compiled, damage):
    path, kept = compiled
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    if damage == "another graph's":
        nearest_onnx(path, outputs=("y", "c"))
    content = {"empty": b"", "cut": whole[:-1], "a bit": bytes(flipped), "nonsense": b"x" * 99}
    kept.write_bytes(content.get(damage, whole))
    lr = picture(9, 14)
    assert np.array_equal(OpenVinoRuntime(path, 1, cache=kept.parent)(lr)[::2, ::2], lr)
    assert kept.read_bytes() != content.get(damage, whole)
    assert len(kept.read_bytes()) > 99


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").touch()
    path = nearest_onnx(tmp_path / "n.onnx")
    run = OpenVinoRuntime(path, 1, cache=tmp_path / "file/kept")
    assert run(picture(9, 14)).shape == (18, 28, 3)


def test_torch_counts_simulated_products_as_float():
    lr = picture(8, 9)
    for network, count in ((tiny_edsr(), 8), (quantized_edsr("minmax", "full", 8), 8)):
        runtime = TorchRuntime(network, CPU)
        assert (runtime.kernels().integer, runtime.kernels().floating) == (0, count)
        assert (runtime.runtime, runtime.precision) == ("torch", "fp32")
        assert runtime(lr).shape == (16, 18, 3)
    products = TorchRuntime(quantize(transformer(), "minmax", bits=8), CPU).kernels()
    assert products.floating == 10


def test_traits_of_a_network():
    network = tiny_edsr(4)
    # Float32: around the upsampler 2.25 * 16 * 8 values a pixel, and 12 * 16 of the output.
    expected = ModelTraits(
        "tiny", 4, network.receptive_radius, 4 * (288 + 192), least=1, dynamic=False
    )
    assert traits_of_network(network, "tiny") == expected
    assert traits_of_network(quantize(tiny_edsr(), "daq", "paper"), "daq").dynamic
    assert not traits_of_network(quantized_edsr("pams", "paper", 4), "pams").dynamic
    half = ranked_quantsr_c()
    radius = half.receptive_radius
    half.set_depth("half")
    assert traits_of_network(half, "half", 3).receptive_radius == radius - 4
    assert traits_of_network(half, "half", 3).least == 3
