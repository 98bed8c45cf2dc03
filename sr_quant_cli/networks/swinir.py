"""SwinIR-light: image restoration using Swin Transformer, the variant for lightweight SR.

The network has a convolution, residual groups of transformer layers, a convolution with a long
skip, and one convolution with a PixelShuffle. A layer has attention within windows of 8x8 pixels
and an MLP, each behind a LayerNorm and with a shortcut. Every second layer shifts the windows by
half a window. Stochastic depth, which the authors train with, is left out.

Pictures are padded at the bottom and right to a multiple of the window, and the output is cropped:

=========  =====================================================================================
padding    continuation of a row ``a b c d``
=========  =====================================================================================
reflect    ``c b a``, as BasicSR's SwinIR pads
symmetric  ``d c b``, as the authors' test script and 2DQuant [2]_ concatenate a mirrored copy;
           the script of the authors pads also where the size is a multiple, 2DQuant does not
=========  =====================================================================================

A picture whose size is a multiple of the window is not padded. One that is smaller than its padding
is mirrored repeatedly.

References
----------
.. [1] J. Liang, J. Cao, G. Sun, K. Zhang, L. Van Gool, R. Timofte, "SwinIR: Image Restoration Using
       Swin Transformer", ICCV Workshops 2021.
.. [2] K. Liu et al., "2DQuant: Low-bit Post-Training Quantization for Image Super-Resolution",
       NeurIPS 2024.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.layers import (
    DIV2K_MEAN,
    Crop,
    Denormalize,
    Leaf,
    MatMul,
    conv3x3,
    input_shift,
    shift_by_level,
)
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.strict import Size

MASKED = -100.0
"""Value added to the scores of pixels that are not neighbours, before the softmax [1]_."""

Padding = Literal["reflect", "symmetric"]


class SwinIRConfig(NetworkConfig):
    """SwinIR-light by default [1]_."""

    recipes_from: ClassVar[str] = "edsr"

    name: Literal["swinir_light"] = "swinir_light"
    """network"""
    embed_dim: Size = 60
    """features of every hidden layer, a multiple of the heads"""
    layers: Annotated[list[Size], Field(default=[6, 6, 6, 6], min_length=1)]
    """transformer layers of each residual group"""
    heads: Annotated[list[Size], Field(default=[6, 6, 6, 6], min_length=1)]
    """attention heads in each residual group"""
    window: Annotated[int, Field(ge=2, le=256)] = 8
    """pixels per side of a window, even"""
    mlp_ratio: Size = 2
    """hidden features of an MLP, as a multiple of ``embed_dim``"""
    padding: Padding = "reflect"
    """to a multiple of the window: reflect (BasicSR) or symmetric, edge repeated (2DQuant)"""
    exact_input: bool = False
    """a level of 8 bits is subtracted from pictures instead of the mean, so that 8-bit codes hold
    them exactly"""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if len(self.layers) != len(self.heads):
            raise ValueError("layers and heads must have one entry for each residual group")
        if any(self.embed_dim % heads for heads in self.heads):
            raise ValueError(f"embed_dim = {self.embed_dim}: must be a multiple of the heads")
        if self.window % 2:
            raise ValueError(f"window = {self.window}: must be even")
        if self.context % self.window:
            raise ValueError(f"context = {self.context}: must be a multiple of the window")
        return self


def mirrored(length: int, window: int, padding: Padding) -> Tensor:
    """Indices that pad ``length`` pixels to a multiple of the window by mirroring, int64.

    Examples
    --------
    >>> mirrored(3, 8, "reflect").tolist(), mirrored(3, 8, "symmetric").tolist()
    ([0, 1, 2, 1, 0, 1, 2, 1], [0, 1, 2, 2, 1, 0, 0, 1])
    """
    # Positions on a path to and fro; without repeated edges each end is passed once.
    places = torch.arange((length + window - 1) // window * window)
    if padding == "symmetric":
        last = torch.full((1,), 2 * length - 1)
        places = places % (last + 1)
        return torch.minimum(places, last - places)
    last = torch.full((1,), length - 1)
    places = places % (2 * last).clamp_min(1)
    return last - (last - places).abs()


class PadToWindows(Leaf):
    """Mirror a picture at the bottom and right up to a multiple of the window."""

    def __init__(self, window: int, padding: Padding) -> None:
        super().__init__()
        self.window, self.padding = window, padding

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H', W']``."""
        for dim in (2, 3):
            index = mirrored(x.shape[dim], self.window, self.padding)
            x = x.index_select(dim, index.to(x.device))
        return x


