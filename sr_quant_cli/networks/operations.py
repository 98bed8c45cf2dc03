"""Layers that compute the operations of imported networks.

Operations that are a module of torch become one, so that quantization, folding and tracing treat
them as those of the built-in networks. All others are a function of their operands.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from sr_quant_cli.networks.functions import FUNCTIONS, Value
from sr_quant_cli.networks.layers import Leaf, MatMul
from sr_quant_cli.networks.nodes import Node, Numbers, Weights


def make_layer(node: Node) -> nn.Module:
    """Make the layer of a node, with fresh weights.

    Raises
    ------
    ValueError
        The operation is unknown, or its operands are not those that it takes.
    """
    make = _LAYERS.get(node.op)
    layer = make(node) if make is not None else None
    if layer is not None:
        return layer
    if node.op not in FUNCTIONS:
        raise ValueError(f"{node.name}: unknown operation {node.op}")
    return Operation(node)


def known_operations() -> list[str]:
    """Names of all operations, sorted."""
    return sorted({*_LAYERS, *FUNCTIONS})


class Operation(Leaf):
    """An operation without a module of torch: a function of its operands and attributes.

    Its constant operands are buffers ``operand0``, ``operand1`` and so on.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.op = node.op
        self.attributes = dict(node.attributes)
        self.operands: list[Any] = []
        """arrays of constant numbers; names of buffers; ``...`` for values; None"""
        for place, operand in enumerate(node.operands):
            given: Any = ... if isinstance(operand, str) else None
            if isinstance(operand, Numbers):
                given = np.array(operand.numbers, dtype=object).reshape(operand.shape)
            elif isinstance(operand, Weights):
                given = f"operand{place}"
                dtype = torch.int64 if operand.integer else torch.float32
                self.register_buffer(given, torch.zeros(operand.weights, dtype=dtype))
            self.operands.append(given)

    def forward(self, *values: Value) -> Any:
        """Compute the result, or a tuple of them, from the operands that are values."""
        rest = iter(values)
        operands = [
            next(rest) if given is ... else getattr(self, given) if type(given) is str else given
            for given in self.operands
        ]
        return FUNCTIONS[self.op](*operands, **self.attributes)


# Layers with weights, and others that are modules of torch


def _kernel(node: Node) -> tuple[list[int], dict[str, Any]]:
    """Shape of a convolution's weights, and what both kinds of convolution take of a node.

    Raises
    ------
    ValueError
        The weights are not constant or not those of two dimensions, or the padding is uneven.
    """
    shape = node.shape_of(1)
    if shape is None or len(shape) != 4:
        raise ValueError(f"{node.name}: a convolution needs a constant kernel of two dimensions")
    top, left, bottom, right = node.attribute("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise ValueError(f"{node.name}: pads differ at opposite sides")
    return shape, {
        "kernel_size": tuple(shape[2:]),
        "stride": tuple(node.attribute("strides", [1, 1])),
        "padding": (top, left),
        "dilation": tuple(node.attribute("dilations", [1, 1])),
        "groups": node.attribute("group", 1),
        "bias": node.shape_of(2) is not None,
    }


def _conv(node: Node) -> nn.Module:
    (out, per_group, *_), how = _kernel(node)
    return nn.Conv2d(per_group * how["groups"], out, **how)


def _conv_transpose(node: Node) -> nn.Module:
    (given, per_group, *_), how = _kernel(node)
    more = tuple(node.attribute("output_padding", [0, 0]))
    return nn.ConvTranspose2d(given, per_group * how["groups"], output_padding=more, **how)


def _linear(node: Node) -> nn.Module:
    shape = node.shape_of(1)
    if shape is None or len(shape) != 2:
        raise ValueError(f"{node.name}: a linear layer needs a constant matrix")
    return nn.Linear(shape[1], shape[0], bias=node.shape_of(2) is not None)


def _prelu(node: Node) -> nn.Module | None:
    """One slope for all channels, or one for each."""
    shape = node.shape_of(1)
    return nn.PReLU(shape[0]) if shape is not None and len(shape) == 1 else None


def _shuffle(node: Node) -> nn.Module | None:
    if node.attribute("mode", "DCR") != "CRD":
        return None
    return nn.PixelShuffle(node.attribute("blocksize"))


_LAYERS: dict[str, Callable[[Node], nn.Module | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Linear": _linear,
    "MatMul": lambda node: MatMul() if len(node.values) == 2 else None,
    "Relu": lambda node: nn.ReLU(),
    "LeakyRelu": lambda node: nn.LeakyReLU(node.attribute("alpha", 0.01)),
    "PRelu": _prelu,
    "DepthToSpace": _shuffle,
    "Identity": lambda node: nn.Identity(),
}
"""Maker of the layer of an operation; it gives None where a function computes the operation."""

WEIGHTED = {"Conv": ("weight", "bias"), "ConvTranspose": ("weight", "bias"),
            "Linear": ("weight", "bias"), "PRelu": ("weight",)}  # fmt: skip
"""Names of the parameters at the operands 1, 2 of operations with a layer of torch."""
