"""From a simplified ONNX graph to the nodes of an imported network."""

import re
from typing import Any

import numpy as np

from sr_quant_cli.modelfiles.onnx_graph import Array, Graph, Op
from sr_quant_cli.networks.imported import GIVEN
from sr_quant_cli.networks.nodes import Node, Numbers, Operand, Weights
from sr_quant_cli.networks.operations import WEIGHTED

_NUMBERS = ("Resize", "Upsample", "Pad", "Clip", "Pow", "ConstantOfShape")
"""operations that take constants as numbers"""
_NORMALIZATIONS = (
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
)  # fmt: skip
"""operations whose constants are weights, however few"""
_FEW = 64


def nodes_of(graph: Graph) -> tuple[list[Node], dict[str, Array]]:
    """Nodes of a graph, and the tensors of their layers."""
    values, layers = _Names(), _Names()
    names = {graph.given.name: GIVEN}
    values.take(GIVEN)
    nodes: list[Node] = []
    state: dict[str, Array] = {}
    for op in graph.ops:
        name = layers.take(_label(op, graph))
        gives = []
        for place, output in enumerate(op.outputs):
            names[output] = values.take(name if len(op.outputs) == 1 else f"{name}_{place}")
            gives.append(names[output])
        operands: list[Operand] = []
        for place, value in enumerate(op.inputs):
            array = graph.constant(value) if value else None
            if array is None:
                operands.append(names[value] if value else None)
                continue
            parameters = WEIGHTED.get(op.op, ())
            if op.op == "PRelu" and place == 1:
                array = _slopes(array)
                parameters = parameters if array.ndim == 1 else ()
            always = 0 < place <= len(parameters) or op.op in _NORMALIZATIONS
            operand = _operand(op, place, array, always=always)
            if isinstance(operand, Weights):
                if not np.isfinite(array.astype(np.float64)).all():
                    raise ValueError(f"{name} has weights that are no finite numbers")
                key = parameters[place - 1] if 0 < place <= len(parameters) else f"operand{place}"
                state[f"layers.{name}.{key}"] = array
            operands.append(operand)
        while operands and operands[-1] is None:
            operands.pop()
        attributes = {key: _plain(value) for key, value in op.attributes.items()}
        nodes.append(
            Node(name=name, op=op.op, operands=operands, gives=gives, attributes=attributes)
        )
    graph.result = names[graph.result]
    return nodes, state


def _slopes(array: Array) -> Array:
    """Slopes of PRelu: ``[1]`` or ``[C]``, or others with at least two dimensions."""
    lead = (1,) * (4 - array.ndim) + array.shape
    per_channel = lead == (1, lead[1], 1, 1)
    return array.reshape(-1) if per_channel else np.atleast_2d(array)


def _operand(op: Op, place: int, array: Array, *, always: bool) -> Operand:
    """A constant operand as numbers if it is small, else as weights."""
    integer = array.dtype.kind in "iub"
    listed = op.op in _NUMBERS or (op.op == "Concat" and array.ndim == 1)
    few = array.size <= (_FEW if integer or listed else 1)
    if few and not always:
        if not np.isfinite(array.astype(np.float64)).all():
            return None  # a bound that is none
        numbers = [int(x) if integer else float(x) for x in array.ravel()]
        return Numbers(numbers=numbers, shape=list(array.shape))
    return Weights(weights=list(array.shape), integer=integer)


def _plain(value: Any) -> Any:
    """Attribute as a number, a text or a list of numbers."""
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim and value.size > 1 else value.ravel()[0].item()
    return value


class _Names:
    """Names that are unique, and fit a path."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_")[-60:].strip("_") or "value"
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


def _label(op: Op, graph: Graph) -> str:
    """Name for the layer of an operation: that of its weights, or of the exporter, or its own."""
    named = re.fullmatch(r"(.+)\.weight", op.inputs[1]) if len(op.inputs) > 1 else None
    if named and op.op in WEIGHTED:
        return named[1]
    label = re.sub(r"^node_", "", op.label)
    parts = [part for part in label.split("/") if part]
    if parts and parts[-1].startswith(op.op) and len(parts) > 1:
        return "_".join(parts[:-1]) if op.op in WEIGHTED else "_".join(parts)
    return label or op.op.lower()
