"""Interface of a network to the rest of srq."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from sr_quant_cli.networks.layers import Surround, Trim
from sr_quant_cli.quant.dynamic import BitProvider
from sr_quant_cli.quant.plan import Quantization
from sr_quant_cli.quant.sites import ChannelGroups, Site, Stream
from sr_quant_cli.strict import Strict
from sr_quant_cli.system.choices import Depth


class NetworkConfig(Strict):
    """Hyper-parameters that rebuild a network. Each network derives its own."""

    depths: ClassVar[tuple[Depth, ...]] = ("full",)
    """depths that the network is made for, deepest first"""
    recipes_from: ClassVar[str] = ""
    """network whose recipes serve where this one has none of its own; empty: none"""
    extends: ClassVar[str] = ""
    """network whose weights this one can start from, though some of its own are then missing"""

    name: str
    """network"""
    scale: Literal[2, 3, 4, 8] = 4
    """enlargement factor"""
    folded: bool = False
    """normalization is merged into the convolutions, and the linear layers behind the body into one
    convolution and PixelShuffle"""
    context: Annotated[int, Field(ge=0, le=64)] = 0
    """LR pixels of mirrored padding on each side, cut off again behind the network; none during
    training"""


class Network(nn.Module):
    """A super-resolution network: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``.

    The output is neither clipped nor rounded. The value range that a paper works in is handled
    inside ``enlarge``.
    """

    scale_dependent: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the parameters whose shape or meaning changes with the scale."""
    body_path: ClassVar[str] = "body"
    """Path of the module whose children are the blocks, for ``features``."""
    branch_end: ClassVar[str] = ""
    """Path, inside a block, of the module that ends its branch; empty: the block itself."""
    pre_upsampler_path: ClassVar[str] = "before_upsampler"
    """Path of the module that passes on the feature map in front of the upsampler."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.quantization: Quantization | None = None
        """method, placement and bits; None for a float network"""
        self.bit_provider: BitProvider | None = None
        """chooses bits by the picture; None where bits are fixed"""
        self.folded_chain: tuple[str, ...] = ()
        """paths of the modules that folding replaced by one convolution"""
        self.folded_at = ""
        """path of that convolution"""
        self.depth: Depth = "full"
        """current depth, set by ``set_depth``"""
        self.surround = Surround(config.context)
        self.trim = Trim(config.context * config.scale)

    @property
    def scale(self) -> int:
        """Enlargement factor."""
        return self.config.scale

    def set_context(self, context: int) -> None:
        """Set the mirrored padding of pictures, in LR pixels."""
        self.config = self.config.model_copy(update={"context": context})
        self.surround = Surround(context).train(self.training)
        self.trim = Trim(context * self.scale).train(self.training)

    @property
    @abstractmethod
    def receptive_radius(self) -> int:
        """Receptive radius: LR pixels on each side that an output pixel depends on."""

    @property
    def alignment(self) -> int:
        """Tile alignment: tiles must start at a multiple of this many LR pixels."""
        return 1

    @property
    def least_side(self) -> int:
        """Smallest side of a picture that the network takes, in LR pixels."""
        return 1

    @property
    def on_codes(self) -> bool:
        """True if all values between layers are codes once every site is quantized."""
        return True

    @property
    def sees_everything(self) -> bool:
        """True if output pixels depend on the whole picture: tiles then change the result."""
        return False

    @property
    @abstractmethod
    def floats_per_pixel(self) -> int:
        """Peak number of float values in a forward pass per LR pixel; it limits a tile's size."""

    @abstractmethod
    def declared_sites(self) -> tuple[Site, ...]:
        """Sites of the unfolded network, in the order of computation."""

    def sites(self) -> tuple[Site, ...]:
        """Places where values may be quantized, in the order of computation."""
        sites = []
        for site in self.declared_sites():
            if site.path in self.folded_chain[:1]:
                sites.append(replace(site, path=self.folded_at, kind="tail"))
            elif site.path not in self.folded_chain and not isinstance(
                self.get_submodule(site.path), nn.ConvTranspose2d
            ):
                # A transposed convolution is quantized as the convolution that it folds to.
                sites.append(site)
        return tuple(sites)

    def features(self) -> dict[str, tuple[str, ...]]:
        """Paths of the submodules at whose outputs a student is compared with its teacher.

        ``pre_upsampler`` is the feature map in front of the upsampler, ``blocks`` the output of
        every block of the body, ``branches`` the output of the last convolution of its branch, in
        front of normalization, scaling and shortcut. They follow from ``pre_upsampler_path``,
        ``body_path`` and ``branch_end``.
        """
        children = self.get_submodule(self.body_path).named_children()
        blocks = tuple(f"{self.body_path}.{name}" for name, _ in children)
        return {
            "pre_upsampler": (self.pre_upsampler_path,),
            "blocks": blocks,
            "branches": tuple(f"{block}.{self.branch_end}".rstrip(".") for block in blocks),
        }

    def streams(self) -> tuple[Stream, ...]:
        """Feature channels that can be scaled or mixed without changing the output."""
        return ()

    def channel_groups(self) -> ChannelGroups:
        """Channels that can be scaled without changing the output; each of a stream by itself."""
        groups, start = ChannelGroups({}, {}, {}), 1
        for stream in self.streams():
            writer = self.get_submodule(stream.writers[0])
            assert isinstance(writer, nn.Conv2d)
            count = writer.out_channels
            channels = tuple(range(start, start + count))
            start += count
            groups.written.update(dict.fromkeys(stream.writers, channels))
            groups.read.update(dict.fromkeys(stream.readers, channels))
            groups.passed.update(dict.fromkeys(stream.carriers, channels))
        return groups

    @property
    def depths(self) -> tuple[Depth, ...]:
        """Depths that it can run at now, deepest first."""
        return ("full",)

    def set_depth(self, depth: Depth) -> None:
        """Set the depth. It is not saved: a loaded network runs at full depth.

        Raises
        ------
        ValueError
            It cannot run at that depth.
        """
        if depth not in self.depths:
            raise ValueError(f"this {self.config.name} runs at full depth only")
        self.depth = depth

    def rank_blocks(self, batches: Iterable[Tensor]) -> None:
        """Rank the blocks on LR batches ``[N, 3, h, w]`` (0..1), for depths below the full one.

        Nothing happens in a network with a single depth, or where the blocks are ranked.
        """

    def place(
        self, device: torch.device, layout: torch.memory_format = torch.channels_last
    ) -> Self:
        """Move to a device and a memory layout. Channels-last is fastest."""
        return self.to(device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def parameter_count(self) -> int:
        """Number of trainable values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def make_input_exact(self) -> None:
        """Subtract a level of 8 bits from pictures instead of a mean: 8-bit codes then hold them.

        Only what the first convolution pads with changes. Nothing happens in a network that takes
        pictures as they are.
        """

    def take_depth(self, other: Self) -> None:
        """Run at the depth of another network of the same configuration."""
        self.set_depth(other.depth)

    def start_from(self, other: "Network") -> None:
        """Copy the weights of ``other``, which may have another scale.

        Everything that does not depend on the scale must match. Of the rest, tensors with the same
        name and shape are copied and the others keep their fresh values.

        Raises
        ------
        ValueError
            A scale-independent tensor is missing or has another shape.
        """
        ours, theirs = self.state_dict(), other.state_dict()
        for key, value in ours.items():
            match = theirs.get(key)
            if match is not None and match.shape == value.shape:
                value.copy_(match)
            elif not self.may_stay_fresh(key, other):
                raise ValueError(f"{key} does not match")

    def may_stay_fresh(self, key: str, other: "Network") -> bool:
        """Tell if a tensor may keep its value where ``other`` lacks it or has another shape."""
        return key.startswith(self.scale_dependent)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch with its context: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        y: Tensor = self.trim(self.enlarge(self.surround(x)))
        return y

    @abstractmethod
    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch without context: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
