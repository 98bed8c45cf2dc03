"""MSRResNet: SRResNet without batch normalization, added to a bilinear enlargement.

It comes from ESRGAN's authors and is called SRResNet in BasicSR. DBDC+PaC quantizes it. It works on
0..1.

References
----------
.. [1] X. Wang, K. Yu, S. Wu, J. Gu, Y. Liu, C. Dong, Y. Qiao, C. C. Loy, "ESRGAN: Enhanced
       Super-Resolution Generative Adversarial Networks", ECCV Workshops 2018.
"""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.edsr import ResidualBlock
from sr_quant_cli.networks.layers import (
    Denormalize,
    conv3x3,
    residual_block_sites,
    upsampling_sites,
    upsampling_stages,
)
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.strict import Size

_SLOPE = 0.1
"""Slope below zero of the LeakyReLUs outside the blocks."""


class MSRResNetConfig(NetworkConfig):
    """16 blocks of 64 features by default."""

    recipes_from: ClassVar[str] = "edsr"

    name: Literal["msrresnet"] = "msrresnet"
    """network"""
    n_blocks: Size = 16
    """residual blocks"""
    n_feats: Size = 64
    """features of every hidden convolution"""


class MSRResNet(Network):
    """Head, residual blocks, upsampler, two convolutions, plus the enlarged picture [1]_.

    >>> MSRResNet(MSRResNetConfig(scale=4)).parameter_count()
    1517571
    """

    scale_dependent = ("upsampler.", "last.", "tail.")
    branch_end = "conv2"

    def __init__(self, config: MSRResNetConfig) -> None:
        super().__init__(config)
        self.config: MSRResNetConfig = config
        n_feats = config.n_feats
        leaky = partial(nn.LeakyReLU, _SLOPE)
        self.head, self.act_in, self.act = conv3x3(3, n_feats), nn.Identity(), leaky()
        self.body = nn.Sequential(*(ResidualBlock(n_feats, 1.0) for _ in range(config.n_blocks)))
        self.before_upsampler = nn.Identity()
        self.upsampler = upsampling_stages(n_feats, config.scale, leaky)
        self.last, self.last_in, self.last_act = conv3x3(n_feats, n_feats), nn.Identity(), leaky()
        self.tail = conv3x3(n_feats, 3)
        self.residual_out = nn.Identity()
        self.denormalize = Denormalize(1.0, torch.zeros(3, 1, 1))

    def declared_sites(self) -> tuple[Site, ...]:
        """Ends, five per block, upsampler, and the tensors that enter a LeakyReLU."""
        n_feats = self.config.n_feats
        sites = [Site("head", "head", 3), Site("act_in", "act_in", n_feats)]
        for index in range(self.config.n_blocks):
            sites += residual_block_sites(f"body.{index}", n_feats)
        return (
            *sites,
            *upsampling_sites("upsampler", self.upsampler),
            Site("last", "upsampler", n_feats),
            Site("last_in", "act_in", n_feats),
            Site("tail", "tail", n_feats),
            Site("residual_out", "residual_out", 3),
        )

    @property
    def receptive_radius(self) -> int:
        """Head, two per block, and 2 LR pixels behind the body."""
        # At x2 1 + 2/2, at x3 1 + 2/3, at x4 1 + 1/2 + 2/4.
        return 1 + 2 * self.config.n_blocks + 2

    @property
    def floats_per_pixel(self) -> int:
        """Features of the last layers, at HR."""
        return int(2.25 * self.scale**2 * self.config.n_feats)

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        shallow = self.act(self.act_in(self.head(x)))
        enlarged = self.upsampler(self.before_upsampler(self.body(shallow)))
        residual = self.residual_out(self.tail(self.last_act(self.last_in(self.last(enlarged)))))
        base = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        y: Tensor = self.denormalize(residual + base)
        return y
