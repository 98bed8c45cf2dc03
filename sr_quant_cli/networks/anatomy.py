"""Parts of an imported network, found in its nodes: sites, blocks, streams.

The networks of srq name their parts. Of an imported one they follow from what reads what:

===============  ==================================================================================
part             found as
===============  ==================================================================================
head             layers with weights that see nothing but the picture
tail             layers behind which nothing has weights
upsampler        layers in front of a PixelShuffle, and those at a higher resolution
block            what an addition bridges: from the value that is added to the addition
long skip        the addition that bridges more than half of the body's layers
fusion           convolutions of 1x1 that read a concatenation
===============  ==================================================================================

Values are quantized where operations without weights read them: both sides of an addition, parts of
a concatenation, inputs of activation functions that integer kernels do not include.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from sr_quant_cli.networks.nodes import Node, Numbers
from sr_quant_cli.networks.scaling import channel_groups
from sr_quant_cli.quant.sites import ChannelGroups, Kind, Site, Stream

LAYERS = ("Conv", "ConvTranspose", "Linear")
"""operations with weights that are quantized"""
ACTIVATIONS = (
    "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Gelu", "Swish", "HardSigmoid", "HardSwish", "Elu",
    "Selu", "Softplus", "Mish", "Clip",
)  # fmt: skip
"""activation functions other than ReLU"""
_POSITIVE = ("Relu", "Sigmoid", "Softmax", "HardSigmoid", "Softplus")
"""operations whose results are never negative"""
_PASS = (
    "Identity", "DepthToSpace", "SpaceToDepth", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool", "Split", "Slice", "Concat", "Reshape", "Transpose", "Flatten", "Squeeze",
    "Unsqueeze", "Expand", "Resize",
)  # fmt: skip
"""operations whose results lie between their operands"""
_ELEMENTWISE = ("Relu", "Identity", "Add", "Sub", "Mul", "Div")
_ON_CODES = (
    "Conv", "ConvTranspose", "Relu", "LeakyRelu", "PRelu", "Add", "Concat", "Split", "DepthToSpace",
    "Identity",
)  # fmt: skip
"""operations for which the values that they read are quantized"""
_BODY = ("block_first", "block", "fusion", "body_last", "linear")
"""kinds of layers in the body"""


@dataclass(frozen=True)
class Block:
    """What an addition bridges."""

    start: str
    """value that is added"""
    branch: str
    """value that it is added to"""
    end: str
    """name of the addition's layer"""
    layers: tuple[str, ...]
    """names of the layers with weights between, in the order of computation"""


