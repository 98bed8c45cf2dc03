"""ONNX graphs in a form that is easily changed, with what is constant computed."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from sr_quant_cli.errors import UsageError, first_line
from sr_quant_cli.networks.operations import known_operations

Array = NDArray[Any]

_SIMPLIFIED = ("Constant", "Dropout")
"""operations that no network of srq needs"""
_MOST_OPERATIONS = 10_000
_MOST_VALUES = 2**24
"""limit of a constant that is computed"""
_MOST_BYTES = 2**31
"""Limit of an ONNX file, as of protobuf."""


@dataclass(eq=False)
class Op:
    """A node of a graph that is being simplified."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    """name that the exporter gave it"""


@dataclass(frozen=True)
class Interface:
    """Input of a graph: its name, shape (None: free) and type of ONNX."""

    name: str
    shape: tuple[int | None, ...]
    type: int


class Graph:
    """A graph with constants apart.

    Attributes
    ----------
    ops
        In the order of computation.
    constants
        Arrays by the names of their values.
    given, result
        Input, and name of the output.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.constants: dict[str, Array] = {
            x.name: numpy_helper.to_array(x) for x in graph.initializer
        }
        inputs = [x for x in graph.input if x.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise UsageError(
                f"it has {len(inputs)} inputs and {len(graph.output)} outputs; must be one picture "
                "in and one out"
            )
        kind = inputs[0].type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        self.given = Interface(inputs[0].name, tuple(sizes), kind.elem_type)
        self.result = graph.output[0].name
        self.ops: list[Op] = []
        if len(graph.node) > _MOST_OPERATIONS:
            raise UsageError(f"it has more than {_MOST_OPERATIONS:,} operations")
        version = max((x.version for x in model.opset_import if not x.domain), default=1)
        for node in graph.node:
            attributes = {a.name: _attribute(node, a) for a in node.attribute}
            if node.op_type == "Resize" and version < 11:
                node.op_type = "Upsample"
            self._append(node, attributes)
        self._names = len(self.ops)
        self._check_order()

    def _check_order(self) -> None:
        made = {self.given.name, *self.constants}
        for op in self.ops:
            for name in filter(None, op.inputs):
                if name not in made:
                    raise UsageError(f"{op.op} reads {name}, which nothing before it makes")
            if made.intersection(op.outputs):
                raise UsageError(f"{op.op} makes {op.outputs[0]}, which is there already")
            made.update(op.outputs)
        if self.result not in made:
            raise UsageError(f"nothing makes its output {self.result}")

    def _append(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        """Add a node; one whose operands are constant becomes a constant."""
        if node.op_type == "Constant":
            (value,) = attributes.values()
            self.constants[node.output[0]] = np.asarray(value)
            return
        if node.domain not in ("", "ai.onnx"):
            raise UsageError(f"srq does not know the operation {node.domain}.{node.op_type}")
        if node.op_type not in ("Shape", "Size", *known_operations(), *_SIMPLIFIED):
            near = ", ".join(_nearest(node.op_type))
            more = f"; the nearest that it knows: {near}" if near else ""
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                more = ": the graph is quantized; import the one it was made from"
            raise UsageError(f"srq does not know the operation {node.op_type}{more}")
        if all(name in self.constants for name in node.input if name):
            given = {name: self.constants[name] for name in node.input if name}
            if _size_of(node.op_type, [*given.values()]) > _MOST_VALUES:
                raise UsageError(f"{node.op_type} of constants: its result is too large")
            try:
                results = ReferenceEvaluator(node).run(None, given)
            except Exception as error:  # of several kinds
                raise UsageError(
                    f"{node.op_type} of constants cannot be computed: {first_line(error)}"
                ) from error
            self.constants |= dict(zip(node.output, map(np.asarray, results), strict=True))
            return
        outputs = [name for name in node.output if name]
        if node.op_type == "Split":
            if len(node.input) < 2 and "split" not in attributes:
                attributes["num_outputs"] = len(outputs)
        elif node.op_type != "Dropout":
            outputs = outputs[:1]  # the others are of training, or places of the largest values
        self.ops.append(Op(node.op_type, list(node.input), outputs, attributes, node.name))

    # Questions

    def readers(self) -> Counter[str]:
        """Numbers of operations that read a value."""
        read = Counter(name for op in self.ops for name in {*op.inputs})
        read[self.result] += 1
        return read

    def makers(self) -> dict[str, Op]:
        """Operations by the names of their results."""
        return {name: op for op in self.ops for name in op.outputs}

    def sizes(self) -> set[str]:
        """Names of values that follow from shapes alone."""
        found: set[str] = set()
        for op in self.ops:
            known = all(name in found or name in self.constants for name in op.inputs if name)
            if op.op in ("Shape", "Size") or (known and op.op not in ("ConstantOfShape", "Range")):
                found.update(op.outputs)
        return found

    def constant(self, name: str) -> Array | None:
        """Array of a constant; None: the value is none."""
        return self.constants.get(name)

    def add_constant(self, array: Array) -> str:
        """Name a new constant."""
        self._names += 1
        name = f"constant.{self._names}"
        self.constants[name] = np.asarray(array)
        return name

    def pass_on(self, op: Op, value: str) -> None:
        """Remove an operation; its readers read another value instead."""
        self.ops.remove(op)
        (old,) = op.outputs
        for other in self.ops:
            other.inputs = [value if name == old else name for name in other.inputs]
        if self.result == old:
            self.result = value

    def without_unused(self) -> None:
        """Remove operations that the result does not depend on."""
        needed = {self.result}
        kept = []
        for op in reversed(self.ops):
            if needed & {*op.outputs}:
                needed.update(op.inputs)
                kept.append(op)
        self.ops = kept[::-1]


def read_graph(path: Path) -> Graph:
    """Read the graph of a file.

    Raises
    ------
    UsageError
        It is no ONNX file of one picture in and one out, or has an operation that srq lacks.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise UsageError(f"{path} is larger than an ONNX file can be")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's errors are of several kinds
        raise UsageError(f"{path} is no readable ONNX file: {first_line(error)}") from error
    try:
        graph = Graph(model)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # a graph that is none
        raise UsageError(f"{path} is no valid ONNX graph: {first_line(error)}") from error
    return graph


def _attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Any:
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        raise UsageError(
            f"{node.op_type} has a graph of its own: export the network in evaluation mode, for "
            "one kind of input"
        )
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return list(value) if not isinstance(value, int | float | str) else value


def _nearest(name: str) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, known_operations(), n=3, cutoff=0.5)


def _size_of(op: str, operands: list[Array]) -> float:
    """Values that an operation makes of constants, which may be far more than it reads."""
    most = float(max((array.size for array in operands), default=1))
    if op == "ConstantOfShape":
        return float(np.prod(operands[0].astype(float)))
    if op in ("Expand", "Tile", "Resize", "Upsample") and len(operands) > 1:
        return operands[0].size * float(np.prod(np.abs(operands[-1].astype(float))))
    if op == "Pad" and len(operands) > 1:
        return operands[0].size * float(np.prod(1 + np.abs(operands[1].astype(float))))
    if op == "Range":
        start, end, step = (float(array) for array in operands)
        return abs(end - start) / abs(step) if step else 0.0
    return most
