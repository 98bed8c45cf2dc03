"""Tracing a network to find what reads the outputs of its modules."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from sr_quant_cli.errors import FailedError, first_line
from sr_quant_cli.networks.layers import Crop, Denormalize, Leaf, Trim
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul, QuantTensor
from sr_quant_cli.quant.quantizers import Quantizer


def followed_by(
    network: nn.Module, convolutions: tuple[type[nn.Module], ...], reader: type[nn.Module]
) -> list[tuple[str, str]]:
    """Find convolutions whose only reader is a module of the given type; paths of both."""

    def is_a(node: fx.Node, types: type | tuple[type, ...]) -> bool:
        called = node.op == "call_module"
        return called and isinstance(network.get_submodule(str(node.target)), types)

    pairs = []
    for node in trace(network).nodes:
        if is_a(node, reader):
            (before,) = node.all_input_nodes
            if len(before.users) == 1 and is_a(before, convolutions):
                pairs.append((str(before.target), str(node.target)))
    return pairs


@dataclass(frozen=True)
class OutputStage:
    """End of a network by paths: a convolution, PixelShuffles, ``Denormalize``."""

    convolution: str
    enlargement: int
    denormalize: str


def output_stage(
    network: nn.Module, convolutions: tuple[type[nn.Module], ...]
) -> OutputStage | None:
    """Find the last convolution; None if the network ends in another way.

    Parameters
    ----------
    convolutions
        Types that count as a convolution.
    """
    graph = trace(network)
    (output,) = (node for node in graph.nodes if node.op == "output")
    behind: list[str] = []
    node = output.args[0]
    while isinstance(node, fx.Node) and node.op == "call_module":
        path = str(node.target)
        if isinstance(network.get_submodule(path), convolutions):
            modules = modules_at(network, behind)
            if not behind or not isinstance(modules[0], Denormalize):
                return None
            return OutputStage(path, enlargement_of(modules), behind[0])
        if not isinstance(network.get_submodule(path), _PASSED):
            return None
        if not isinstance(network.get_submodule(path), Trim):
            behind.append(path)
        node = node.args[0]
    return None


_PASSED = (Denormalize, Crop, Trim, nn.PixelShuffle, nn.Identity)


@dataclass(frozen=True)
class Link:
    """Paths of a convolution and its only reader."""

    producer: str
    consumer: str
    relu: bool
    """a ReLU stands between them"""
    enlargement: int
    """factor of the PixelShuffles between them"""
    always: bool = True
    """True if the two follow each other at every use of either"""


def links(
    network: nn.Module,
    producers: tuple[type[nn.Module], ...],
    consumers: tuple[type[nn.Module], ...],
) -> list[Link]:
    """Find convolutions and their only readers, through nothing but ReLUs and PixelShuffles."""

    def module(node: fx.Node) -> nn.Module | None:
        called = node.op == "call_module"
        return network.get_submodule(str(node.target)) if called else None

    nodes = trace(network).nodes
    uses = Counter(str(node.target) for node in nodes if node.op == "call_module")
    found: Counter[tuple[str, str, bool, int]] = Counter()
    for consumer in nodes:
        if not isinstance(module(consumer), consumers):
            continue
        relu, enlargement, node = False, 1, consumer
        while len(node.all_input_nodes) == 1:
            (node,) = node.all_input_nodes
            passed = module(node)
            if len(node.users) > 1:
                break
            if isinstance(passed, producers):
                found[str(node.target), str(consumer.target), relu, enlargement] += 1
                break
            if isinstance(passed, nn.PixelShuffle):
                enlargement *= passed.upscale_factor
            elif isinstance(passed, nn.ReLU) or node.target in _RELUS:
                relu = True
            elif not isinstance(passed, nn.Identity):
                break
    return [
        Link(before, behind, relu, enlargement, always=count == uses[before] == uses[behind])
        for (before, behind, relu, enlargement), count in found.items()
    ]


_RELUS = ("relu", "relu_", torch.relu, torch.relu_, nn.functional.relu)


_WHOLE = (Leaf, Quantizer, QuantConv2d, QuantLinear, QuantMatMul, QuantTensor)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _WHOLE) or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module) -> fx.Graph:
    """Trace a network's forward pass down to torch's own modules, quantized layers and `Leaf`s.

    Raises
    ------
    FailedError
        A module cannot be traced, for example because it branches on a tensor's size.
    """
    try:
        return _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise FailedError(
            f"{type(network).__name__} cannot be traced ({first_line(error)}): derive the module "
            "that does this from sr_quant_cli.networks.layers.Leaf, which is taken as a whole"
        ) from error


def enlargement_of(chain: Sequence[nn.Module]) -> int:
    """Compute the enlargement factor of a chain of modules."""
    scale = 1
    for module in chain:
        if isinstance(module, nn.PixelShuffle):
            scale *= module.upscale_factor
        elif isinstance(module, nn.ConvTranspose2d):
            scale *= module.stride[0]
    return scale


def modules_at(network: nn.Module, paths: Sequence[str]) -> list[nn.Module]:
    """Look up the modules at some paths, in order."""
    return [network.get_submodule(path) for path in paths]
