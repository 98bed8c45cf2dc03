"""IDN: information distillation network.

A block sets a quarter of its features aside half-way and processes the others further. Its input
and that quarter are added to the result. A 17x17 transposed convolution computes the details of the
picture, which are added to a bicubic enlargement.

The network enlarges RGB (0..255) and adds torch's bicubic enlargement (a = -3/4). CADyQ's form has
no activation behind the 1x1 convolutions (``compressed_act = false``). The original one (``luma``)
enlarges BT.601 luma (16..235 of 255, as 0..1) and adds MATLAB's bicubic enlargement (a = -1/2).
Chroma is then bicubic, so the network adds the same to all three colours. The kernels of its
transposed convolution are centred ``scale - 1`` HR pixels further right and down.

References
----------
.. [1] Z. Hui, X. Wang, X. Gao, "Fast and Accurate Single Image Super-Resolution via Information
       Distillation Network", CVPR 2018.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.layers import (
    LUMA_TO_RGB,
    RANGE,
    Denormalize,
    Luma,
    conv3x3,
    enlarge_bicubic,
)
from sr_quant_cli.quant.sites import Kind, Site
from sr_quant_cli.strict import MOST, Size

_SLOPE = 0.05
"""Slope of the LeakyReLUs below zero."""

_KERNEL = 17
"""Side of the transposed convolution."""

_PARTS = 4
"""A block sets aside one part in so many; inside, its width differs by as much."""


class IDNConfig(NetworkConfig):
    """Four blocks of 64 features, of which 16 are set aside, as published."""

    recipes_from: ClassVar[str] = "edsr"

    name: Literal["idn"] = "idn"
    """network"""
    n_blocks: Size = 4
    """distillation blocks"""
    n_feats: Annotated[int, Field(ge=16, le=MOST, multiple_of=16)] = 64
    """features between blocks"""
    luma: bool = False
    """true: enlarge luma, as the original network; false: RGB, as CADyQ's"""
    compressed_act: bool = True
    """LeakyReLU behind the 1x1 convolutions, as in the original network; CADyQ's has none"""


class LeakyConv(nn.Module):
    """A convolution and LeakyReLU 0.05."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.conv, self.act_in = conv, nn.Identity()
        self.act: nn.Module = nn.LeakyReLU(_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C', H, W]``."""
        y: Tensor = self.act(self.act_in(self.conv(x)))
        return y


class DistillationBlock(nn.Module):
    """Enhancement in two parts, and compression [1]_."""

    def __init__(self, n: int, *, compressed_act: bool) -> None:
        super().__init__()
        self.taken = d = n // _PARTS
        self.block_in = nn.Identity()
        self.upper = nn.Sequential(
            LeakyConv(conv3x3(n, n - d)),
            LeakyConv(conv3x3(n - d, n - 2 * d, groups=4)),
            LeakyConv(conv3x3(n - 2 * d, n)),
        )
        self.concat_in = nn.Identity()
        self.lower = nn.Sequential(
            LeakyConv(conv3x3(n - d, n)),
            LeakyConv(conv3x3(n, n - d, groups=4)),
            LeakyConv(conv3x3(n - d, n + d)),
        )
        self.compression = LeakyConv(nn.Conv2d(n + d, n, 1))
        if not compressed_act:
            self.compression.act = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        x = self.block_in(x)
        upper = self.concat_in(self.upper(x))
        taken, rest = upper[:, : self.taken], upper[:, self.taken :]
        y: Tensor = self.compression(self.lower(rest) + torch.cat([x, taken], 1))
        return y


class IDN(Network):
    """Two convolutions, distillation blocks, a transposed convolution, plus bicubic [1]_.

    >>> IDN(IDNConfig(scale=4)).parameter_count()
    590915
    """

    scale_dependent = ("tail.",)
    branch_end = "lower.2"

    def __init__(self, config: IDNConfig) -> None:
        super().__init__(config)
        self.config: IDNConfig = config
        n, scale = config.n_feats, config.scale
        channels = 1 if config.luma else 3
        self.luma = Luma()
        self.head, self.head2 = LeakyConv(conv3x3(channels, n)), LeakyConv(conv3x3(n, n))
        self.body = nn.Sequential(
            *(
                DistillationBlock(n, compressed_act=config.compressed_act)
                for _ in range(config.n_blocks)
            )
        )
        self.before_upsampler = nn.Identity()
        centre, rest = (scale - 1, 0) if config.luma else (0, scale - 1)
        self.tail = nn.ConvTranspose2d(
            n, channels, _KERNEL, scale, padding=_KERNEL // 2 - centre, output_padding=rest
        )
        self.residual_out = nn.Identity()
        self.denormalize = Denormalize(1.0 if config.luma else RANGE, torch.zeros(3, 1, 1))

    def declared_sites(self) -> tuple[Site, ...]:
        """Head, seven convolutions per block, the end, and the tensors between them."""
        n = self.config.n_feats
        sites = []

        def add(path: str, kind: Kind, layer: nn.Module, by: Kind | None = None) -> None:
            assert isinstance(layer, LeakyConv)
            sites.append(Site(f"{path}.conv", kind, layer.in_channels, quantized_by=by))
            if isinstance(layer.act, nn.LeakyReLU):
                sites.append(Site(f"{path}.act_in", "act_in", layer.out_channels))

        add("head", "head", self.head)
        add("head2", "head", self.head2)
        for index, block in enumerate(self.body):
            assert isinstance(block, DistillationBlock)
            path = f"body.{index}"
            sites.append(Site(f"{path}.block_in", "block_in", n))
            for i, layer in enumerate(block.upper):
                if i:
                    add(f"{path}.upper.{i}", "block", layer)
                else:
                    add(f"{path}.upper.0", "block_first", layer, "block_in")
            sites.append(Site(f"{path}.concat_in", "concat_in", n))
            for i, layer in enumerate(block.lower):
                add(f"{path}.lower.{i}", "block", layer, None if i else "concat_in")
            add(f"{path}.compression", "fusion", block.compression)
        sites.append(Site("tail", "tail", n))
        sites.append(Site("residual_out", "residual_out", 1 if self.config.luma else 3))
        return tuple(sites)

    @property
    def receptive_radius(self) -> int:
        """Two at the head, six per block, and the reach of the transposed convolution."""
        return 2 + 6 * self.config.n_blocks + -(-(_KERNEL // 2) // self.scale)

    @property
    def floats_per_pixel(self) -> int:
        """Features of a block, and pictures at HR."""
        return 4 * self.config.n_feats + 4 * 3 * self.scale**2

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        given = self.luma(x) if self.config.luma else x * RANGE
        deep = self.before_upsampler(self.body(self.head2(self.head(given))))
        residual = self.residual_out(self.tail(deep))
        if self.config.luma:
            enlarged = enlarge_bicubic(x, self.scale)
            # The shifted centre gives a few pixels more. Luma changes all colours alike.
            residual = residual[:, :, : enlarged.shape[2], : enlarged.shape[3]]
            enlarged = enlarged + residual * LUMA_TO_RGB
        else:
            enlarged = residual + F.interpolate(given, scale_factor=self.scale, mode="bicubic")
        y: Tensor = self.denormalize(enlarged)
        return y
