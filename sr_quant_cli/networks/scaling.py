"""Channels of an imported network that may be scaled without changing its output.

A channel that a convolution writes may have any positive factor, if every convolution that reads it
divides by it. Between them the factor must pass through each operation:

=======================================  ======================================================
operation                                factors
=======================================  ======================================================
ReLU, LeakyReLU, PReLU, pooling,         pass
resizing, sums over height and width
products with constants                  pass
additions, maxima                        are the same on both sides
products, as with the gate of attention  pass from one operand, if the other has none
powers, roots                            are raised
concatenations, splits, PixelShuffles    move with their channels
all others                               none: the channels stay as they are
=======================================  ======================================================

Channels that must have the same factor are a group (union-find).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise

from sr_quant_cli.networks.nodes import Node, Numbers
from sr_quant_cli.quant.sites import ChannelGroups

_Channel = tuple[int, float]
"""Group of a channel, and the power of the group's factor that the channel has."""

_FIXED: _Channel = (0, 1.0)
_PASS = (
    "Abs", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool",
    "Neg", "PRelu", "Relu", "Resize", "Upsample",
)  # fmt: skip
_SIZES = ("Shape", "Size")
"""operations that look at the size of a feature map alone"""


def channel_groups(
    nodes: Sequence[Node], result: str, channels: Mapping[str, int], tensors: Iterable[str]
) -> ChannelGroups:
    """Find the groups of all channels; paths are those of ``Imported``.

    Parameters
    ----------
    nodes
        In the order of computation.
    result
        Name of the output value.
    channels
        Number of channels of every feature map but the input.
    tensors
        Names of the values that pass a module of their own.
    """
    return _Search(nodes, result, channels).groups(tensors)


