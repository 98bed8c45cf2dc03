"""Small ONNX graphs, and their results in srq's layers and in ONNX Runtime."""

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from sr_quant_cli.modelfiles.onnx_graph import Graph
from sr_quant_cli.modelfiles.onnx_nodes import nodes_of
from sr_quant_cli.modelfiles.onnx_simplify import simplify
from sr_quant_cli.networks.imported import GIVEN
from sr_quant_cli.networks.operations import make_layer
from tests.helpers import onnx_session

rng = np.random.default_rng(0)


def values(*shape):
    """Normal random numbers, float32."""
    return rng.standard_normal(shape).astype(np.float32)


def whole(*numbers):
    """Whole numbers as ONNX's shapes and axes are."""
    return np.array(numbers, np.int64)


def number(value):
    return np.array(value, np.float32)


def model(nodes, constants, shape, opset=18):
    """Make an ONNX model of ``x`` and ``y`` from nodes ``(op, inputs, outputs, attributes)``."""
    graph = helper.make_graph(
        [helper.make_node(op, given, made, **how) for op, given, made, how in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 10
    return made


def ours(made, x):
    """Result of srq's layers."""
    graph = Graph(made)
    simplify(graph)
    nodes, state = nodes_of(graph)
    found = {GIVEN: torch.from_numpy(x)}
    for node in nodes:
        layer = make_layer(node).eval()
        layer.load_state_dict(
            {
                key.removeprefix(f"layers.{node.name}."): torch.from_numpy(np.array(value))
                for key, value in state.items()
                if key.startswith(f"layers.{node.name}.")
            }
        )
        with torch.no_grad():
            results = layer(*(found[name] for name in node.operands if isinstance(name, str)))
        several = isinstance(results, tuple)
        found |= dict(zip(node.gives, results if several else [results], strict=True))
    return found[graph.result]


def agree(nodes, constants, x, opset=18, tolerance=1e-5):
    """Compare srq's result with ONNX Runtime's."""
    made = model(nodes, constants, [None] * x.ndim, opset)
    (wanted,) = onnx_session(made.SerializeToString(), as_written=True).run(None, {"x": x})
    got = ours(made, x)
    got = got.numpy() if isinstance(got, torch.Tensor) else np.array(got.tolist())
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=tolerance)


PICTURE = values(2, 4, 6, 5)
