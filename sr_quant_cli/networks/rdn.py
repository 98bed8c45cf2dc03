"""RDN: residual dense network for image super-resolution.

Configuration A has 20 blocks of 6 layers that add 32 features each. B has 16 blocks of 8 layers
that add 64; it is the default, as papers on quantization use it. The network works on 0..255 and
subtracts no mean.

References
----------
.. [1] Y. Zhang, Y. Tian, Y. Kong, B. Zhong, Y. Fu, "Residual Dense Network for Image
       Super-Resolution", CVPR 2018.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.layers import RANGE, Denormalize, Upsampler, conv3x3
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.strict import Size


class RDNConfig(NetworkConfig):
    """Configuration B by default; A is 20 blocks, 6 layers, growth 32."""

    recipes_from: ClassVar[str] = "edsr"

    name: Literal["rdn"] = "rdn"
    """network"""
    n_blocks: Size = 16
    """residual dense blocks (D)"""
    n_layers: Size = 8
    """convolutions in a block (C)"""
    growth: Size = 64
    """features that each of them adds (G)"""
    n_feats: Size = 64
    """features between blocks (G0)"""


class DenseLayer(nn.Module):
    """``[x, relu(conv(x))]``: the input and new features, concatenated [1]_."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.dense_in = nn.Identity()
        self.conv = conv3x3(channels, growth)
        self.concat_in = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C + growth, H, W]``."""
        x = self.dense_in(x)
        return torch.cat([x, self.concat_in(self.conv(x).relu_())], 1)


class ResidualDenseBlock(nn.Module):
    """``x + fusion(dense layers of x)`` [1]_."""

    def __init__(self, n_feats: int, growth: int, n_layers: int) -> None:
        super().__init__()
        self.block_in = nn.Identity()
        self.layers = nn.Sequential(
            *(DenseLayer(n_feats + i * growth, growth) for i in range(n_layers))
        )
        self.fusion = nn.Conv2d(n_feats + n_layers * growth, n_feats, 1)
        self.block_out = nn.Identity()
        self.skip = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        x = self.block_in(x)
        y: Tensor = self.block_out(self.fusion(self.layers(x))) + self.skip(x)
        return y


class RDN(Network):
    """Two shallow convolutions, residual dense blocks, fusion of their outputs, upsampler [1]_.

    >>> RDN(RDNConfig(scale=4)).parameter_count()
    22271107
    """

    scale_dependent = ("upsampler.", "tail.")
    branch_end = "fusion"

    def __init__(self, config: RDNConfig) -> None:
        super().__init__(config)
        self.config: RDNConfig = config
        n_feats = config.n_feats
        self.head = conv3x3(3, n_feats)
        self.head2 = conv3x3(n_feats, n_feats)
        self.body = nn.ModuleList(
            ResidualDenseBlock(n_feats, config.growth, config.n_layers)
            for _ in range(config.n_blocks)
        )
        self.fusion = nn.Conv2d(config.n_blocks * n_feats, n_feats, 1)
        self.body_last = conv3x3(n_feats, n_feats)
        self.body_out = nn.Identity()
        self.long_skip = nn.Identity()
        self.before_upsampler = nn.Identity()
        self.upsampler = Upsampler(n_feats, config.scale, config.growth)
        self.tail = conv3x3(config.growth, 3)
        self.denormalize = Denormalize(RANGE, torch.zeros(3, 1, 1))

    def declared_sites(self) -> tuple[Site, ...]:
        """Ends, every block with its layers and fusion, and the fusion of all blocks."""
        config = self.config
        n_feats, growth = config.n_feats, config.growth
        sites = [Site("head", "head", 3), Site("head2", "head", n_feats)]
        for index in range(config.n_blocks):
            block = f"body.{index}"
            sites.append(Site(f"{block}.block_in", "block_in", n_feats))
            for i in range(config.n_layers):
                layer, channels = f"{block}.layers.{i}", n_feats + i * growth
                if i:
                    sites += [
                        Site(f"{layer}.dense_in", "dense_in", channels),
                        Site(f"{layer}.conv", "block", channels, quantized_by="dense_in"),
                    ]
                else:
                    first = Site(f"{layer}.conv", "block_first", n_feats, quantized_by="block_in")
                    sites.append(first)
                sites.append(Site(f"{layer}.concat_in", "concat_in", growth))
            sites += [
                Site(f"{block}.fusion", "fusion", n_feats + config.n_layers * growth),
                Site(f"{block}.block_out", "block_out", n_feats),
                Site(f"{block}.skip", "skip", n_feats, quantized_by="block_in"),
            ]
        return (
            *sites,
            Site("fusion", "fusion", config.n_blocks * n_feats),
            Site("body_last", "body_last", n_feats),
            Site("body_out", "body_out", n_feats),
            Site("long_skip", "long_skip", n_feats),
            *(
                Site(f"upsampler.{i}", "upsampler", growth if i else n_feats)
                for i in self.upsampler.convolutions
            ),
            Site("tail", "tail", growth),
        )

    @property
    def receptive_radius(self) -> int:
        """One per 3x3 convolution, and the reach of upsampler and tail as in EDSR."""
        return 5 + self.config.n_blocks * self.config.n_layers

    @property
    def floats_per_pixel(self) -> int:
        """Outputs of all blocks, and the larger of a block's layers and the features at HR."""
        config = self.config
        dense = 2 * (config.n_feats + config.n_layers * config.growth)
        enlarged = 0 if config.folded else int(2.25 * self.scale**2 * config.growth)
        return config.n_blocks * config.n_feats + max(dense, enlarged)

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        shallow = self.head(x * RANGE)
        deep, outputs = self.head2(shallow), []
        for block in self.body:
            deep = block(deep)
            outputs.append(deep)
        fused = self.body_out(self.body_last(self.fusion(torch.cat(outputs, 1))))
        enlarged = self.upsampler(self.before_upsampler(fused + self.long_skip(shallow)))
        y: Tensor = self.denormalize(self.tail(enlarged))
        return y
