"""Constants of a graph for 8-bit pixels, whose output does not show that they are no numbers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx.numpy_helper import to_array

from sr_quant_cli.errors import UsageError


def check_constants(path: Path) -> None:
    """Refuse an ONNX file with a constant that is not a number.

    Quantization turns NaN into a level, so the picture would be wrong without a sign. Infinity is
    no error in itself: masks of attention have it.

    Raises
    ------
    UsageError
        With the name of the constant.
    """
    for name, tensor in _tensors(onnx.load(path).graph):
        values = to_array(tensor)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise UsageError(f"{path}: its constant '{name}' is not a number")


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield node.name or node.output[0], attribute.t
