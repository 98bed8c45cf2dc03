"""EDSR: enhanced deep residual networks for single image super-resolution.

With ``luma`` the network has one channel, as ``n_colors = 1`` in other projects: it enlarges BT.601
luma, and chroma is enlarged by MATLAB's bicubic kernel.

References
----------
.. [1] B. Lim, S. Son, H. Kim, S. Nah, K. M. Lee, "Enhanced Deep Residual Networks for Single
       Image Super-Resolution", CVPR Workshops 2017.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.layers import (
    DIV2K_MEAN,
    LUMA_TO_RGB,
    RANGE,
    Denormalize,
    Luma,
    ScaledBranch,
    Upsampler,
    conv3x3,
    enlarge_bicubic,
    input_shift,
    residual_block_sites,
    shift_by_level,
)
from sr_quant_cli.quant.sites import Site, Stream
from sr_quant_cli.strict import Size

_CARRIERS = ("block_in", "block_out", "skip")
"""Modules of a block that carry features of the residual stream."""


class EDSRConfig(NetworkConfig):
    """The baseline by default; the full network is 32 blocks, 256 features, ``res_scale`` 0.1."""

    name: Literal["edsr"] = "edsr"
    """network"""
    n_blocks: Size = 16
    """residual blocks"""
    n_feats: Size = 64
    """features of every hidden convolution"""
    res_scale: Annotated[float, Field(gt=0, le=100)] = 1.0
    """factor of each residual branch"""
    upsampler: Literal["shuffle", "direct"] = "shuffle"
    """shuffle: PixelShuffles to HR features and a tail; direct: one PixelShuffle to RGB"""
    mean_shift: bool = True
    """subtract DIV2K's mean colour from the input and add it to the output"""
    luma: bool = False
    """true: enlarge luma (16 to 235 of 255) alone and without a mean, chroma by bicubic"""
    exact_input: bool = False
    """a level of 8 bits is subtracted from pictures instead of the mean, so that 8-bit codes hold
    them exactly"""

    @property
    def shifted(self) -> bool:
        """True if a mean is subtracted from pictures."""
        return self.mean_shift and not self.luma

    @property
    def channels(self) -> int:
        """Channels of the network's input and output."""
        return 1 if self.luma else 3


class ResidualBlock(ScaledBranch):
    """``x + res_scale * conv(relu(conv(x)))``, no batch normalisation [1]_."""

    def __init__(self, n_feats: int, res_scale: float) -> None:
        super().__init__()
        self.block_in = nn.Identity()
        self.conv1 = conv3x3(n_feats, n_feats)
        self.conv2 = conv3x3(n_feats, n_feats)
        self.block_out = nn.Identity()
        self.skip = nn.Identity()
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        x = self.block_in(x)
        branch = self.block_out(self.conv2(self.conv1(x).relu_()))
        return torch.add(self.shortcut(x), branch, alpha=self.res_scale)

    def shortcut(self, x: Tensor) -> Tensor:
        """Carry the input past the branch."""
        y: Tensor = self.skip(x)
        return y


