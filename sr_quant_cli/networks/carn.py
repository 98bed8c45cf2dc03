"""CARN and CARN-M: cascading residual networks.

A cascade is a sequence of units. Behind each unit a 1x1 convolution merges the outputs of all units
so far. CARN is a cascade of cascades of residual blocks. CARN-M has grouped convolutions, and the
blocks of a cascade share their weights. The published networks have branches for x2, x3 and x4;
here a network has one. It works on 0..1 around DIV2K's mean.

References
----------
.. [1] N. Ahn, B. Kang, K.-A. Sohn, "Fast, Accurate, and Lightweight Super-Resolution with Cascading
       Residual Network", ECCV 2018.
"""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.layers import (
    DIV2K_MEAN,
    Denormalize,
    conv3x3,
    input_shift,
    shift_by_level,
    upsampling_sites,
    upsampling_stages,
)
from sr_quant_cli.quant.sites import Kind, Site
from sr_quant_cli.strict import Size

_UNITS = 3
"""Units of a cascade."""


class CARNConfig(NetworkConfig):
    """CARN by default; CARN-M has 4 groups and shared blocks."""

    recipes_from: ClassVar[str] = "edsr"

    name: Literal["carn"] = "carn"
    """network"""
    n_feats: Size = 64
    """features of every hidden convolution"""
    groups: Size = 1
    """groups of the 3x3 convolutions; with several, blocks end with a 1x1 convolution"""
    shared: bool = False
    """the blocks of a cascade share their weights"""
    exact_input: bool = False
    """a level of 8 bits is subtracted from pictures instead of the mean, so that 8-bit codes hold
    them exactly"""


class CARNBlock(nn.Module):
    """``relu(x + convs(x))`` with ReLUs between the convolutions [1]_."""

    def __init__(self, n_feats: int, groups: int) -> None:
        super().__init__()
        self.n_feats = n_feats
        self.block_in = nn.Identity()
        self.conv1, self.conv2 = (conv3x3(n_feats, n_feats, groups=groups) for _ in range(2))
        self.conv3 = nn.Conv2d(n_feats, n_feats, 1) if groups > 1 else None
        self.block_out, self.skip = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        x = self.block_in(x)
        branch = self.conv2(self.conv1(x).relu_())
        if self.conv3 is not None:
            branch = self.conv3(branch.relu_())
        y: Tensor = (self.block_out(branch) + self.skip(x)).relu_()
        return y

    def sites(self, path: str, *, entered: bool) -> Iterable[Site]:
        """List the sites below ``path``.

        ``entered`` tells that a cascade begins with this block, which is used there only.
        """
        n_feats = self.n_feats
        carried: Kind | None = "concat_in" if entered else None
        yield Site(f"{path}.block_in", "block_in", n_feats, quantized_by=carried)
        yield Site(f"{path}.conv1", "block_first", n_feats, quantized_by="block_in")
        yield Site(f"{path}.conv2", "block", n_feats, unsigned=True)
        if self.conv3 is not None:
            yield Site(f"{path}.conv3", "block", n_feats, unsigned=True)
        yield Site(f"{path}.block_out", "block_out", n_feats)
        yield Site(f"{path}.skip", "skip", n_feats, quantized_by="block_in")


