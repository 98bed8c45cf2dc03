"""What every network offers to the rest of srq."""

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
from sr_quant_cli.quant.sites import Site, Stream
from sr_quant_cli.strict import Strict
from sr_quant_cli.system.choices import Depth


class NetworkConfig(Strict):
    """Hyper-parameters that rebuild a network; each network derives its own."""

    depths: ClassVar[tuple[Depth, ...]] = ("full",)
    """depths that such a network is made for, the deepest first"""
    recipes_from: ClassVar[str] = ""
    """network whose recipes serve where this one has none of its own; empty: none"""
    extends: ClassVar[str] = ""
    """network whose weights this one can start from, though some of its own are then missing"""

    name: str
    """network"""
    scale: Literal[2, 3, 4] = 4
    """enlargement factor"""
    folded: bool = False
    """normalization is part of the convolutions, and the linear layers behind the body are a
    single convolution and PixelShuffle"""
    context: Annotated[int, Field(ge=0, le=64)] = 0
    """LR pixels of mirrored surroundings that pictures get at each side, and lose again behind the
    network; none while it is trained"""


class Network(nn.Module):
    """A super-resolution network: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``.

    Values leave the network unclipped and unrounded. Whatever range a paper's network works in
    is its own affair, inside ``forward``.
    """

    scale_dependent: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the parameters whose shape or meaning changes with the scale."""
    body_path: ClassVar[str] = "body"
    """Path of the module whose children are the blocks, for ``features``."""
    pre_upsampler_path: ClassVar[str] = "before_upsampler"
    """Path of the module that passes on the feature map in front of the upsampler."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.quantization: Quantization | None = None
        """how it was quantized; None: it is float"""
        self.bit_provider: BitProvider | None = None
        """what chooses bits by the picture; None: they are fixed"""
        self.folded_chain: tuple[str, ...] = ()
        """paths of the modules that one convolution has replaced"""
        self.folded_at = ""
        """path of that convolution"""
        self.depth: Depth = "full"
        """at which it runs; ``set_depth`` changes it"""
        self.surround = Surround(config.context)
        self.trim = Trim(config.context * config.scale)

    @property
    def scale(self) -> int:
        """Enlargement factor."""
        return self.config.scale

    def set_context(self, context: int) -> None:
        """Give pictures so many LR pixels of mirrored surroundings from now on."""
        self.config = self.config.model_copy(update={"context": context})
        self.surround = Surround(context).train(self.training)
        self.trim = Trim(context * self.scale).train(self.training)

    @property
    @abstractmethod
    def receptive_radius(self) -> int:
        """LR pixels on each side that an output pixel depends on."""

    @property
    def alignment(self) -> int:
        """LR pixels of which parts of a picture that are enlarged alone begin at a multiple."""
        return 1

    @property
    @abstractmethod
    def floats_per_pixel(self) -> int:
        """Float values alive at once in a forward pass, per LR pixel: memory for tiling."""

    @abstractmethod
    def declared_sites(self) -> tuple[Site, ...]:
        """Sites of the network as its paper has it, in the order in which they are computed."""

    def sites(self) -> tuple[Site, ...]:
        """Places where values may be quantized, in the order in which they are computed."""
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
        every block of the body. Both follow from ``pre_upsampler_path`` and ``body_path``.
        """
        blocks = self.get_submodule(self.body_path).named_children()
        return {
            "pre_upsampler": (self.pre_upsampler_path,),
            "blocks": tuple(f"{self.body_path}.{name}" for name, _ in blocks),
        }

    def streams(self) -> tuple[Stream, ...]:
        """What can be scaled, or mixed, without a change of the output."""
        return ()

    @property
    def depths(self) -> tuple[Depth, ...]:
        """Depths that it can run at now, the deepest first."""
        return ("full",)

    def set_depth(self, depth: Depth) -> None:
        """Run at a depth from now on. It is no part of the state: a loaded network runs in full.

        Raises
        ------
        ValueError
            It cannot run at that depth.
        """
        if depth not in self.depths:
            raise ValueError(f"this {self.config.name} runs at full depth only")
        self.depth = depth

    def rank_blocks(self, batches: Iterable[Tensor]) -> None:
        """Find from LR batches ``[N, 3, h, w]`` (0..1) what depths below the full one leave out.

        Nothing changes in a network of one depth, or where it is known already.
        """

    def place(
        self, device: torch.device, layout: torch.memory_format = torch.channels_last
    ) -> Self:
        """Move to a device and into a memory layout; channels last runs fastest."""
        return self.to(device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def parameter_count(self) -> int:
        """Trainable values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def take_depth(self, other: Self) -> None:
        """Run at the depth of another network of the same configuration."""
        self.set_depth(other.depth)

    def start_from(self, other: "Network") -> None:
        """Take over the weights of ``other``, which may have another scale.

        Everything that does not depend on the scale must match; of the rest, tensors of the same
        name and shape are taken and the others keep their fresh values.

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
        """Whether a tensor may keep its value if that of ``other`` does not fit or is missing."""
        return key.startswith(self.scale_dependent)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch, with its context: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        y: Tensor = self.trim(self.enlarge(self.surround(x)))
        return y

    @abstractmethod
    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch as it is: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
