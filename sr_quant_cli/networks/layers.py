"""Layers that several networks share."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.quant.sites import Site

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K's training pictures, range 0..1 (EDSR)."""

LEVEL = 110 / 255
"""Level of 8 bits near the mean of DIV2K's channels."""

RANGE = 255.0
"""Factor of networks that work on 0..255 inside; their input and output are 0..1."""

STAGES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
"""Factors of the PixelShuffles that make up a scale."""

LUMA_WEIGHTS = (65.481, 128.553, 24.966)
"""Weights of RGB (0..1) in BT.601 luma (16..235), without the offset of 16."""


def conv3x3(
    in_channels: int, out_channels: int, *, groups: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Make a 3x3 convolution whose zero padding keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=groups, bias=bias)


class Luma(nn.Module):
    """BT.601 luma: RGB 0..1 ``[N, 3, H, W]`` -> 16/255..235/255 ``[N, 1, H, W]``.

    >>> Luma()(torch.ones(1, 3, 1, 1)).mul(255).round().item()
    235.0
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        weights = torch.tensor(LUMA_WEIGHTS).view(3, 1, 1) / 255
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """RGB 0..1 ``[N, 3, H, W]`` -> luma ``[N, 1, H, W]``."""
        return (x * self.weights).sum(1, keepdim=True) + 16 / 255


LUMA_TO_RGB = 255 / 219
"""Change of all three colours for a change of luma by 1."""


@torch.library.custom_op("srq::enlarge_bicubic", mutates_args=())
def enlarge_bicubic(x: Tensor, scale: int) -> Tensor:
    """Enlarge by MATLAB's bicubic kernel (a = -1/2), with edge pixels repeated.

    ``[N, C, H, W]`` -> ``[N, C, sH, sW]``.
    """
    return _enlarge_bicubic(x, scale)


def _enlarge_bicubic(x: Tensor, scale: int) -> Tensor:
    channels = x.shape[1]
    phases = torch.tensor(
        [[_cubic((k + 0.5) / scale - 0.5 - tap) for tap in range(-2, 3)] for k in range(scale)]
    )
    kernel = torch.einsum("iy,jx->ijyx", phases, phases).reshape(scale**2, 1, 5, 5)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    filtered = F.conv2d(padded, kernel.to(x).repeat(channels, 1, 1, 1), groups=channels)
    return F.pixel_shuffle(filtered, scale)


@enlarge_bicubic.register_fake
def _(x: Tensor, scale: int) -> Tensor:
    n, c, h, w = x.shape
    return x.new_empty(n, c, h * scale, w * scale)


def _keep_shape(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.shape, ctx.scale = inputs[0].shape, inputs[1]


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    with torch.enable_grad():
        x = grad.new_zeros(ctx.shape).requires_grad_()
        (back,) = torch.autograd.grad(_enlarge_bicubic(x, ctx.scale), x, grad)
    return back, None


enlarge_bicubic.register_autograd(_gradient, setup_context=_keep_shape)


def _cubic(t: float) -> float:
    """Evaluate Keys' kernel with a = -1/2."""
    t = math.fabs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


class Leaf(nn.Module):
    """Base of a module that tracing does not enter.

    Tracing looks for layers that can be folded or merged. It enters every module but torch's own.
    Derive from this one where ``forward`` branches on sizes or values, which cannot be traced.
    """


class ScaledBranch(nn.Module):
    """Base of a block that adds ``res_scale`` times its branch to its input.

    The branch ends in ``block_out``, the identity at which its output may be quantized. Where it
    is, lowering makes the factor a part of the step there, and ``res_scale`` becomes 1.
    """

    block_out: nn.Module
    res_scale: float

    def give_up_scale(self) -> float:
        """Leave the factor to ``block_out``, and return it."""
        scale, self.res_scale = self.res_scale, 1.0
        return scale