def partition(x: Tensor, window: int) -> Tensor:
    """Split into windows: ``[N, H, W, C]`` -> ``[N, windows, window^2, C]``."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(n, -1, window**2, channels)


def join(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Join windows: ``[N, windows, window^2, C]`` -> ``[N, H, W, C]``."""
    n, _, _, channels = x.shape
    x = x.reshape(n, height // window, width // window, window, window, channels)
    return x.transpose(2, 3).reshape(n, height, width, channels)


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Attention mask for pixels that share a window only because the picture was rolled.

    Returns
    -------
    ``[windows, 1, window^2, window^2]``, float32: ``MASKED`` if only one of two pixels was rolled
    over the border, else 0.
    """
    rows, columns = (
        # Only the last window has two parts.
        (torch.arange(length, device=device) >= length - window // 2).long()
        for length in (height, width)
    )
    part = partition(
        (2 * rows[:, None] + columns)[None, :, :, None], window
    )  # [1, windows, w^2, 1]
    same = part.mT == part
    return torch.where(same, 0.0, MASKED).transpose(0, 1)


class PositionBias(nn.Module):
    """Learned bias for each head and each offset between two pixels of a window."""

    index: Tensor

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        places = torch.arange(window**2)
        row, column = places // window, places % window
        down, right = (p[:, None] - p + window - 1 for p in (row, column))
        self.register_buffer("index", down * (2 * window - 1) + right, persistent=False)

    def forward(self) -> Tensor:
        """``[heads, window^2, window^2]``."""
        return self.table[self.index].permute(2, 0, 1)


class WindowAttention(nn.Module):
    """Multi-head attention between the pixels of a window [1]_.

    The two products are modules, so that they can be quantized. As long as they are not, a fused
    kernel computes both.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (_linear(channels, channels) for _ in range(3))
        self.position = PositionBias(window, heads)
        self.scores, self.mix = MatMul(), MatMul()
        self.proj = _linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``[N, windows, w^2, C]`` -> same shape; mask: see ``shift_mask``."""
        split = (*x.shape[:3], self.heads, x.shape[3] // self.heads)
        # [N, windows, heads, w^2, C / heads]
        q, k, v = (layer(x).view(split).transpose(2, 3) for layer in (self.q, self.k, self.v))
        bias = self.position()
        if self._unseen(x):
            y = _attend(q, k, v, bias, mask)
        else:
            if mask is not None:
                bias = bias + mask  # [windows, heads, w^2, w^2]
            scores = self.scores(q * q.shape[-1] ** -0.5, k.mT) + bias
            y = self.mix(scores.softmax(-1), v)
        z: Tensor = self.proj(y.transpose(2, 3).reshape(x.shape))
        return z

    def _unseen(self, x: Tensor) -> bool:
        """True if nothing quantizes, counts or traces the products: the fused kernel may run."""
        plain = type(self.scores) is type(self.mix) is MatMul
        return plain and not x.is_meta and not torch.compiler.is_compiling()


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Compute attention by torch's fused kernels, which take four dimensions."""

    def attend(picked: Tensor | slice, bias: Tensor) -> Tensor:
        a, b, c = (y[:, picked].flatten(0, 1) for y in (q, k, v))
        y = F.scaled_dot_product_attention(a, b, c, bias.to(q.dtype))
        return y.view(len(q), -1, *y.shape[1:])

    y = attend(slice(None), bias[None])
    if mask is None:
        return y
    # Only windows at two borders are masked: computing them twice is cheaper than a bias for each.
    (border,) = mask.flatten(1).any(1).nonzero(as_tuple=True)
    own = (bias + mask[border]).expand(len(q), -1, -1, -1, -1)
    return y.index_copy(1, border, attend(border, own.flatten(0, 1)))


class SwinLayer(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))`` [1]_."""

    def __init__(
        self, channels: int, heads: int, window: int, mlp_ratio: int, *, shifted: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = _linear(channels, mlp_ratio * channels)
        self.fc2 = _linear(mlp_ratio * channels, channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``[N, H, W, C]`` -> same shape; the mask is used if windows are shifted."""
        height, width = x.shape[1:3]
        y, shift = self.norm1(x), self.shift
        if shift:
            y = y.roll((-shift, -shift), (1, 2))
        y = self.attention(partition(y, self.window), mask if shift else None)
        y = join(y, self.window, height, width)
        if shift:
            y = y.roll((shift, shift), (1, 2))
        x = x + y
        branch: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + branch