class EDSR(Network):
    """Head, residual body with a long skip, upsampler, tail [1]_.

    >>> EDSR(EDSRConfig(scale=4)).parameter_count()
    1517571
    """

    scale_dependent = ("upsampler.", "tail.")
    branch_end = "conv2"
    mean: Tensor

    def __init__(self, config: EDSRConfig) -> None:
        super().__init__(config)
        self.config: EDSRConfig = config
        n_feats = config.n_feats
        mean = torch.tensor(DIV2K_MEAN) if config.shifted else torch.zeros(config.channels)
        mean = mean.view(-1, 1, 1)
        exact = config.shifted and config.exact_input
        self.register_buffer("mean", input_shift(mean, exact=exact), persistent=False)
        self.luma = Luma()
        self.head = conv3x3(config.channels, n_feats)
        self.body = nn.Sequential(
            *(ResidualBlock(n_feats, config.res_scale) for _ in range(config.n_blocks))
        )
        self.body_last = conv3x3(n_feats, n_feats)
        self.body_out = nn.Identity()
        self.long_skip = nn.Identity()
        self.before_upsampler = nn.Identity()
        self.upsampler: Upsampler | nn.Identity = nn.Identity()
        if config.upsampler == "shuffle":
            self.upsampler = Upsampler(n_feats, config.scale)
            self.tail: nn.Module = conv3x3(n_feats, config.channels)
        else:
            last = conv3x3(n_feats, config.channels * config.scale**2)
            self.tail = nn.Sequential(last, nn.PixelShuffle(config.scale))
        self.denormalize = Denormalize(RANGE, mean)

    def declared_sites(self) -> tuple[Site, ...]:
        """Head, five per block, end of body and its output, long skip, upsampler, tail."""
        n_feats = self.config.n_feats
        blocks = [
            site
            for index in range(self.config.n_blocks)
            for site in residual_block_sites(f"body.{index}", n_feats)
        ]
        ends = [Site("tail.0", "tail", n_feats)]
        if isinstance(self.upsampler, Upsampler):
            convolutions = self.upsampler.convolutions
            ends = [Site(f"upsampler.{i}", "upsampler", n_feats) for i in convolutions]
            ends.append(Site("tail", "tail", n_feats))
        return (
            Site("head", "head", self.config.channels),
            *blocks,
            Site("body_last", "body_last", n_feats),
            Site("body_out", "body_out", n_feats),
            Site("long_skip", "long_skip", n_feats),
            *ends,
        )

    def streams(self) -> tuple[Stream, ...]:
        """The residual stream from head to upsampler or tail, and one inside each block."""
        blocks = [f"body.{index}" for index in range(self.config.n_blocks)]
        last = "upsampler.0" if isinstance(self.upsampler, Upsampler) else "tail.0"
        residual = Stream(
            writers=("head", *(f"{block}.conv2" for block in blocks), "body_last"),
            readers=(*(f"{block}.conv1" for block in blocks), "body_last", last),
            carriers=(
                *(f"{block}.{tensor}" for block in blocks for tensor in _CARRIERS),
                "body_out",
                "long_skip",
            ),
        )
        inner = (
            Stream((f"{block}.conv1",), (f"{block}.conv2",), rectified=True) for block in blocks
        )
        return (residual, *inner)

    def make_input_exact(self) -> None:
        """Subtract a level of 8 bits from pictures instead of the mean."""
        if self.config.shifted:
            shift_by_level(self.head, self.mean, RANGE)
            self.config = self.config.model_copy(update={"exact_input": True})

    @property
    def receptive_radius(self) -> int:
        """Head, two per block, end of the body, and what upsampler and tail reach."""
        # A 3x3 kernel reaches one pixel of its own resolution: behind the body that is
        # 1 + 1/2 + 1/4 LR pixels at x4, 1 + 1/2 at x2 and 1 + 1/3 at x3.
        return 2 * self.config.n_blocks + (4 if self.config.upsampler == "shuffle" else 3)

    @property
    def floats_per_pixel(self) -> int:
        """Features around the last PixelShuffle, or of a block if there is none at HR."""
        if self.config.upsampler == "direct" or self.config.folded:
            return 4 * self.config.n_feats
        return int(2.25 * self.scale**2 * self.config.n_feats)

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        given = self.luma(x) if self.config.luma else x
        shallow = self.head((given - self.mean) * RANGE)
        deep = self.body_out(self.body_last(self.body(shallow))) + self.long_skip(shallow)
        enlarged = self.tail(self.upsampler(self.before_upsampler(deep)))
        y: Tensor = self.denormalize(enlarged)
        if self.config.luma:
            bicubic = enlarge_bicubic(x, self.scale)
            y = bicubic + (y - self.luma(bicubic)) * LUMA_TO_RGB
        return y