class Cascade(nn.Module):
    """Units, each followed by a fusion of all outputs so far [1]_.

    Parameters
    ----------
    units
        Three units, or one that is used three times.
    """

    def __init__(self, n_feats: int, units: Iterable[nn.Module]) -> None:
        super().__init__()
        self.n_feats = n_feats
        self.units = nn.ModuleList(units)
        self.fusions = nn.ModuleList(
            nn.Conv2d((i + 2) * n_feats, n_feats, 1) for i in range(_UNITS)
        )
        self.concat_in = nn.ModuleList(nn.Identity() for _ in range(_UNITS + 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        x = self.concat_in[0](x)
        kept = [x]
        for index, fusion in enumerate(self.fusions):
            unit = self.units[index % len(self.units)]
            kept.append(self.concat_in[index + 1](unit(x)))
            x = fusion(torch.cat(kept, 1)).relu_()
        return x

    def sites(self, path: str, *, unsigned: bool, entered: bool = False) -> Iterable[Site]:
        """List the sites below ``path``, in the order of their first use.

        Parameters
        ----------
        unsigned
            The input is never negative.
        entered
            An outer cascade begins with this one.
        """
        n_feats = self.n_feats
        carried: Kind | None = "concat_in" if entered else None
        yield Site(f"{path}.concat_in.0", "concat_in", n_feats, quantized_by=carried)
        for index in range(_UNITS):
            if index < len(self.units):
                unit, inner = self.units[index], f"{path}.units.{index}"
                if isinstance(unit, Cascade):
                    later = index > 0
                    yield from unit.sites(inner, unsigned=unsigned or later, entered=not later)
                elif isinstance(unit, CARNBlock):
                    first = index == 0 and len(self.units) > 1
                    yield from unit.sites(inner, entered=first)
            yield Site(f"{path}.concat_in.{index + 1}", "concat_in", n_feats)
            # All inputs come from ReLUs, except the one from the head.
            channels = (index + 2) * n_feats
            yield Site(f"{path}.fusions.{index}", "fusion", channels, unsigned=unsigned)


class CARN(Network):
    """Head, cascade of cascades, upsampler of ReLUs, tail [1]_.

    >>> CARN(CARNConfig(scale=4)).parameter_count()
    1111875
    """

    scale_dependent = ("upsampler.", "tail.")
    mean: Tensor

    def __init__(self, config: CARNConfig) -> None:
        super().__init__(config)
        self.config: CARNConfig = config
        n_feats, groups = config.n_feats, config.groups

        def cascade() -> Cascade:
            blocks = 1 if config.shared else _UNITS
            return Cascade(n_feats, (CARNBlock(n_feats, groups) for _ in range(blocks)))

        mean = torch.tensor(DIV2K_MEAN).view(3, 1, 1)
        shift = input_shift(mean, exact=config.exact_input)
        self.register_buffer("mean", shift, persistent=False)
        self.head = conv3x3(3, n_feats)
        self.body = Cascade(n_feats, (cascade() for _ in range(_UNITS)))
        self.before_upsampler = nn.Identity()
        self.upsampler = upsampling_stages(
            n_feats, config.scale, partial(nn.ReLU, inplace=True), groups=groups
        )
        self.tail = conv3x3(n_feats, 3)
        self.denormalize = Denormalize(1.0, mean)

    def declared_sites(self) -> tuple[Site, ...]:
        """Head, blocks and fusions of the cascades, upsampler, tail."""
        n_feats = self.config.n_feats
        return (
            Site("head", "head", 3),
            *self.body.sites("body", unsigned=False),
            *upsampling_sites("upsampler", self.upsampler, unsigned=True),
            Site("tail", "tail", n_feats, unsigned=True),
        )

    def features(self) -> dict[str, tuple[str, ...]]:
        """Input of the upsampler, outputs of inner cascades, and of the last convolutions of units.

        A unit that is used three times gives three features.
        """
        cascades = tuple(f"body.units.{index}" for index in range(_UNITS))
        last = "conv3" if self.config.groups > 1 else "conv2"
        units = range(1 if self.config.shared else _UNITS)
        return {
            "pre_upsampler": ("before_upsampler",),
            "blocks": cascades,
            "branches": tuple(f"{path}.units.{unit}.{last}" for path in cascades for unit in units),
        }

    @property
    def receptive_radius(self) -> int:
        """Head, two per block, and the reach of upsampler and tail as in EDSR."""
        return 1 + 2 * _UNITS**2 + 2

    def make_input_exact(self) -> None:
        """Subtract a level of 8 bits from pictures instead of the mean."""
        shift_by_level(self.head, self.mean, 1.0)
        self.config = self.config.model_copy(update={"exact_input": True})

    @property
    def floats_per_pixel(self) -> int:
        """The larger of the features around the last PixelShuffle and those of two cascades."""
        n_feats = self.config.n_feats
        return max(int(2.25 * self.scale**2 * n_feats), 2 * (_UNITS + 1) * n_feats)

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        deep = self.body(self.head(x - self.mean))
        y: Tensor = self.denormalize(self.tail(self.upsampler(self.before_upsampler(deep))))
        return y