class Anatomy:
    """Parts of a network of nodes.

    Parameters
    ----------
    nodes
        In the order of computation.
    given, result
        Names of the input and the output value.
    channels
        Channels of the operands of layers with weights, and of values that may be tensor sites.
    """

    def __init__(
        self, nodes: Sequence[Node], given: str, result: str, channels: dict[str, int]
    ) -> None:
        self.nodes = nodes
        self.given, self.result = given, result
        self._channels = channels
        self._by_name = {node.name: node for node in nodes}
        self.maker = {value: node for node in nodes for value in node.gives}
        self.readers: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            for value in node.values:
                self.readers[value].append(node)
        self._before = self._layers_before()
        self._enlarged = self._enlarged_values()
        self._behind = self._layers_behind()
        self.blocks = self._blocks()
        self._kinds = self._kinds_of_layers()
        self.tensors = self._tensors()

    # Which layers with weights lie before and behind a node

    def _layers_before(self) -> dict[str, frozenset[str]]:
        """Names of the layers that a value depends on."""
        before: dict[str, frozenset[str]] = {self.given: frozenset()}
        for node in self.nodes:
            own = {node.name} if node.op in LAYERS else set()
            seen = frozenset(own.union(*(before.get(value, ()) for value in node.values)))
            before |= dict.fromkeys(node.gives, seen)
        return before

    def _enlarged_values(self) -> set[str]:
        """Values behind a PixelShuffle or a transposed convolution."""
        found: set[str] = set()
        for node in self.nodes:
            if node.op in ("DepthToSpace", "ConvTranspose") or found.intersection(node.values):
                found.update(node.gives)
        return found

    def _layers_behind(self) -> dict[str, bool]:
        """True for nodes behind which another layer has weights."""
        behind: dict[str, bool] = {}
        for node in reversed(self.nodes):
            behind[node.name] = any(
                reader.op in LAYERS or behind[reader.name]
                for value in node.gives
                for reader in self.readers[value]
            )
        return behind

    def _blocks(self) -> list[Block]:
        """Additions whose one side is made of the other, in the order of computation."""
        place = {node.name: number for number, node in enumerate(self.nodes)}
        found = []
        for node in self.nodes:
            if node.op != "Add" or len(node.values) != 2 or not self._behind[node.name]:
                continue
            for start, branch in (node.values, node.values[::-1]):
                between = self._before.get(branch, frozenset()) - self._before.get(
                    start, frozenset()
                )
                if between and self._depends(branch, start):
                    layers = tuple(sorted(between, key=place.__getitem__))
                    found.append(Block(start, branch, node.name, layers))
                    break
        return found

    def _depends(self, value: str, other: str) -> bool:
        """True if a value is made of another one."""
        waiting, seen = [value], set()
        while waiting:
            name = waiting.pop()
            if name == other:
                return True
            if name not in seen and name in self.maker:
                seen.add(name)
                waiting += self.maker[name].values
        return False

    @property
    def long_skip(self) -> Block | None:
        """The addition that bridges more than half of the layers; None: there is none."""
        count = sum(
            node.op in LAYERS
            and self._behind[node.name]
            and bool(self._before[node.values[0]])
            and node.values[0] not in self._enlarged
            for node in self.nodes
        )
        widest = max(self.blocks, key=lambda block: len(block.layers), default=None)
        return widest if widest is not None and 2 * len(widest.layers) > count else None

    @property
    def inner_blocks(self) -> list[Block]:
        """Blocks without the long skip, and without those that lie in another one."""
        inner = [block for block in self.blocks if block is not self.long_skip]
        return [
            block
            for block in inner
            if not any(set(block.layers) < set(other.layers) for other in inner)
        ]

    # Kinds

    def _meets(self, node: Node, op: str) -> bool:
        """True if the only reader of a node is an operation, through activations."""
        while len(readers := self.readers[node.gives[0]]) == 1:
            (node,) = readers
            if node.op == op:
                return True
            if node.op not in (*ACTIVATIONS, "Relu", "Identity"):
                return False
        return False

    def _kinds_of_layers(self) -> dict[str, Kind]:
        first = {block.layers[0] for block in self.inner_blocks}
        inside = {name for block in self.inner_blocks for name in block.layers}
        skip = self.long_skip
        kinds: dict[str, Kind] = {}
        for node in self.nodes:
            if node.op == "MatMul" and len(node.values) == 2:
                kinds[node.name] = "matmul"
            if node.op not in LAYERS or node.op == "ConvTranspose":
                continue
            maker = self.maker.get(node.values[0])
            kernel = node.shape_of(1) or []
            kind: Kind = "block"
            if not self._behind[node.name]:
                kind = "tail"
            elif not self._before[node.values[0]]:
                kind = "head"
            elif node.values[0] in self._enlarged or self._meets(node, "DepthToSpace"):
                kind = "upsampler"
            elif node.op == "Linear":
                kind = "linear"
            elif node.name in first:
                kind = "block_first"
            elif maker is not None and maker.op == "Concat" and kernel[2:] == [1, 1]:
                kind = "fusion"
            elif skip is not None and node.name == skip.layers[-1] and node.name not in inside:
                kind = "body_last"
            kinds[node.name] = kind
        return kinds

    def _tensors(self) -> dict[str, Kind]:
        """Values that are quantized for operations without weights, and their kinds."""
        skip = self.long_skip
        found: dict[str, Kind] = {}
        for value in (name for node in self.nodes for name in node.gives):
            readers = self.readers[value]
            if value not in self._channels or not self._before[value]:
                continue
            if not any(self._behind[reader.name] for reader in readers):
                continue
            ops = {reader.op for reader in readers if self._reads_tensors(reader)}
            kind: Kind | None = None
            if ops & {"Add", "Sub"}:
                kind = "block_out" if len(readers) == 1 else "block_in"
                if skip is not None and value in (skip.start, skip.branch):
                    kind = "long_skip" if value == skip.start else "body_out"
            elif "Concat" in ops:
                kind = "concat_in"
            elif ops & {*_ON_CODES} & {*ACTIVATIONS} and self.maker[value].op in LAYERS:
                kind = "act_in"
            if kind is not None:
                found[value] = kind
        return found

    def _reads_tensors(self, node: Node) -> bool:
        """True if all operands of a node are feature maps."""
        return all(value in self._channels for value in node.values)

    # What a network tells srq

    @property
    def on_codes(self) -> bool:
        """True if all values between layers are codes once the network is quantized."""
        between = (
            node for node in self.nodes if self._behind[node.name] and self._before[node.gives[0]]
        )
        tails = sum(kind == "tail" for kind in self._kinds.values())
        return tails == 1 and all(node.op in _ON_CODES for node in between)

    def sites(self) -> list[Site]:
        """Sites in the order of computation; paths are those of ``Imported``."""
        positive = self._positive()
        sites = []
        for node in self.nodes:
            if node.name in self._kinds:
                value = node.values[0]
                maker = self.maker.get(value)
                sites.append(
                    Site(
                        f"layers.{node.name}",
                        self._kinds[node.name],
                        self._channels.get(value, 1),
                        unsigned=value in positive,
                        after_gelu=maker is not None and maker.op == "Gelu",
                        quantized_by=f"tensors.{value}" if value in self.tensors else None,
                    )
                )
            sites += [
                Site(
                    f"tensors.{value}",
                    self.tensors[value],
                    self._channels[value],
                    value in positive,
                )
                for value in node.gives
                if value in self.tensors
            ]
        return sites

    def _positive(self) -> set[str]:
        """Values that are never negative."""
        positive: set[str] = set()
        for node in self.nodes:
            passes = node.op in _PASS and all(value in positive for value in node.values)
            low = node.attribute("min", -1.0)
            if node.op in _POSITIVE or passes or (node.op == "Clip" and low >= 0):
                positive.update(node.gives)
        return positive

    def features(self) -> dict[str, list[str]]:
        """Layers at whose outputs a student is compared with its teacher; see ``Network``."""
        kinds = self._kinds
        blocks = [block.end for block in self.inner_blocks]
        branches = [block.layers[-1] for block in self.inner_blocks]
        if not blocks:
            blocks = branches = [name for name in kinds if kinds[name] in _BODY] or [*kinds][:1]
        ends = [name for name in kinds if kinds[name] in ("upsampler", "tail")]
        before = self.maker.get(self._by_name[ends[0]].values[0]) if ends else None
        pre_upsampler = before.name if before is not None else blocks[-1]
        return {"pre_upsampler": [pre_upsampler], "blocks": blocks, "branches": branches}

    def groups(self) -> ChannelGroups:
        """Groups of channels that may be scaled; paths are those of ``Imported``."""
        return channel_groups(self.nodes, self.result, self._channels, self.tensors)

    def streams(self) -> Iterator[Stream]:
        """Residual streams: values that additions join, read and written by convolutions alone."""
        groups: list[set[str]] = []
        for node in self.nodes:
            if node.op == "Add" and self._reads_tensors(node) and len(node.values) == 2:
                joined = {*node.values, *node.gives}
                touched = [group for group in groups if group & joined]
                groups = [group for group in groups if group not in touched]
                groups.append(joined.union(*touched))
        for group in groups:
            makers = [self.maker.get(value) for value in group]
            readers = {node.name: node for value in group for node in self.readers[value]}
            if self.result in group or any(maker is None for maker in makers):
                continue
            ends = [node for node in (*makers, *readers.values()) if node and node.op != "Add"]
            if not all(map(_mixes_channels, ends)):
                continue
            written = {maker.name for maker in makers if maker is not None}
            order = [value for node in self.nodes for value in node.gives if value in group]
            yield Stream(
                tuple(_path(n) for n in self.nodes if n.name in written and n.op != "Add"),
                tuple(_path(n) for n in self.nodes if n.name in readers and n.op != "Add"),
                self._carriers(order),
            )

    def _carriers(self, values: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"tensors.{value}" for value in values if value in self.tensors)


