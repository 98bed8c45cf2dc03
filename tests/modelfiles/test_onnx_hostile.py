"""Broken and hostile ONNX files: refused in one line, with little time and memory."""

from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.onnx_networks import OnnxHints, read_onnx

SHAPE = [1, 3, None, None]


def tensor(name, shape=SHAPE, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def node(op, given, made, **attributes):
    return helper.make_node(op, given, made, **attributes)


def constant(name, values, kind=np.float32):
    return numpy_helper.from_array(np.array(values, kind), name)


WEIGHT = numpy_helper.from_array(np.full((12, 3, 1, 1), 0.3, np.float32), "w")
SHUFFLE = [
    node("Conv", ["x", "w"], ["c"]),
    node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="CRD"),
]


def write(path, nodes, constants=(WEIGHT,), inputs=None, outputs=None, opset=17):
    graph = helper.make_graph(
        nodes, "g", inputs or [tensor("x")], outputs or [tensor("y")], list(constants)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    path.write_bytes(model.SerializeToString())
    return path


def refused(path, message):
    with pytest.raises(UsageError) as caught:
        read_onnx(path, OnnxHints(input_range="0..1"))
    text = str(caught.value)
    assert text.startswith(f"{path}") or "no such file" in text
    assert message in text
    assert "\n" not in text
    assert len(text) < 1000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


def test_a_plain_graph_is_read(path):
    network = read_onnx(write(path, SHUFFLE), OnnxHints(input_range="0..1")).network
    assert network.scale == 2


def test_files_that_are_no_graphs_are_refused(path):
    refused(path, "no such file")
    path.write_text("a text, not a graph\n" * 20)
    refused(path, "no readable ONNX file")
    path.write_bytes(b"")
    refused(path, "")
    whole = write(path, SHUFFLE).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "")


def then(*nodes):
    """A PixelShuffle, and nodes from ``p`` to ``y`` behind it."""
    return [SHUFFLE[0], node("DepthToSpace", ["c"], ["p"], blocksize=2, mode="CRD"), *nodes]


GRAPH = helper.make_graph([node("Identity", ["x"], ["z"])], "then", [], [tensor("z")])
ENDLESS = constant("big", [1, 2**20, 2**20, 2**20], np.int64)

