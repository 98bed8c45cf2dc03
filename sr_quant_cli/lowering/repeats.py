"""Repeated blocks of a network, which are traced and translated once.

Tracing takes time for every operation, and networks are mostly repetitions of one block. Here the
first block of each kind is traced in its place between the markers ``Enter`` and ``Leave``. The
others become a node ``Repeat``, which is replaced by a copy of the first one's nodes with the
weights of the block that it stands for.
"""

import marshal
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from types import FunctionType
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

_DOMAIN = "srq"
_ENTER, _LEAVE, _REPEAT = "Enter", "Leave", "Repeat"
_OWN = frozenset(vars(nn.Module()))
"""attributes that every module has"""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class UnrepeatableError(Exception):
    """The nodes of a block cannot be copied."""


@dataclass
class _Kind:
    """Blocks that differ in their weights alone."""

    first: str = ""
    """path of the block that is traced; empty before"""
    shapes: list[torch.Size] = field(default_factory=list)
    """shapes of its inputs"""
    keeps_shape: bool = False
    """True if its output has the shape and type of its first input"""


class _Stand:
    """Stands for the ``forward`` of a block while the network is traced."""

    def __init__(self, forward: Callable[..., Any], path: str, kind: _Kind) -> None:
        self.forward, self.path, self.kind = forward, path, kind

    def __call__(self, *inputs: Any) -> Any:
        """Trace the block, or leave a node ``Repeat`` if one of its kind was traced."""
        kind = self.kind
        if not all(isinstance(x, Tensor) for x in inputs):
            return self.forward(*inputs)
        shapes = [x.shape for x in inputs]
        if kind.first:
            if not kind.keeps_shape or shapes != kind.shapes:
                return self.forward(*inputs)
            return _marked(_REPEAT, inputs, inputs[0], block=self.path, first=kind.first)
        kind.first, kind.shapes = self.path, shapes
        entered = [
            _marked(_ENTER, [x], x, block=self.path, place=place) for place, x in enumerate(inputs)
        ]
        y = self.forward(*entered)
        kind.keeps_shape = (
            isinstance(y, Tensor) and y.shape == inputs[0].shape and y.dtype == inputs[0].dtype
        )
        return _marked(_LEAVE, [y], y, block=self.path) if kind.keeps_shape else y


def stand_in(module: nn.Module) -> None:
    """Prepare a module for a trace that enters only one block of each kind, in place.

    Blocks are of one kind if their modules and attributes are equal, and the shapes of their
    tensors. Modules without children are no blocks.
    """
    uses = _uses(module)
    blocks = {
        path: (block, signature)
        for path, block in module.named_modules()
        if path
        and len(list(block.children()))
        and _uses(block).items() <= uses.items()  # no tensor is elsewhere, too
        and (signature := _signature(block)) is not None
    }
    counts = Counter(signature for _, signature in blocks.values())
    kinds: dict[bytes, _Kind] = {}
    for path, (block, signature) in blocks.items():
        if counts[signature] > 1:
            kind = kinds.setdefault(signature, _Kind())
            block.forward = _Stand(block.forward, path, kind)


def enter_all(module: nn.Module) -> None:
    """Undo ``stand_in``, in place."""
    for block in module.modules():
        if isinstance(block.forward, _Stand):
            del block.forward


def copy_repeats(graph: ir.Graph, module: nn.Module) -> None:
    """Replace each node ``Repeat`` by a copy of the block that it repeats, and drop the markers.

    Parameters
    ----------
    module
        What was traced; weights come from it.

    Raises
    ------
    UnrepeatableError
        A block contains a graph of its own.
    """
    weights: dict[str, Tensor] = dict(module.named_buffers(remove_duplicate=False))
    weights.update(module.named_parameters(remove_duplicate=False))
    leaves = {_text(node, "block"): node for node in _markers(graph, _LEAVE)}
    bodies: dict[str, list[ir.Node]] = {}
    for number, node in enumerate(_markers(graph, _REPEAT)):
        first = _text(node, "first")
        # Repetitions inside the first block come before, and are copied already.
        if first not in bodies:
            bodies[first] = list(_body(graph, leaves[first], first))
        _copy(graph, node, f"{number}", bodies[first], leaves[first], weights)
    for node in [*_markers(graph, _ENTER), *_markers(graph, _LEAVE)]:
        (read,) = node.inputs
        assert read is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], read, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _marked(kind: str, inputs: Any, like: Tensor, **attributes: Any) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{_DOMAIN}::{kind}", list(inputs), attributes, dtype=like.dtype, shape=like.shape
    )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    """Yield parameters and buffers of a module itself, the missing ones, too."""
    yield from module._parameters.items()
    yield from module._buffers.items()


