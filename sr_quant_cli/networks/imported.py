"""Imported networks: any graph of known operations, as a network like the built-in ones.

The configuration lists the operations; the weights are in the model file, as those of every other
network, and nothing of it is code. What the built-in networks know of themselves is found in the
nodes (sites, blocks), or was measured when the network was imported (reach, smallest picture).
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, fx, nn

from sr_quant_cli.errors import first_line
from sr_quant_cli.networks.anatomy import Anatomy
from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.layers import (
    LUMA_TO_RGB,
    Crop,
    Denormalize,
    Luma,
    enlarge_bicubic,
)
from sr_quant_cli.networks.limits import VALUES
from sr_quant_cli.networks.nodes import Name, Node, Nodes
from sr_quant_cli.networks.operations import make_layer
from sr_quant_cli.networks.swinir import PadToWindows
from sr_quant_cli.quant.sites import ChannelGroups, Site, Stream, has_weight

GIVEN = "picture"
"""name of the input value"""

BLACK = 16 / 255
"""BT.601 luma of black"""

Limits = Annotated[list[float], Field(min_length=2, max_length=2)]


class ImportedConfig(NetworkConfig):
    """Operations of an imported network, and what was found out about it."""

    recipes_from: ClassVar[str] = "edsr"

    name: Literal["imported"] = "imported"
    """network"""
    nodes: Nodes
    """operations, in the order of computation"""
    result: Name
    """name of the output value"""
    input_range: Limits
    """values that black and white have in its input"""
    output_range: Limits
    """values that black and white have in its output"""
    colours: Literal["rgb", "bgr", "luma", "full_luma"] = "rgb"
    """channels of input and output: RGB; BGR; BT.601 luma of 16 to 235, or of 0 to 255, alone"""
    channels_last: bool = False
    """true: input and output are ``[N, H, W, C]``"""
    radius: Annotated[int, Field(ge=0, le=4096)] = 0
    """LR pixels on each side that an output pixel depends on"""
    align: Annotated[int, Field(ge=1, le=4096)] = 1
    """tiles begin at a multiple of this many LR pixels"""
    multiple: Annotated[int, Field(ge=1, le=1024)] = 1
    """sizes must be a multiple of this many LR pixels; pictures are padded by mirroring"""
    least: Annotated[int, Field(ge=1, le=4096)] = 1
    """smallest side that it takes, in LR pixels"""
    single: bool = False
    """it takes one picture at a time"""
    whole: bool = False
    """every output pixel depends on the whole picture"""
    peak: Annotated[int, Field(ge=1, le=2**24)] = 1024
    """largest number of values in memory at once, per LR pixel"""

    @model_validator(mode="after")
    def _values_are_made_before_they_are_read(self) -> Self:
        made, names = {GIVEN}, set()
        for node in self.nodes:
            for value in node.values:
                if value not in made:
                    raise ValueError(f"{node.name} reads {value}, which nothing before it makes")
            if node.name in names or made & {*node.gives} or len({*node.gives}) < len(node.gives):
                raise ValueError(f"{node.name}: a layer or value of this name is there already")
            names.add(node.name)
            made.update(node.gives)
        if self.result not in made:
            raise ValueError(f"nothing makes the result {self.result}")
        for low, high in (self.input_range, self.output_range):
            if not low < high:
                raise ValueError("a range must be two increasing numbers")
        return self


class Imported(Network):
    """A network of nodes.

    The layer of a node is ``layers.NAME``. A value that may be quantized passes an identity,
    ``tensors.NAME``.
    """

    def __init__(self, config: ImportedConfig) -> None:
        super().__init__(config)
        self.config: ImportedConfig = config
        self.anatomy = Anatomy(config.nodes, GIVEN, config.result, _channels(config))
        self.layers = nn.ModuleDict({node.name: make_layer(node) for node in config.nodes})
        self.tensors = nn.ModuleDict({value: nn.Identity() for value in self.anatomy.tensors})
        self.luma = Luma()
        low, high = config.output_range
        channels = 1 if "luma" in config.colours else 3
        mean = torch.full((channels, 1, 1), -low / (high - low))
        self.denormalize = Denormalize(high - low, mean)
        self.pad = PadToWindows(config.multiple, "reflect")
        self.crop = Crop(config.scale)

    def declared_sites(self) -> tuple[Site, ...]:
        """Layers with weights, products, and tensors between operations without weights."""
        return tuple(self.anatomy.sites())

    def streams(self) -> tuple[Stream, ...]:
        """Residual streams that nothing but convolutions reads and writes."""
        return tuple(self.anatomy.streams())

    def channel_groups(self) -> ChannelGroups:
        """Channels that can be scaled, through all operations that pass factors on."""
        return self.anatomy.groups()

    def features(self) -> dict[str, tuple[str, ...]]:
        """Paths as of every network; without additions, every layer of the body is a block."""
        return {
            name: tuple(f"layers.{layer}" for layer in layers)
            for name, layers in self.anatomy.features().items()
        }

    @property
    def receptive_radius(self) -> int:
        """Reach that was measured when the network was imported."""
        return self.config.radius

    @property
    def alignment(self) -> int:
        """Multiple that sizes must have, and at which results stay the same when moved."""
        return math.lcm(self.config.align, self.config.multiple)

    @property
    def least_side(self) -> int:
        """Smallest side that the operations take."""
        return self.config.least

    @property
    def on_codes(self) -> bool:
        """True if nothing between its layers has to be in float."""
        return self.anatomy.on_codes

    @property
    def sees_everything(self) -> bool:
        """True if every output pixel depends on the whole picture."""
        return self.config.whole

    @property
    def floats_per_pixel(self) -> int:
        """Peak that was counted when the network was imported."""
        return self.config.peak

    @property
    def summary(self) -> str:
        """What was found in the graph, on one line."""
        config = self.config
        layers = sum(has_weight(site.kind) for site in self.sites())
        low, high = config.input_range
        luma = {"luma": "luma (16..235)", "full_luma": "luma (0..255)"}
        parts = [
            f"{len(config.nodes)} operations, {layers} layers in "
            f"{len(self.anatomy.inner_blocks)} blocks",
            f"takes {luma.get(config.colours, config.colours.upper())} {low:g}..{high:g}",
        ]
        if config.least > 1:
            parts.append(f"at least {config.least}x{config.least} pixels")
        if config.multiple > 1:
            parts.append(f"padded to multiples of {config.multiple} pixels")
        if config.whole:
            parts.append("sees the whole picture, so tiles change the result a little")
        else:
            parts.append(f"sees {config.radius} pixels on each side")
            if config.align > 1:
                parts.append(f"tiles begin at multiples of {config.align}")
        return "; ".join(parts)

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        config = self.config
        given = self._in_its_colours(x)
        if config.multiple > 1:
            given = self.pad(given)
        y = self.denormalize(self.core(self._in_its_range(given)))
        if config.multiple > 1:
            y = self.crop(y, x)
        return self._in_rgb(y, x)

    def core(self, x: Tensor) -> Tensor:
        """Run the nodes: input of the graph -> its output, in its own range, ``[N, C, H, W]``."""
        if self.config.single and not isinstance(x, fx.Proxy) and len(x) > 1:
            return torch.cat([self.core(picture) for picture in torch.split(x, 1)])
        x = x.permute(0, 2, 3, 1) if self.config.channels_last else x
        y: Tensor = run(self.config, self.layers, x, self.tensors)[self.config.result]
        return y.permute(0, 3, 1, 2) if self.config.channels_last else y

    def _in_its_colours(self, x: Tensor) -> Tensor:
        if self.config.colours == "bgr":
            return x.flip(1)
        if self.config.colours == "luma":
            y: Tensor = self.luma(x)
            return y
        if self.config.colours == "full_luma":
            x = (self.luma(x) - BLACK) * LUMA_TO_RGB
        return x

    def _in_its_range(self, x: Tensor) -> Tensor:
        low, high = self.config.input_range
        if high - low != 1:
            x = x * (high - low)
        return x + low if low else x

    def _in_rgb(self, y: Tensor, x: Tensor) -> Tensor:
        if self.config.colours == "rgb":
            return y
        if self.config.colours == "bgr":
            return y.flip(1)
        if self.config.colours == "full_luma":
            y = y / LUMA_TO_RGB + BLACK
        bicubic = enlarge_bicubic(x, self.scale)
        z: Tensor = bicubic + (y - self.luma(bicubic)) * LUMA_TO_RGB
        return z


def run(
    config: ImportedConfig,
    layers: nn.ModuleDict,
    x: Any,
    tensors: nn.ModuleDict | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run the nodes on an input, and return all values that nothing reads.

    Parameters
    ----------
    tensors
        Modules that values of their names pass.
    watch
        Called after each node, with the values in memory.
    """
    last = {value: node.name for node in config.nodes for value in node.values}
    last.pop(config.result, None)
    values = {GIVEN: x}
    for node in config.nodes:
        made = layers[node.name](*(values[name] for name in node.operands if isinstance(name, str)))
        for place, name in enumerate(node.gives):
            value = made if len(node.gives) == 1 and node.op != "Split" else made[place]
            if tensors is not None and name in tensors:
                value = tensors[name](value)
            values[name] = value
        if watch is not None:
            watch(values)
        for name in node.values:
            if last.get(name) == node.name:
                del values[name]
    return values