BROKEN = {
    "two inputs": (
        {"nodes": SHUFFLE, "inputs": [tensor("x"), tensor("z")]},
        "it has 2 inputs and 1 outputs; must be one picture in and one out",
    ),
    "two outputs": (
        {"nodes": SHUFFLE, "outputs": [tensor("y"), tensor("c")]},
        "it has 1 inputs and 2 outputs",
    ),
    "unknown operation": (
        {"nodes": then(node("ReduceMeans", ["p"], ["y"]))},
        "srq does not know the operation ReduceMeans; the nearest that it knows: ReduceMean",
    ),
    "an operation of others": (
        {"nodes": then(node("Relu", ["p"], ["y"], domain="of.mine"))},
        "srq does not know the operation of.mine.Relu",
    ),
    "branches": (
        {"nodes": then(node("If", ["p"], ["y"], then_branch=GRAPH, else_branch=GRAPH))},
        "If has a graph of its own",
    ),
    "a loop": (
        {"nodes": then(node("Loop", ["", "", "p"], ["y"], body=GRAPH))},
        "Loop has a graph of its own",
    ),
    "a value that nothing makes": (
        {"nodes": then(node("Add", ["p", "nothing"], ["y"]))},
        "nothing",
    ),
    "a circle": (
        {
            "nodes": then(
                node("Add", ["p", "b"], ["a"]),
                node("Relu", ["a"], ["b"]),
                node("Relu", ["b"], ["y"]),
            )
        },
        "Add reads b, which nothing before it makes",
    ),
    "no result": ({"nodes": then(node("Relu", ["p"], ["z"]))}, "nothing makes its output y"),
    "values made twice": (
        {"nodes": then(node("Relu", ["p"], ["y"]), node("Neg", ["p"], ["y"]))},
        "y",
    ),
    "flat input": ({"nodes": SHUFFLE, "inputs": [tensor("x", [3])]}, "its input has 1 dimensions"),
    "input of videos": (
        {"nodes": SHUFFLE, "inputs": [tensor("x", [1, 3, 5, None, None])]},
        "its input has 5 dimensions",
    ),
    "input without a shape": ({"nodes": SHUFFLE, "inputs": [tensor("x", None)]}, "dimensions"),
    "no colours": (
        {"nodes": SHUFFLE, "inputs": [tensor("x", [1, 7, None, None])]},
        "3 or 1 channels",
    ),
    "a text as input": (
        {"nodes": SHUFFLE, "inputs": [tensor("x", SHAPE, TensorProto.STRING)]},
        "",
    ),
    "no enlargement": ({"nodes": [node("Relu", ["x"], ["y"])]}, "must enlarge by 2, 3, 4 or 8"),
    "scale 5": (
        {
            "nodes": [
                node("Conv", ["x", "w"], ["c"]),
                node("DepthToSpace", ["c"], ["y"], blocksize=5),
            ],
            "constants": [numpy_helper.from_array(np.ones((75, 3, 1, 1), np.float32), "w")],
        },
        "must enlarge by 2, 3, 4 or 8",
    ),
    "NaN in a weight": (
        {
            "nodes": SHUFFLE,
            "constants": [numpy_helper.from_array(np.full((12, 3, 1, 1), np.nan, np.float32), "w")],
        },
        "no finite numbers",
    ),
    "infinity in a factor": (
        {
            "nodes": then(node("Mul", ["p", "f"], ["y"])),
            "constants": [WEIGHT, constant("f", np.inf)],
        },
        "",
    ),
    "a huge enlargement": (
        {
            "nodes": then(node("Resize", ["p", "", "s"], ["y"], mode="nearest")),
            "constants": [WEIGHT, constant("s", [1, 1, 1e6, 1e6])],
        },
        "too large",
    ),
    "a huge size": (
        {
            "nodes": then(node("Resize", ["p", "", "", "big"], ["y"], mode="nearest")),
            "constants": [WEIGHT, constant("big", [1, 3, 2**30, 2**30], np.int64)],
        },
        "",
    ),
    "a huge repetition": (
        {"nodes": then(node("Tile", ["p", "big"], ["y"])), "constants": [WEIGHT, ENDLESS]},
        "",
    ),
    "a huge shape": (
        {"nodes": then(node("Expand", ["p", "big"], ["y"])), "constants": [WEIGHT, ENDLESS]},
        "",
    ),
    "huge constants": (
        {
            "nodes": then(node("ConstantOfShape", ["big"], ["z"]), node("Add", ["p", "z"], ["y"])),
            "constants": [WEIGHT, ENDLESS],
        },
        "too large",
    ),
    "an expanded constant": (
        {
            "nodes": then(node("Expand", ["one", "big"], ["z"]), node("Add", ["p", "z"], ["y"])),
            "constants": [WEIGHT, ENDLESS, constant("one", [1.0])],
        },
        "too large",
    ),
    "a huge range": (
        {
            "nodes": then(node("Range", ["a", "b", "d"], ["z"]), node("Add", ["p", "z"], ["y"])),
            "constants": [WEIGHT, constant("a", 0), constant("b", 1e12), constant("d", 1)],
        },
        "too large",
    ),
    "a huge padding": (
        {
            "nodes": then(node("Pad", ["p", "big"], ["y"])),
            "constants": [WEIGHT, constant("big", [0, 0, 2**40, 0, 0, 0, 0, 0], np.int64)],
        },
        "",
    ),
    "a block of zero": (
        {"nodes": [SHUFFLE[0], node("DepthToSpace", ["c"], ["y"], blocksize=0, mode="CRD")]},
        "",
    ),
    "a stride of zero": (
        {"nodes": [node("Conv", ["x", "w"], ["c"], strides=[0, 0]), SHUFFLE[1]]},
        "",
    ),
    "attributes of other types": (
        {"nodes": [node("Conv", ["x", "w"], ["c"], strides="two", group="x"), SHUFFLE[1]]},
        "",
    ),
    "an attribute that is not known": (
        {"nodes": then(node("Transpose", ["p"], ["y"], order=[0, 1, 2, 3]))},
        "",
    ),
    "operands that are missing": ({"nodes": [node("Conv", ["x"], ["c"]), SHUFFLE[1]]}, ""),
    "a computed kernel": (
        {"nodes": [node("Conv", ["x", "x"], ["c"]), SHUFFLE[1]]},
        "a convolution needs a constant kernel",
    ),
    "sequences": (
        {"nodes": then(node("SequenceConstruct", ["p"], ["y"]))},
        "srq does not know the operation SequenceConstruct",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_graph_is_refused(name, path):
    graph, message = BROKEN[name]
    refused(write(path, **graph), message)


def test_tensors_outside_the_folder_are_not_read(path, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(12 * 3 * 4))
    inner = tmp_path / "inner"
    inner.mkdir()
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[12, 3, 1, 1])
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    refused(write(inner / "net.onnx", SHUFFLE, [weight]), "secret.bin")


def test_a_graph_of_very_many_operations_is_refused(path):
    names = ["p", *(f"v{i}" for i in range(30_000)), "y"]
    relus = [node("Relu", [a], [b]) for a, b in pairwise(names)]
    refused(write(path, then(*relus)), "operations")