def _uses(module: nn.Module) -> Counter[int]:
    """Count the places of a module at which each tensor is."""
    parts = (part for _, part in module.named_modules(remove_duplicate=False))
    return Counter(id(x) for part in parts for _, x in _tensors(part) if x is not None)


def _signature(module: nn.Module) -> bytes | None:
    """Describe everything of a module but the values of its weights; None: it cannot be told."""
    parts: list[Any] = []
    first: dict[int, tuple[str, str]] = {}
    for path, part in module.named_modules():
        if any(getattr(part, hooks) for hooks in _HOOKS):
            return None
        attributes = {name: value for name, value in vars(part).items() if name not in _OWN}
        # Two names of one tensor are names of one tensor in all blocks of a kind.
        tensors = [
            (name, x if x is None else (x.shape, x.dtype, first.setdefault(id(x), (path, name))))
            for name, x in _tensors(part)
        ]
        parts.append((path, type(part), part.training, attributes, tensors))
    content = BytesIO()
    try:
        _Pickler(content).dump(parts)
    except Exception:  # of whatever an attribute is
        return None
    return content.getvalue()


class _Pickler(pickle.Pickler):
    """Describes functions by their code and what they enclose; pickle refuses lambdas."""

    def reducer_override(self, given: Any) -> Any:
        if not isinstance(given, FunctionType):
            return NotImplemented
        enclosed = [cell.cell_contents for cell in given.__closure__ or ()]
        defaults = (given.__defaults__, given.__kwdefaults__)
        return list, ([marshal.dumps(given.__code__), enclosed, *defaults],)


def _markers(graph: ir.Graph, kind: str) -> Iterator[ir.Node]:
    return (node for node in list(graph) if node.domain == _DOMAIN and node.op_type == kind)


def _text(node: ir.Node, name: str) -> str:
    return node.attributes[name].as_string()


def _own(value: ir.Value, block: str) -> bool:
    """True for a weight of a block."""
    return value.is_initializer() and str(value.name).startswith(f"{block}.")


def _body(graph: ir.Graph, leave: ir.Node, block: str) -> Iterator[ir.Node]:
    """Yield the nodes of a block, in order: those that depend on its inputs or weights."""
    inside: set[ir.Value] = set()
    for node in graph:
        if node is leave:
            return
        if _is_enter(node, block):
            inside.update(node.outputs)
        elif any(x is not None and (x in inside or _own(x, block)) for x in node.inputs):
            inside.update(node.outputs)
            yield node


def _is_enter(node: ir.Node, block: str) -> bool:
    is_marker = node.domain == _DOMAIN and node.op_type == _ENTER
    return is_marker and _text(node, "block") == block


def _copy(
    graph: ir.Graph,
    repeat: ir.Node,
    suffix: str,
    body: list[ir.Node],
    leave: ir.Node,
    weights: Mapping[str, Tensor],
) -> None:
    block, first = _text(repeat, "block"), _text(repeat, "first")
    copies: dict[ir.Value, ir.Value | None] = {}

    def copied(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in copies:
            return value if value is None else copies[value]
        producer = value.producer()
        if producer is not None and _is_enter(producer, first):
            return repeat.inputs[producer.attributes["place"].as_int()]
        if not _own(value, first):
            return value
        name = f"{block}.{str(value.name).removeprefix(f'{first}.')}"
        if name not in graph.initializers:
            graph.register_initializer(
                ir.Value(
                    name=name,
                    shape=value.shape,
                    type=value.type,
                    const_value=TorchTensor(weights[name].detach(), name),
                )
            )
        return graph.initializers[name]

    for node in body:
        if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
            raise UnrepeatableError(f"{node.op_type} contains a graph")
        outputs = [
            ir.Value(name=f"{value.name}/{suffix}", shape=value.shape, type=value.type)
            for value in node.outputs
        ]
        new = ir.Node(
            node.domain,
            node.op_type,
            [copied(value) for value in node.inputs],
            node.attributes.values(),
            overload=node.overload,
            outputs=outputs,
            version=node.version,
            name=f"{node.name}/{suffix}",
        )
        copies.update(zip(node.outputs, outputs, strict=True))
        graph.insert_before(repeat, new)
    result = copied(leave.inputs[0])
    assert result is not None
    ir.convenience.replace_all_uses_with(repeat.outputs[0], result, replace_graph_outputs=True)
    graph.remove(repeat, safe=True)