class Denormalize(Leaf):
    """Map a network's values back to 0..1: ``x / scale + mean`` for each channel.

    Parameters
    ----------
    scale
        Width of the network's value range.
    mean
        ``[C, 1, 1]``, 0..1: mean that was subtracted from the input.

    Examples
    --------
    >>> import torch
    >>> Denormalize(255.0, torch.full((1, 1, 1), 0.5))(torch.tensor([[[51.0]]])).item()
    0.699999988079071
    """

    mean: Tensor

    def __init__(self, scale: float, mean: Tensor) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` of any floating type -> float32, same shape."""
        return x.float() / self.scale + self.mean


def input_shift(mean: Tensor, *, exact: bool) -> Tensor:
    """Make the colour ``[C, 1, 1]`` that is subtracted from pictures: a mean, or a level for it."""
    return torch.full_like(mean, LEVEL) if exact else mean.clone()


@torch.no_grad()
def shift_by_level(head: nn.Conv2d, shift: Tensor, factor: float) -> None:
    """Subtract a level of 8 bits in front of a convolution instead of a mean, in place.

    Parameters
    ----------
    shift
        Colour that is subtracted ``[C, 1, 1]``, 0..1.
    factor
        Factor of what is left, before the convolution.

    Examples
    --------
    >>> head, shift = nn.Conv2d(3, 2, 1), torch.tensor(DIV2K_MEAN).view(3, 1, 1)
    >>> x = torch.rand(1, 3, 4, 4)
    >>> before = head((x - shift) * 255)
    >>> shift_by_level(head, shift, 255.0)
    >>> torch.allclose(head((x - shift) * 255), before, atol=1e-4)
    True
    """
    assert head.bias is not None
    head.bias += factor * head.weight.sum((2, 3)) @ (LEVEL - shift.flatten())
    shift.fill_(LEVEL)


class Surround(Leaf):
    """Mirrored padding, as ``numpy.pad`` with ``symmetric``.

    Bicubic reduction mirrors pictures at their edges in the same way, so the padding is the LR
    picture of the mirrored HR one. Nothing is padded during training.

    Parameters
    ----------
    width
        Pixels at each side.

    Examples
    --------
    >>> Surround(2).eval()(torch.arange(3.0).view(1, 1, 1, 3))[0, 0, 0].tolist()
    [1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 1.0]
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H + 2 width, W + 2 width]``."""
        if not self.width or self.training:
            return x
        rows, columns = (around(size, self.width, x.device) for size in x.shape[2:])
        return x.index_select(2, rows).index_select(3, columns)


def around(size: int, width: int, device: torch.device) -> Tensor:
    """Indices of a side of ``size`` pixels with ``width`` mirrored ones at both ends, int64.

    If ``width`` exceeds ``size``, the outermost pixel repeats.

    >>> around(4, 2, torch.device("cpu")).tolist()
    [1, 0, 0, 1, 2, 3, 3, 2]
    """
    position = torch.arange(-width, size + width, device=device)
    position = torch.where(position < 0, -1 - position, position)
    return torch.minimum(position, 2 * size - 1 - position).clamp(min=0)


class Trim(Leaf):
    """Cut the enlarged padding off a picture.

    Parameters
    ----------
    width
        Pixels at each side.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H - 2 width, W - 2 width]``."""
        if not self.width or self.training:
            return x
        return x[:, :, self.width : -self.width, self.width : -self.width]


class UpsamplingStage(nn.Module):
    """Convolution, activation function, PixelShuffle.

    An activation behind the PixelShuffle would give the same.

    Parameters
    ----------
    act_in
        Put a tensor site before the activation, which integer kernels do not have.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module, factor: int, *, act_in: bool) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.conv, self.act, self.shuffle = conv, act, nn.PixelShuffle(factor)
        self.act_in = nn.Identity() if act_in else None

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, fH, fW]``."""
        x = self.conv(x)
        if self.act_in is not None:
            x = self.act_in(x)
        y: Tensor = self.shuffle(self.act(x))
        return y


def upsampling_stages(
    n_feats: int, scale: int, act: Callable[[], nn.Module], *, groups: int = 1, bias: bool = True
) -> nn.Sequential:
    """Make the ``STAGES`` of a scale, each with its own activation."""
    factors = STAGES[scale]
    return nn.Sequential(
        *(
            UpsamplingStage(
                conv3x3(n_feats, factor**2 * n_feats, groups=groups, bias=bias),
                activation := act(),
                factor,
                act_in=not isinstance(activation, nn.ReLU),
            )
            for factor in factors
        )
    )


def upsampling_sites(path: str, stages: nn.Sequential, *, unsigned: bool = False) -> list[Site]:
    """List the sites of the stages at a path.

    Parameters
    ----------
    unsigned
        The input of the first stage is never negative.
    """
    sites = []
    for index, stage in enumerate(stages):
        assert isinstance(stage, UpsamplingStage)
        channels, inner = stage.in_channels, f"{path}.{index}"
        behind_relu = stage.act_in is None if index else unsigned
        sites.append(Site(f"{inner}.conv", "upsampler", channels, unsigned=behind_relu))
        if stage.act_in is not None:
            sites.append(Site(f"{inner}.act_in", "act_in", stage.out_channels))
    return sites


def residual_block_sites(block: str, n_feats: int, *, relu: bool = True) -> list[Site]:
    """List the sites of a residual block of two convolutions, in the order of computation.

    The block has modules ``block_in``, ``conv1``, ``conv2``, ``block_out`` and ``skip``.

    Parameters
    ----------
    relu
        A ReLU stands between the convolutions; if not, the input of the activation is a site
        ``act_in``.
    """
    return [
        Site(f"{block}.block_in", "block_in", n_feats),
        Site(f"{block}.conv1", "block_first", n_feats, quantized_by="block_in"),
        *([] if relu else [Site(f"{block}.act_in", "act_in", n_feats)]),
        Site(f"{block}.conv2", "block", n_feats, unsigned=relu),
        Site(f"{block}.block_out", "block_out", n_feats),
        Site(f"{block}.skip", "skip", n_feats, quantized_by="block_in"),
    ]


class Crop(Leaf):
    """Crop an enlarged picture to the size of the LR picture before padding.

    >>> import torch
    >>> Crop(2)(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 5, 7)).shape
    torch.Size([1, 3, 10, 14])
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, lr: Tensor) -> Tensor:
        """``[N, C, sH', sW']`` and ``[N, C, H, W]`` -> ``[N, C, sH, sW]``."""
        return x[:, :, : self.scale * lr.shape[2], : self.scale * lr.shape[3]]


class MatMul(Leaf):
    """Product of two activations, a module so that it can be quantized."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., n, k]`` and ``[..., k, m]`` -> ``[..., n, m]``."""
        return a @ b


class Upsampler(nn.Sequential):
    """Convolution and PixelShuffle for each of the ``STAGES`` of a scale.

    Parameters
    ----------
    enlarged_feats
        Features of the output; None: as many as the input has.
    """

    def __init__(self, n_feats: int, scale: int, enlarged_feats: int | None = None) -> None:
        layers: list[nn.Module] = []
        given, out = n_feats, enlarged_feats or n_feats
        for factor in STAGES[scale]:
            layers += [conv3x3(given, factor**2 * out), nn.PixelShuffle(factor)]
            given = out
        super().__init__(*layers)
        self.convolutions = range(0, len(layers), 2)
        """indices of the convolutions"""
