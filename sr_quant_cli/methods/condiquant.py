"""CondiQuant: weights of a small condition number, then 2DQuant.

The condition number of a matrix, the ratio of its largest and smallest singular value, tells how
much an error of the input may change the output. Before ranges are found, the matrix ``W`` of each
layer is replaced by a better conditioned one with nearly the same products ``X W`` on the
calibration pictures (``W_0`` is the matrix at the start). Two steps alternate:

    gradient step    W = W - H (W - W_0) / L,    H = X' X / n,    L the largest eigenvalue of H
    proximal step    W = U S' V',    S'_i = mean(S) + (1 - shrink) (S_i - mean(S)),    W = U S V'

The first is a step of gradient descent on ``||X W - X W_0||^2 / 2n``; the second is the proximal
operator of the sum of squared deviations of the singular values from their mean, with the weight
``shrink / (1 - shrink) / 2``. Directions that the inputs hardly have are free to change, all
others are drawn back. Where ``X W`` would change by more than the share ``change`` of its norm, the
round is left out, and ``shrink`` is halved.

Quantizers, their calibration and training are those of 2DQuant, per tensor:

    s = (u - l) / (2^b - 1),    x_hat = s R((clip(x, l, u) - l) / s) + l

The teacher is the full-precision network as it was, without conditioned weights.

The paper conditions the linear layers of transformers. A convolution is a matrix of
``Cin kh kw`` rows on windows of the input, so the same steps apply. With ``convolutions`` they
are done, as the recipe for EDSR does, whose blocks have no linear layers; by default convolutions
stay as they are.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  one-sided search of 2DQuant over the whole range
paper      one-sided search of 2DQuant over the upper half of the range
=========  =====================================================================================

No code is released. Descriptions of the paper have the alternation of both kinds of steps, that
``X W`` is to be kept, about 100 pictures, and condition numbers of about 3000 that fall to 28. The
penalty whose proximal operator is used, the numbers of the steps and the limit on the change are
srq's.

References
----------
.. [1] K. Liu, D. Wang, Z. Li, Z. Chen, Y. Guo, W. Li, L. Kong, Y. Zhang, "CondiQuant: Condition
       Number Based Low-Bit Quantization for Image Super-Resolution", arXiv 2502.15478, 2025.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sr_quant_cli.methods.bound_search import BoundSearch, BoundSearchConfig
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.quantizers import Quantizer, set_mode

SAMPLES = 4096
"""Inputs, or windows of a convolution's input, that are drawn from each batch for a layer."""
TINY = 1e-12
"""Smallest energy of inputs or products: those of dead layers have none."""


class CondiQuantConfig(BoundSearchConfig):
    """CondiQuant [1]_."""

    name: Literal["condiquant"] = "condiquant"
    """method"""
    variant: Literal["corrected", "paper"] = "corrected"
    """as in 2DQuant; no code is released"""
    rounds: Annotated[int, Field(ge=0)] = 100
    """number of alternations; 0: weights stay as they are"""
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """part of the way to their mean that singular values go in each, at first"""
    change: Annotated[float, Field(ge=0)] = 0.01
    """largest change of the products of a layer, relative to their norm"""
    convolutions: bool = False
    """condition convolutions as well, as matrices on windows of their input"""


class CondiQuant(BoundSearch):
    """Conditioned weights with searched and trained bounds [1]_."""

    trains = True
    config: CondiQuantConfig

    def calibrate(self, network: Network, batches: Iterable[Tensor]) -> None:
        """Condition the weights on LR batches ``[N, 3, h, w]`` (0..1), then find ranges on them."""
        batches, config = list(batches), self.config
        kinds = (QuantLinear, QuantConv2d) if config.convolutions else (QuantLinear,)
        layers = [
            module
            for module in network.modules()
            if isinstance(module, kinds) and isinstance(module.weight_quantizer, Quantizer)
        ]
        for layer, gram in zip(layers, _grams(network, layers, batches), strict=True):
            groups = len(gram)
            rows = layer.weight.detach().reshape(groups, len(layer.weight) // groups, -1).mT
            found = condition(rows, gram, config.rounds, config.shrink, config.change)
            layer.weight.data.copy_(found.mT.reshape(layer.weight.shape))
        super().calibrate(network, batches)


@torch.no_grad()
def condition(weight: Tensor, gram: Tensor, rounds: int, shrink: float, change: float) -> Tensor:
    """Draw the singular values of matrices together, while products with the inputs stay.

    Parameters
    ----------
    weight
        ``[..., K, C]``, for ``C`` outputs; leading dimensions are groups of a convolution.
    gram
        Mean of ``x x'`` over the inputs ``x``, ``[..., K, K]``.
    rounds, shrink
        Number of alternations, and the part of the way to their mean that singular values go in
        each at first.
    change
        Limit of ``||X W - X W_0|| / ||X W_0||``. A round that would exceed it is left out, and
        halves ``shrink``.

    Examples
    --------
    The inputs have the first direction alone, and the second singular value is free:

    >>> weight, gram = torch.diag(torch.tensor([4.0, 0.5])), torch.diag(torch.tensor([1.0, 0.0]))
    >>> found = condition(weight, gram, rounds=40, shrink=0.1, change=0.2)
    >>> [round(value, 2) for value in torch.linalg.svdvals(found).tolist()]
    [3.98, 3.55]
    """
    strength = torch.linalg.eigvalsh(gram)[..., -1, None, None].clamp_min(TINY)
    energy = _energy(weight, gram).clamp_min(TINY)
    found = weight
    for _ in range(rounds):
        u, s, v = torch.linalg.svd(found - gram @ (found - weight) / strength, full_matrices=False)
        s = torch.lerp(s, s.mean(-1, keepdim=True), shrink)
        new = (u * s[..., None, :]) @ v
        if _energy(new - weight, gram) > change**2 * energy:
            shrink /= 2
        else:
            found = new
    return found


def _energy(weight: Tensor, gram: Tensor) -> Tensor:
    """Mean squared norm of the products of all inputs with a matrix."""
    return (weight * (gram @ weight)).sum()


@torch.no_grad()
def _grams(
    network: Network, layers: list[QuantLinear | QuantConv2d], batches: list[Tensor]
) -> list[Tensor]:
    """Mean outer products ``[groups, K, K]`` of sampled inputs, with all operands in float."""
    sums: dict[nn.Module, Tensor] = {}

    random = torch.Generator().manual_seed(0)

    def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, QuantLinear | QuantConv2d)
        rows = layer.operands(inputs[0].float(), SAMPLES, random)
        sums[layer] = sums.get(layer, 0) + rows.mT @ rows / SAMPLES

    handles = [layer.register_forward_pre_hook(add) for layer in layers]
    network.eval()
    set_mode(network, "off")
    for batch in batches:
        network(batch)
    set_mode(network, "quantize")
    for handle in handles:
        handle.remove()
    return [sums[layer] / len(batches) for layer in layers]
