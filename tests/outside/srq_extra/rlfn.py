"""RLFN: residual local feature network, with a simpler attention.

A block is three convolutions with a shortcut, a 1x1 convolution and an attention map that its
output is multiplied by. The attention of the paper shrinks its map and enlarges it to the size of
the picture, so that a tile would not see what the whole picture does. This one keeps its size.

References
----------
.. [1] F. Kong, M. Li, S. Liu, D. Liu, J. He, Y. Bai, F. Chen, L. Fu, "Residual Local Feature
       Network for Efficient Super-Resolution", CVPR Workshops 2022.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.layers import RANGE, Denormalize, conv3x3
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.strict import Size

_SLOPE = 0.05
"""Slope of the LeakyReLUs below zero."""


class RLFNConfig(NetworkConfig):
    """Six blocks of 52 features, as published."""

    recipes_from: ClassVar[str] = "edsr"

    name: Literal["rlfn"] = "rlfn"
    """network"""
    n_blocks: Size = 6
    """residual local feature blocks"""
    n_feats: Size = 52
    """features between blocks"""
    attention_feats: Size = 16
    """features inside the attention"""


class Attention(nn.Module):
    """``x * sigmoid(expand(conv(reduce(x))))``; it stays in floating point."""

    def __init__(self, n_feats: int, inner: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(n_feats, inner, 1)
        self.conv = conv3x3(inner, inner)
        self.expand = nn.Conv2d(inner, n_feats, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y: Tensor = x * self.expand(self.conv(self.reduce(x))).sigmoid()
        return y


class LocalFeatureBlock(nn.Module):
    """``attention(fusion(x + convolutions(x)))`` [1]_.

    The identities are where a tensor may be quantized.
    """

    def __init__(self, n_feats: int, inner: int) -> None:
        super().__init__()
        self.block_in, self.block_out, self.skip = (nn.Identity() for _ in range(3))
        self.convs = nn.ModuleList(conv3x3(n_feats, n_feats) for _ in range(3))
        self.act_in = nn.ModuleList(nn.Identity() for _ in range(3))
        self.act = nn.LeakyReLU(_SLOPE)
        self.fusion = nn.Conv2d(n_feats, n_feats, 1)
        self.attention = Attention(n_feats, inner)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        x = branch = self.block_in(x)
        for conv, act_in in zip(self.convs, self.act_in, strict=True):
            branch = self.act(act_in(conv(branch)))
        y: Tensor = self.attention(self.fusion(self.block_out(branch) + self.skip(x)))
        return y


class RLFN(Network):
    """Head, blocks with a long skip, one convolution to the picture [1]_."""

    scale_dependent = ("tail.",)

    def __init__(self, config: RLFNConfig) -> None:
        super().__init__(config)
        self.config: RLFNConfig = config
        n_feats = config.n_feats
        self.head = conv3x3(3, n_feats)
        self.body = nn.Sequential(
            *(LocalFeatureBlock(n_feats, config.attention_feats) for _ in range(config.n_blocks))
        )
        self.body_last = conv3x3(n_feats, n_feats)
        self.body_out, self.long_skip = nn.Identity(), nn.Identity()
        self.before_upsampler = nn.Identity()
        self.tail = nn.Sequential(
            conv3x3(n_feats, 3 * config.scale**2), nn.PixelShuffle(config.scale)
        )
        self.denormalize = Denormalize(RANGE, torch.zeros(3, 1, 1))

    def declared_sites(self) -> tuple[Site, ...]:
        """Head, ten per block, end of the body and its output, long skip, tail."""
        n_feats = self.config.n_feats
        return (
            Site("head", "head", 3),
            *(site for index in range(self.config.n_blocks) for site in self._block_sites(index)),
            Site("body_last", "body_last", n_feats),
            Site("body_out", "body_out", n_feats),
            Site("long_skip", "long_skip", n_feats),
            Site("tail.0", "tail", n_feats),
        )

    def _block_sites(self, index: int) -> list[Site]:
        block, n_feats = f"body.{index}", self.config.n_feats
        return [
            Site(f"{block}.block_in", "block_in", n_feats),
            Site(f"{block}.convs.0", "block_first", n_feats, quantized_by="block_in"),
            Site(f"{block}.act_in.0", "act_in", n_feats),
            Site(f"{block}.convs.1", "block", n_feats),
            Site(f"{block}.act_in.1", "act_in", n_feats),
            Site(f"{block}.convs.2", "block", n_feats),
            Site(f"{block}.act_in.2", "act_in", n_feats),
            Site(f"{block}.block_out", "block_out", n_feats),
            Site(f"{block}.skip", "skip", n_feats, quantized_by="block_in"),
            Site(f"{block}.fusion", "fusion", n_feats),
        ]

    @property
    def receptive_radius(self) -> int:
        """Head, end of body and tail reach 1 pixel each, a block 3 and its attention 1."""
        return 3 + 4 * self.config.n_blocks

    @property
    def floats_per_pixel(self) -> int:
        """Features of a block and the shortcuts around it, and the picture at HR."""
        return 5 * self.config.n_feats + 3 * self.scale**2

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        shallow = self.head(x * RANGE)
        deep = self.body_out(self.body_last(self.body(shallow))) + self.long_skip(shallow)
        y: Tensor = self.denormalize(self.tail(self.before_upsampler(deep)))
        return y