class _Search:
    def __init__(self, nodes: Sequence[Node], result: str, channels: Mapping[str, int]) -> None:
        self._nodes, self._counts = nodes, channels
        self._parent = [0]
        self._at: dict[str, list[_Channel]] = {}
        for node in nodes:
            self._visit(node)
        self._fix(self._at[result])

    def groups(self, tensors: Iterable[str]) -> ChannelGroups:
        """Groups at convolutions and at tensors whose channels have the factors themselves."""

        def roots(channels: Iterable[_Channel]) -> tuple[int, ...]:
            return tuple(self._root(group) for group, _ in channels)

        convolutions = [node for node in self._nodes if node.op == "Conv"]
        found = {value: self._at[value] for value in tensors}
        return ChannelGroups(
            written={_path(node): roots(self._at[node.gives[0]]) for node in convolutions},
            read={_path(node): roots(self._read(node)) for node in convolutions},
            passed={
                f"tensors.{value}": roots(channels)
                for value, channels in found.items()
                if all(power == 1 for _, power in channels)
            },
        )

    def _visit(self, node: Node) -> None:
        """Follow the channels of a node's operands to its results."""
        counts = [self._counts.get(value, 0) for value in node.gives]
        if node.op in _SIZES:
            return
        if node.op == "Conv":
            self._fix(channel for channel in self._read(node) if channel[1] != 1)
            self._at[node.gives[0]] = self._new(counts[0])
            return
        operands = [self._at[value] for value in node.values if value in self._at]
        made = self._follow(node, operands, counts) if operands else None
        if made is None or [len(channels) for channels in made] != counts:
            for channels in operands:
                self._fix(channels)
            made = [[_FIXED] * count for count in counts]
        self._at |= dict(zip(node.gives, made, strict=True))

    def _follow(
        self, node: Node, operands: list[list[_Channel]], counts: list[int]
    ) -> list[list[_Channel]] | None:
        """Channels of the results; None: the operation does not pass factors on.

        Parameters
        ----------
        operands
            Channels of the feature maps that it reads, each map once.
        counts
            Numbers of channels of the results.
        """
        first = operands[0]
        whole = len(operands) == len(node.operands)
        if node.op in _PASS or (node.op == "Pad" and _pads_with_itself(node)):
            return [first]
        if node.op in ("ReduceSum", "ReduceMean", "ReduceMax"):
            return [first] if _over_pixels(node) else None
        if node.op in ("Add", "Sub", "Max", "Min") and whole:
            return [self._same(operands)]
        if node.op in ("Mul", "Div"):
            return self._product(node, operands)
        if node.op in ("Pow", "Sqrt"):
            power = _exponent(node)
            return None if power is None else [[(group, power * p) for group, p in first]]
        if node.op == "Concat" and node.attribute("axis") in (1, -3) and whole:
            return [[channel for channels in operands for channel in channels]]
        if node.op == "Split" and node.attribute("axis", 0) in (1, -3):
            return [first[start:end] for start, end in pairwise(accumulate([0, *counts]))]
        if node.op == "DepthToSpace" and node.attribute("mode", "DCR") == "CRD":
            area = node.attribute("blocksize") ** 2
            return [self._same([first[place::area] for place in range(area)])]
        return None

    def _product(self, node: Node, operands: list[list[_Channel]]) -> list[list[_Channel]] | None:
        """Channels of a product or quotient, whose one operand must have no factor."""
        scaled, *others = operands
        if node.op == "Div" and node.operands[0] != node.values[0]:
            return None  # a constant, divided
        if others and node.op == "Mul" and self._is_fixed(scaled):
            scaled, others = others[0], [scaled]
        if not others and node.operands.count(node.values[0]) == 2:
            return [[(group, 2 * power) for group, power in scaled]] if node.op == "Mul" else None
        for channels in others:
            self._fix(channels)
        return [scaled]

    def _read(self, convolution: Node) -> list[_Channel]:
        """Channels that a convolution reads; those of the picture are fixed."""
        _, per_group, *_ = convolution.shape_of(1) or [0, 0]
        count = per_group * convolution.attribute("group", 1)
        return self._at.get(convolution.values[0], [_FIXED] * count)

    # Union-find; the group 0 has the factor 1

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            self._parent[group] = self._parent[self._parent[group]]
            group = self._parent[group]
        return group

    def _new(self, count: int) -> list[_Channel]:
        start = len(self._parent)
        self._parent += range(start, start + count)
        return [(group, 1.0) for group in range(start, start + count)]

    def _fix(self, channels: Iterable[_Channel]) -> None:
        for group, _ in channels:
            self._parent[self._root(group)] = 0

    def _is_fixed(self, channels: Iterable[_Channel]) -> bool:
        return all(self._root(group) == 0 for group, _ in channels)

    def _same(self, operands: Sequence[list[_Channel]]) -> list[_Channel]:
        """Join the channels of several feature maps, which must be as many."""
        first, *others = operands
        for other in others:
            if len(first) != len(other):
                return []
            for (one, power), (two, other_power) in zip(first, other, strict=True):
                if power != other_power:
                    self._fix([(one, power), (two, other_power)])
                # The smaller number, so that fixed channels stay in group 0.
                low, high = sorted((self._root(one), self._root(two)))
                self._parent[high] = low
        return first


def _path(node: Node) -> str:
    return f"layers.{node.name}"


def _numbers(node: Node, place: int, attribute: str) -> list[int | float] | None:
    """Constant numbers of an operand or, in old files, of an attribute; None: there are none."""
    operand = node.operands[place] if place < len(node.operands) else None
    return operand.numbers if isinstance(operand, Numbers) else node.attribute(attribute)


def _over_pixels(node: Node) -> bool:
    """True for a reduction over height and width, which keeps their dimensions."""
    axes = _numbers(node, 1, "axes") or [1]
    return all(axis in (2, 3, -1, -2) for axis in axes) and bool(node.attribute("keepdims", 1))


def _pads_with_itself(node: Node) -> bool:
    """True for a padding of height and width by pixels of the feature map, or by zero."""
    pads, value = _numbers(node, 1, "pads"), _numbers(node, 2, "value") or [0]
    mode = node.attribute("mode", "constant")
    sides = pads is not None and len(pads) == 8 and not any(pads[side] for side in (0, 1, 4, 5))
    return sides and (mode != "constant" or value in ([0], 0))


def _exponent(node: Node) -> float | None:
    if node.op == "Sqrt":
        return 0.5
    numbers = _numbers(node, 1, "exponent")
    return float(numbers[0]) if numbers is not None and len(numbers) == 1 else None