def _channels(config: ImportedConfig) -> dict[str, int]:
    """Channels of all values that are feature maps, from a pass without numbers.

    Raises
    ------
    ValueError
        An operation does not take its operands, or the output is no picture of this scale.
    """
    found: dict[str, int] = {}
    side = config.multiple * -(-max(32, config.least) // config.multiple)
    colours = 1 if "luma" in config.colours else 3
    shape = (1, side, side, colours) if config.channels_last else (1, colours, side, side)
    with torch.device("meta"), torch.no_grad():
        layers = nn.ModuleDict({node.name: _Watched(node, found) for node in config.nodes})
        result = run(config, layers, torch.zeros(shape)).get(config.result)
    large = side * config.scale
    wanted = (1, large, large, colours) if config.channels_last else (1, colours, large, large)
    if not isinstance(result, Tensor) or tuple(result.shape) != wanted:
        got = list(result.shape) if isinstance(result, Tensor) else "no tensor"
        raise ValueError(f"the result of {list(shape)} is {got}, not {list(wanted)}")
    return found


class _Watched(nn.Module):
    """A layer that notes the channels of what it gives."""

    def __init__(self, node: Node, channels: dict[str, int]) -> None:
        super().__init__()
        self.node, self.layer, self._channels = node, make_layer(node), channels

    def forward(self, *values: Any) -> Any:
        try:
            made = self.layer(*values)
            parts = made if isinstance(made, tuple) else (made,)
            for name, value in zip(self.node.gives, parts, strict=True):
                if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 3:
                    self._channels[name] = value.shape[1 if value.ndim == 4 else -1]
        except Exception as error:  # whatever torch raises
            raise ValueError(
                f"{self.node.name} ({self.node.op}) does not take its operands: {first_line(error)}"
            ) from error
        if sum(part.numel() for part in parts if isinstance(part, Tensor)) > VALUES:
            raise ValueError(f"{self.node.name} ({self.node.op}): its result is too large")
        return made