class ResidualGroup(Leaf):
    """Transformer layers and a convolution, with a shortcut [1]_."""

    def __init__(self, channels: int, layers: int, heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(
            SwinLayer(channels, heads, window, mlp_ratio, shifted=bool(index % 2))
            for index in range(layers)
        )
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]``, a multiple of the window -> same shape."""
        height, width = x.shape[2:]
        mask = shift_mask(height, width, self.window, x.device)
        y = x.permute(0, 2, 3, 1)
        for layer in self.layers:
            y = layer(y, mask)
        branch: Tensor = self.conv(y.permute(0, 3, 1, 2))
        return self.shortcut(x) + branch

    def shortcut(self, x: Tensor) -> Tensor:
        """Carry the input past the branch."""
        return x


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of ``[N, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SwinIR(Network):
    """Head, residual groups with a long skip, one convolution to the picture [1]_.

    >>> SwinIR(SwinIRConfig(scale=4)).parameter_count()
    929628
    """

    scale_dependent = ("tail.",)
    branch_end = "conv"
    group: ClassVar[type[ResidualGroup]] = ResidualGroup
    """class of a residual group"""
    mean: Tensor

    def __init__(self, config: SwinIRConfig) -> None:
        super().__init__(config)
        self.config: SwinIRConfig = config
        channels, scale = config.embed_dim, config.scale
        mean = torch.tensor(DIV2K_MEAN).view(3, 1, 1)
        shift = input_shift(mean, exact=config.exact_input)
        self.register_buffer("mean", shift, persistent=False)
        self.pad = PadToWindows(config.window, config.padding)
        self.head = conv3x3(3, channels)
        self.body_norm = ChannelNorm(channels)
        self.body = nn.Sequential(
            *(
                self.group(channels, layers, heads, config.window, config.mlp_ratio)
                for layers, heads in zip(config.layers, config.heads, strict=True)
            )
        )
        self.norm = ChannelNorm(channels)
        self.body_last = conv3x3(channels, channels)
        self.body_out = nn.Identity()
        self.long_skip = nn.Identity()
        self.before_upsampler = nn.Identity()
        self.tail = nn.Sequential(conv3x3(channels, 3 * scale**2), nn.PixelShuffle(scale))
        self.crop = Crop(scale)
        self.denormalize = Denormalize(1.0, mean)

    def declared_sites(self) -> tuple[Site, ...]:
        """Head, eight per layer, one per group, end of body and its output, long skip, tail.

        2DQuant also leaves the convolutions of groups in floating point [2]_: recipes that follow
        it set ``sites.block``.
        """
        channels = self.config.embed_dim
        return (
            Site("head", "head", 3),
            *self._group_sites(),
            Site("body_last", "body_last", channels),
            Site("body_out", "body_out", channels),
            Site("long_skip", "long_skip", channels),
            Site("tail.0", "tail", channels),
        )

    def _group_sites(self) -> Iterator[Site]:
        config = self.config
        channels, pixels = config.embed_dim, config.window**2
        for index, (layers, heads) in enumerate(zip(config.layers, config.heads, strict=True)):
            for number in range(layers):
                layer = f"body.{index}.layers.{number}"
                yield from (Site(f"{layer}.attention.{x}", "linear", channels) for x in "qkv")
                yield Site(f"{layer}.attention.scores", "matmul", channels // heads)
                yield Site(f"{layer}.attention.mix", "matmul", pixels, unsigned=True)
                yield Site(f"{layer}.attention.proj", "linear", channels)
                yield Site(f"{layer}.fc1", "linear", channels)
                yield Site(f"{layer}.fc2", "linear", config.mlp_ratio * channels, after_gelu=True)
            yield Site(f"body.{index}.conv", "block", channels)

    @property
    def alignment(self) -> int:
        """Side of a window, as windows start at the top left corner."""
        return self.config.window

    @property
    def receptive_radius(self) -> int:
        """Radius of the pixel in a window that sees farthest, traced back through all layers."""
        return max(max(place - first, last - place) for place, first, last in self._seen())

    def _seen(self) -> Iterator[tuple[int, int, int]]:
        """Yield the position of each pixel in a window, and the first and last one it sees."""
        window = self.config.window
        for place in range(window):
            first, last = place - 2, place + 2  # tail, end of body
            for group in reversed(self.executed_groups()):
                first, last = first - 1, last + 1
                for layer in reversed(group.layers):
                    assert isinstance(layer, SwinLayer)
                    first = (first - layer.shift) // window * window + layer.shift
                    last = (last - layer.shift) // window * window + layer.shift + window - 1
            yield place, first - 1, last + 1  # head

    def executed_groups(self) -> list[ResidualGroup]:
        """List the residual groups that run at the current depth, in order."""
        return [group for group in self.body if isinstance(group, ResidualGroup)]

    def features(self) -> dict[str, tuple[str, ...]]:
        """Paths of all networks, and ``tokens``: the last transformer layers of the groups."""
        tokens = tuple(
            f"body.{name}.layers.{len(group.layers) - 1}"
            for name, group in self.body.named_children()
            if isinstance(group, ResidualGroup)
        )
        return super().features() | {"tokens": tokens}

    def make_input_exact(self) -> None:
        """Subtract a level of 8 bits from pictures instead of the mean."""
        shift_by_level(self.head, self.mean, 1.0)
        self.config = self.config.model_copy(update={"exact_input": True})

    @property
    def floats_per_pixel(self) -> int:
        """Three attention maps and the features around them."""
        config = self.config
        return 3 * max(config.heads) * config.window**2 + (6 + config.mlp_ratio) * config.embed_dim

    def enlarge(self, x: Tensor) -> Tensor:
        """Enlarge a batch: RGB 0..1 ``[N, 3, H, W]`` -> ``[N, 3, sH, sW]``."""
        shallow = self.head(self.pad(x) - self.mean)
        deep = self.body_last(self.norm(self.body(self.body_norm(shallow))))
        deep = self.body_out(deep) + self.long_skip(shallow)
        enlarged = self.crop(self.tail(self.before_upsampler(deep)), x)
        y: Tensor = self.denormalize(enlarged)
        return y


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Make a linear layer, initialized as the authors do."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
