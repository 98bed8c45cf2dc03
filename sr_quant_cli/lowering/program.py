"""One symbolic trace of a network, in the form that torch.onnx translates.

``torch.onnx.export`` traces twice: once to capture the network, and once more to decompose
operations that it has no translation for. With free sizes the second trace takes twice as long as
the first, even if there is nothing to decompose. Here it runs only where it changes something.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

Decompositions = Mapping[Any, Callable[..., Any]]


def trace(module: nn.Module, example: Tensor, free: Mapping[int, Dim]) -> ExportedProgram:
    """Capture a module of one argument ``x`` whose sizes in the dimensions ``free`` vary."""
    # As in torch.onnx.export: sizes may be 1, and what they must fulfil is not checked.
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            module,
            (example,),
            dynamic_shapes={"x": dict(free)},
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def without_decomposition(program: ExportedProgram) -> ExportedProgram:
    """Copy a program; the copy is decomposed only if that changes it."""
    quick = copy(program)
    quick._graph_module = deepcopy(program.graph_module)
    make_functional(quick.graph_module)

    def run_decompositions(table: Decompositions | None = None) -> ExportedProgram:
        return quick if is_plain(quick.graph_module, table or {}) else decompose(table)

    decompose = program.run_decompositions
    quick.run_decompositions = run_decompositions
    return quick


def is_plain(graph: fx.GraphModule, table: Decompositions) -> bool:
    """True if no operation changes a tensor, holds a graph of its own, or is to be decomposed."""
    return not any(
        isinstance(target, HigherOrderOperator)
        or (isinstance(target, OpOverload) and (target._schema.is_mutable or target in table))
        for target in (node.target for node in _calls(graph))
    )


def make_functional(graph: fx.GraphModule) -> None:
    """Give operations that overwrite a tensor a result of their own, where nobody can tell."""
    place = {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in _calls(graph):
        target = node.target
        if not isinstance(target, OpOverload) or not target._schema.is_mutable:
            continue
        written = _written(node, target)
        functional = _functional(target)
        if functional is None or written is None or not _is_fresh(written):
            continue
        others = (user for user in written.users if user is not node)
        if any(place[user] > place[node] or not _copies(user) for user in others):
            continue
        node.target = functional
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    graph.recompile()


def _calls(graph: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in graph.graph.nodes if node.op == "call_function")


def _written(node: fx.Node, target: OpOverload) -> fx.Node | None:
    """Find the tensor that an operation overwrites: its first argument, or ``out``."""
    out = node.kwargs.get("out") if target._overloadname == "out" else node.args[0]
    return out if isinstance(out, fx.Node) else None


def _functional(target: OpOverload) -> OpOverload | None:
    """Find the operation with the same result that overwrites nothing."""
    name, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    if overload == "out":
        overload = "default"
    elif not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    found: OpOverload | None = getattr(packet, overload, None)
    return found


def _is_fresh(node: fx.Node) -> bool:
    """True if the result of a call is a tensor of its own."""
    return node.op == "call_function" and _copies(node)


def _copies(node: fx.Node) -> bool:
    """True if no result of a node shares memory with its arguments."""
    if not isinstance(node.target, OpOverload):
        return False
    return not any(result.alias_info for result in node.target._schema.returns)
