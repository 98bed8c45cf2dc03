"""SRResNet: residual blocks with batch normalization, and PReLUs between enlargements.

Papers on quantization use the name for four networks. Three of them have this shape, work on 0..255
without a mean and have no biases. They differ in the activation functions of their blocks. The
fourth is ``msrresnet``.

==========  ==============================================  ====================================
activation  in the blocks                                   as quantized by
==========  ==============================================  ====================================
prelu       a PReLU of its own in each block                DDTB
relu        ReLU                                            DAQ
shared      one PReLU that the head and all blocks share    CADyQ
==========  ==============================================  ====================================

References
----------
.. [1] C. Ledig, L. Theis, F. Huszar, et al., "Photo-Realistic Single Image Super-Resolution Using a
       Generative Adversarial Network", CVPR 2017.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.layers import (
    RANGE,
    Denormalize,
    conv3x3,
    residual_block_sites,
    upsampling_sites,
    upsampling_stages,
)
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.strict import Size

_END = 4
"""Radius of the 9x9 convolutions at both ends."""


class SRResNetConfig(NetworkConfig):
    """DDTB's form by default."""

    recipes_from: ClassVar[str] = "edsr"

    name: Literal["srresnet"] = "srresnet"
    """network"""
    n_blocks: Size = 16
    """residual blocks"""
    n_feats: Size = 64
    """features of every hidden convolution"""
    activation: Literal["prelu", "relu", "shared"] = "prelu"
    """activation in blocks: prelu: one PReLU each; relu: ReLU; shared: the head's PReLU"""


class NormalizedBlock(nn.Module):
    """``x + norm(conv(act(norm(conv(x)))))`` [1]_.

    Parameters
    ----------
    act
        Activation; None: ``forward`` gets it.
    """

    def __init__(self, n_feats: int, act: nn.Module | None) -> None:
        super().__init__()
        self.block_in = nn.Identity()
        self.conv1, self.conv2 = (conv3x3(n_feats, n_feats, bias=False) for _ in range(2))
        self.norm1, self.norm2 = (nn.BatchNorm2d(n_feats) for _ in range(2))
        self.act = act
        self.act_in, self.block_out, self.skip = (nn.Identity() for _ in range(3))

    def forward(self, x: Tensor, shared: nn.Module) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        x = self.block_in(x)
        act = shared if self.act is None else self.act
        inner = act(self.act_in(self.norm1(self.conv1(x))))
        y: Tensor = self.block_out(self.norm2(self.conv2(inner))) + self.skip(x)
        return y


class SRResNet(Network):
    """9x9 head, blocks with a long skip, PixelShuffles with PReLUs, 9x9 tail [1]_.

    >>> SRResNet(SRResNetConfig(scale=4)).parameter_count()
    1546771
    """

    scale_dependent = ("upsampler.", "tail.")
    branch_end = "conv2"

    def __init__(self, config: SRResNetConfig) -> None:
        super().__init__(config)
        self.config: SRResNetConfig = config
        n_feats = config.n_feats
        own = {"prelu": nn.PReLU, "relu": nn.ReLU}.get(config.activation)
        self.head = nn.Conv2d(3, n_feats, 2 * _END + 1, padding=_END, bias=False)
        self.act_in, self.act = nn.Identity(), nn.PReLU()
        self.body = nn.ModuleList(
            NormalizedBlock(n_feats, own() if own else None) for _ in range(config.n_blocks)
        )
        self.body_last = conv3x3(n_feats, n_feats, bias=False)
        self.body_norm = nn.BatchNorm2d(n_feats)
        self.body_out, self.long_skip = nn.Identity(), nn.Identity()
        self.before_upsampler = nn.Identity()
        self.upsampler = upsampling_stages(n_feats, config.scale, nn.PReLU, bias=False)
        self.tail = nn.Conv2d(n_feats, 3, 2 * _END + 1, padding=_END, bias=False)
        self.denormalize = Denormalize(RANGE, torch.zeros(3, 1, 1))

    def declared_sites(self) -> tuple[Site, ...]:
        """Ends, convolutions of blocks and the tensors around them, upsampler."""
        n_feats, relu = self.config.n_feats, self.config.activation == "relu"
        sites = [Site("head", "head", 3), Site("act_in", "act_in", n_feats)]
        for index in range(self.config.n_blocks):
            sites += residual_block_sites(f"body.{index}", n_feats, relu=relu)
        return (
            *sites,
            Site("body_last", "body_last", n_feats),
            Site("body_out", "body_out", n_feats),
            Site("long_skip", "long_skip", n_feats),
            *upsampling_sites("upsampler", self.upsampler),
            Site("tail", "tail", n_feats),
        )

    @property
    def receptive_radius(self) -> int:
        """Head, two per block, end of body; upsampler and tail together reach 3 LR pixels."""
        # At x2 1 + 4/2, at x3 1 + 4/3, at x4 1 + 1/2 + 4/4.
        return _END + 2 * self.config.n_blocks + 1 + 3

    @property
    def floats_per_pixel(self) -> int:
        """Features around the last PixelShuffle and before it."""
        return int(2.25 * self.scale**2 * self.config.n_feats)

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        shallow = deep = self.act(self.act_in(self.head(x * RANGE)))
        for block in self.body:
            deep = block(deep, self.act)
        deep = self.body_out(self.body_norm(self.body_last(deep))) + self.long_skip(shallow)
        y: Tensor = self.denormalize(self.tail(self.upsampler(self.before_upsampler(deep))))
        return y