def _path(node: Node) -> str:
    return f"layers.{node.name}"


def _mixes_channels(node: Node) -> bool:
    """True for a convolution that reads and writes all channels."""
    return node.op == "Conv" and node.attribute("group", 1) == 1


def reach_of(nodes: Sequence[Node], given: str, result: str) -> int | None:
    """LR pixels on each side that an output pixel depends on.

    None: an operation reduces the resolution, or reads more than a fixed surrounding.
    """
    resolution, reach = {given: Fraction(1)}, {given: Fraction(0)}
    for node in nodes:
        seen = [value for value in node.values if value in resolution]
        if not seen:
            continue  # sizes
        finest = max(resolution[value] for value in seen)
        own, change = _reach_and_change(node)
        if own is None or len({resolution[value] for value in seen}) > 1:
            return None
        for value in node.gives:
            resolution[value] = finest * change
            reach[value] = max(reach[value] for value in seen) + own / finest
    return math.ceil(reach[result]) if result in reach else None


def _reach_and_change(node: Node) -> tuple[Fraction | None, Fraction]:
    """Pixels of its operand that an operation reads on each side, and its enlargement."""
    kernel = (node.shape_of(1) or [])[2:] or node.attribute("kernel_shape", [1])
    dilation = max(node.attribute("dilations", [1]))
    strides = set(node.attribute("strides", [1]))
    if node.op in ("Conv", "MaxPool", "AveragePool") and strides == {1}:
        pads = node.attribute("pads", [0])
        span = dilation * (max(kernel) - 1)
        if max(pads) * 2 == span and min(pads) == max(pads):
            return Fraction(span, 2), Fraction(1)
    elif node.op == "ConvTranspose" and len(strides) == 1:
        (stride,) = strides
        return Fraction(-(-max(kernel) // stride)), Fraction(stride)
    elif node.op == "DepthToSpace":
        return Fraction(0), Fraction(node.attribute("blocksize"))
    elif node.op in ("Resize", "Upsample"):
        scales = next((x for x in node.operands[1:3] if isinstance(x, Numbers) and x.numbers), None)
        if scales is not None and scales.numbers[-1] == scales.numbers[-2] >= 1:
            around = {"nearest": 0, "linear": 1, "cubic": 2}.get(node.attribute("mode", "nearest"))
            if around is not None and len(scales.numbers) == 4:
                return Fraction(around), Fraction(scales.numbers[-1])
    elif node.op in (*ACTIVATIONS, *_ELEMENTWISE) or (
        node.op in ("Concat", "Split") and node.attribute("axis", 0) == 1
    ):
        return Fraction(0), Fraction(1)
    return None, Fraction(1)
