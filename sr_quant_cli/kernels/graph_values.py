"""Positions, phases and weights that the kernels read off a graph."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from sr_quant_cli.kernels.executor import mirrored
from sr_quant_cli.kernels.terms import Floats, UnsupportedError

_SIZES = (2, 3, 7, 20)
"""sizes of a picture at which positions that the graph computes are compared with mirrored ones"""

_REACH = 2
"""Pixels to each side that a cubic kernel depends on."""


def mirrored_width(model: onnx.ModelProto, name: str, axis: int) -> int:
    """Find by how many pixels a graph surrounds a picture with mirrored ones.

    The positions that it computes from the size of the picture are compared with mirrored ones.

    Raises
    ------
    UnsupportedError
        They are others.
    """
    (picture,) = model.graph.input
    makers = {output: node for node in model.graph.node for output in node.output}
    needed, pending = set(), [name]
    while pending:
        node = makers.get(pending.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            pending += node.input
    graph = onnx.helper.make_graph(
        [node for node in model.graph.node if id(node) in needed],
        "positions",
        [picture],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [None])],
        model.graph.initializer,
    )
    opsets = model.opset_import
    evaluate = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets))
    widths = set()
    for size in _SIZES:
        shape = [1, 9, 9, 3]
        shape[1 + axis] = size
        (found,) = evaluate.run(None, {picture.name: np.zeros(shape, np.uint8)})
        width = (len(found) - size) // 2
        if not np.array_equal(found, mirrored(size, max(width, 0))):
            raise UnsupportedError("pixels around the picture that are not mirrored ones")
        widths.add(width)
    return widths.pop()


def phases(factor: int, mode: str, a: float) -> Floats:
    """Weights ``[factor, 5]`` of the pixels around one, for each of its enlarged pixels.

    Parameters
    ----------
    mode
        ``"cubic"`` or ``"linear"``.
    a
        Parameter of the cubic kernel.

    >>> phases(2, "linear", 0).tolist()
    [[0.0, 0.25, 0.75, 0.0, 0.0], [0.0, 0.0, 0.75, 0.25, 0.0]]
    """
    positions = (np.arange(factor) + 0.5) / factor - 0.5
    distance = np.abs(positions[:, None] - np.arange(-_REACH, _REACH + 1))
    if mode == "linear":
        return (1 - distance).clip(min=0)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def ungrouped(weights: NDArray[np.int8], groups: int) -> NDArray[np.int8]:
    """Weights of a grouped convolution as those of one without groups: zeros between groups."""
    if groups == 1:
        return weights
    outputs, inputs, *size = weights.shape
    whole = np.zeros((groups, outputs // groups, groups, inputs, *size), np.int8)
    for group, part in enumerate(np.split(weights, groups)):
        whole[group, :, group] = part
    return whole.reshape(outputs, groups * inputs, *size)
