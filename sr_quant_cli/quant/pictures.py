"""Statistics of a picture, or of a layer's input, that bit providers choose by.

==================  ==================================================  =======================
function            gives                                               used by
==================  ==================================================  =======================
sobel_gradients     mean slope in x and y, or its magnitude             CADyQ, AdaBM
edge_score          mean absolute Laplacian                             CABM
entropy             of the distribution of grey values                  Granular-DQ
deviations          standard deviation of every channel                 CADyQ
==================  ==================================================  =======================

Pictures are RGB 0..1, float32 ``[N, 3, H, W]``. Their borders are replicated for the kernels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)
"""Weights of RGB in the luma (ITU-R BT.601)."""

ENTROPY_BINS, ENTROPY_WIDTH = 32, 0.0255
"""Points on 0..1 where the density is estimated, and deviation of its kernel (Granular-DQ)."""


def grey(picture: Tensor) -> Tensor:
    """Luma of a picture: ``[N, 3, H, W]`` -> ``[N, 1, H, W]``."""
    return (picture * picture.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)


def sobel_gradients(picture: Tensor, *, magnitude: bool = False) -> Tensor:
    """Mean absolute slope of the grey picture, per pixel, by Sobel's kernel divided by 8.

    >>> ramp = torch.arange(5.0).expand(1, 3, 4, 5) / 10
    >>> inside = sobel_gradients(ramp)  # 0.1 a pixel, half of that at the border
    >>> [round(value, 4) for value in inside[0].tolist()]
    [0.08, 0.0]

    Parameters
    ----------
    magnitude
        Return the mean length of the gradient, ``[N, 1]``, instead of ``[N, 2]``.
    """
    across = picture.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([across, across.T])[:, None]
    slopes = F.conv2d(_padded(grey(picture)), kernels)
    if magnitude:
        return slopes.square().sum(1, keepdim=True).sqrt().mean((2, 3))
    return slopes.abs().mean((2, 3))


def edge_score(picture: Tensor) -> Tensor:
    """Mean absolute Laplacian of the grey picture on 0..255: ``[N]``.

    >>> dot = torch.zeros(1, 3, 3, 3)
    >>> dot[:, :, 1, 1] = 9 / 255
    >>> round(edge_score(dot).item(), 4)  # 4 times 9 in the middle, 9 at its four neighbours
    8.0
    """
    kernel = picture.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    edges = F.conv2d(_padded(255 * grey(picture)), kernel[None, None])
    return edges.abs().mean((1, 2, 3))


def entropy(picture: Tensor) -> Tensor:
    """Entropy in nats of the grey values' density, estimated at ``ENTROPY_BINS`` points: ``[N]``.

    >>> flat = torch.full((1, 3, 4, 4), 0.5)
    >>> round(entropy(flat).item(), 3)
    1.184
    """
    values = grey(picture).flatten(1)
    points = torch.linspace(0, 1, ENTROPY_BINS, device=picture.device)
    density = torch.stack(
        [(-0.5 * ((values - point) / ENTROPY_WIDTH).square()).exp().mean(1) for point in points], 1
    )
    p = density / density.sum(1, keepdim=True)
    return -(p * p.clamp_min(1e-40).log()).sum(1)


def deviations(x: Tensor) -> Tensor:
    """Unbiased standard deviation of every channel over its pixels: ``[N, C, H, W]`` -> ``[N, C]``.

    0 for a single pixel.
    """
    if math.prod(x.shape[2:]) == 1:
        return torch.zeros_like(x[:, :, 0, 0])
    return x.std((2, 3))


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="replicate")
