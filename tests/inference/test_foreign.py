"""Foreign graphs: the range of their floats, and constants that are no numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_quant_cli.errors import UsageError
from tests.helpers import nearest_onnx, open_path, picture
from tests.inference.stubs import gradient
from tests.lowered import deployed

RUNTIMES = ("onnxruntime", "openvino")


def brighter(path, amount):
    """A x2 graph of floats that adds an amount to each colour."""
    model = onnx.load(nearest_onnx(path))
    model.graph.node[-1].output[0] = "n"
    model.graph.node.append(helper.make_node("Add", ["n", "a"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(amount), "a"))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("white", "amount"), [(None, 10 / 255), (1, 10 / 255), (255, 10)])
def test_a_graph_computes_in_the_range_that_it_was_made_for(tmp_path, runtime, white, amount):
    path = brighter(tmp_path / "b.onnx", amount)
    upscaler = open_path(path, runtime=runtime, threads=1, range=white)
    lr = picture(5, 6) // 2
    assert np.array_equal(upscaler(lr), (lr + 10).repeat(2, 0).repeat(2, 1))
    deep = gradient(5, 6)
    difference = upscaler(deep) - (deep + 2570.0).repeat(2, 0).repeat(2, 1)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("kind", ["model", "pixels", "srq"])
def test_a_range_is_for_foreign_graphs_of_floats(tmp_path, tiny_model, kind):
    path, message = tiny_model, "is no graph"
    if kind != "model":
        made = deployed("float", "uint8")
        path = tmp_path / "p.onnx"
        message = "takes 8-bit pixels" if kind == "pixels" else "is srq's own"
        del made.model.metadata_props[:]
        onnx.save(made.model, path)
    if kind == "srq":
        from sr_quant_cli.lowering.graph import describe

        model = onnx.load(path)
        describe(model, made.traits)
        onnx.save(model, path)
    with pytest.raises(UsageError, match=f"`range` 255: .*{message}"):
        open_path(path, runtime="auto" if kind != "model" else "torch", range=255)
    with pytest.raises(UsageError, match="`range` 2: must be 1 or 255"):
        open_path(path, range=2)


def pixels(path, value, *, attribute):
    """A x1 graph of 8-bit pixels that multiplies by a constant, given in one of two forms."""
    constant = numpy_helper.from_array(np.float32([value]), "c")
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "c"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.UINT8),
    ]
    if attribute:
        nodes.insert(0, helper.make_node("Constant", [], ["c"], value=constant))
    shape = [1, "h", "w", 3]
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [] if attribute else [constant],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


@pytest.mark.parametrize("attribute", [False, True])
def test_a_constant_that_is_no_number_is_refused_where_the_output_hides_it(tmp_path, attribute):
    path = pixels(tmp_path / "n.onnx", np.nan, attribute=attribute)
    with pytest.raises(UsageError, match=r"n\.onnx: its constant 'c' is not a number"):
        open_path(path, runtime="onnxruntime", threads=1)
    path = pixels(tmp_path / "n.onnx", 1, attribute=attribute)
    lr = picture(5, 6)
    assert np.array_equal(open_path(path, runtime="onnxruntime", threads=1)(lr), lr)
