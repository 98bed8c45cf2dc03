"""ODM: overcoming distribution mismatch.

Activations are on ``affine_real`` per tensor, between two trainable bounds that start at the mean
over the calibration batches of the 1st and the 99th percentile. Weights have ``2^b`` levels from
``-u_w`` to ``u_w``, where a factor ``gamma`` for each layer is trained and starts at 1 (weight
clipping correction). ``P99`` is the percentile of the weights in each step:

    activations    s = (u - l) / (2^b - 1),    x_hat = s R((clip(x, l, u) - l) / s) + l
    weights        u_w = P99(|w|) gamma,       the same from l = -u_w to u = u_w

    d x_hat / d x        1 inside and on a bound, 0 outside
    d x_hat / d u        1[x >= u] - e,    e = (clip(x, l, u) - x_hat) / (u - l)
    d x_hat / d l        1[x <= l] + e
    d w_hat / d gamma    P99(|w|) (d w_hat / d u - d w_hat / d l)

Ranges that are fixed at run time suit a picture, or a channel, only as far as its features are
distributed like those of others. A regularizer pulls features towards their ranges, and ranges
towards features: the sum over all activations of their distance from the quantized ones, for each
sample,

    L_M = mismatch_weight sum ||x - x_hat||_2,    averaged over the batch

Inside a range its gradient reaches the bounds alone, outside it the features, too. As it may work
against the loss of the task, ``L_R``, their gradients are combined for each tensor of parameters:

    g = g_R + (cos(g_R, g_M) + 1) / 2  g_M

so ``g_M`` counts in full where it points the same way, and not at all where it points the opposite
way. This takes two backward passes in each step.

No code is released. From the paper are the bounds and their start, ``gamma``, ``L_M`` with its
weight, the combination, and the schedule. That weights have the levels above follows AdaBM, by the
same authors; that bounds, ``gamma`` and weights are sorted into two learning rates, the bounds'
being ten times as high, the paper says of bounds alone. The quantized layers are those of the
residual blocks, and the linear layers of transformers. It has no variants.

References
----------
.. [1] C. Hong, K. M. Lee, "Overcoming Distribution Mismatch in Quantizing Image Super-Resolution
       Networks", ECCV 2024.
"""

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.methods.base import Method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.fake import without_autocast
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, affine_real, sym_narrow
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import BoundsQuantizer, Quantizer, quantizers
from sr_quant_cli.quant.ranges import percentile, range_shape
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Operands, Placement, Site

Percent = Annotated[float, Field(gt=50, le=100)]


class ODMConfig(MethodConfig):
    """ODM [1]_; the defaults are those for EDSR."""

    name: Literal["odm"] = "odm"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """no code is released that variants could follow"""
    activation_percentile: Percent = 99.0
    """percentile that upper bounds start at; lower ones start at 100 less it"""
    weight_percentile: Percent = 99.0
    """percentile of the magnitudes of a layer's weights that its factor multiplies"""
    mismatch_weight: Annotated[float, Field(ge=0)] = 1e-5
    """weight of the distance between features and quantized ones (RDN: 1e-6); 0: none"""


class MismatchBounds(BoundsQuantizer):
    """Two trainable bounds; training notes how far values are from quantized ones.

    >>> quantizer = MismatchBounds(2, partial(percentile, percent=100))
    >>> quantizer.observe(torch.tensor([0.0, 3.0]))
    >>> quantizer(torch.tensor([[0.0, 1.0], [6.0, -4.0]])).tolist()
    [[0.0, 1.0], [3.0, 0.0]]
    >>> [distance.item() for distance in quantizer.distances]
    [2.5]
    """

    def __init__(self, bits: int, estimate: partial[tuple[Tensor, Tensor]]) -> None:
        super().__init__(bits, "clip", affine_real, estimate)
        self.distances: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32."""
        y = super().forward(x)
        if self.training and self.mode == "quantize":
            with without_autocast(x):
                self.distances.append((x.float() - y).flatten(1).norm(dim=1).mean())
        return y


class ClippedWeight(Quantizer):
    """Quantizer of a weight whose largest level is a trained multiple of a percentile [1]_.

    >>> quantizer = ClippedWeight(2, percent=100)
    >>> weight = torch.tensor([-3.0, -0.4, 0.9, 1.2])
    >>> quantizer(weight).tolist()
    [-3.0, -1.0, 1.0, 1.0]
    >>> quantizer.factor.data.fill_(0.5)
    tensor(0.5000)
    >>> quantizer(weight).tolist()
    [-1.5, -0.5, 0.5, 1.5]
    """

    def __init__(self, bits: int, percent: float, shape: tuple[int, ...] = ()) -> None:
        super().__init__(bits, "clip")
        self._percent = percent
        self.factor = nn.Parameter(torch.ones(shape))

    def grid(self, x: Tensor) -> Grid:
        """Grid of this weight; per channel with zero as a level, for integer kernels."""
        channels = self.factor.ndim > 0
        _, reach = percentile(x.abs().float(), self._percent, dim=0 if channels else None)
        bound = (reach * self.factor).clamp_min(MIN_WIDTH)
        return sym_narrow(bound, self.bits) if channels else affine_real(-bound, bound, self.bits)

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep the factor positive, after a training step."""
        self.factor.clamp_(min=MIN_WIDTH)


class ODM(Method):
    """Trained bounds, with a regularizer that damps itself where it is in conflict [1]_."""

    trains = True
    side_losses: ClassVar[tuple[str, ...]] = ("mismatch",)
    config: ODMConfig

    def paper_placement(self) -> Placement:
        """Both convolutions of a block, and the linear layers of transformers."""
        return {**RESIDUAL_CONVOLUTIONS, "linear": Operands("low", "low")}

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Learn a factor on a percentile, of the layer or of each output channel."""
        shape = range_shape(weight, 0 if per_channel else None)
        return ClippedWeight(bits, self.config.weight_percentile, shape)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn two bounds, from percentiles averaged over batches."""
        estimate = partial(percentile, percent=self.config.activation_percentile)
        return MismatchBounds(bits, estimate)

    def regularizers(self, network: Network) -> dict[str, Tensor]:
        """Sum the distances of all activations from the quantized ones."""
        distances: list[Tensor] = []
        for quantizer in quantizers(network):
            if isinstance(quantizer, MismatchBounds):
                distances += quantizer.distances
                quantizer.distances = []
        weight = self.config.mismatch_weight
        return {"mismatch": weight * torch.stack(distances).sum()} if weight and distances else {}

    def combine(self, gradient: Tensor, side: Tensor) -> Tensor:
        """Add the mismatch as far as it points the way of the task.

        >>> odm, task = ODM(ODMConfig()), torch.tensor([3.0, 0.0])
        >>> [odm.combine(task, torch.tensor(g)).tolist() for g in ([1.0, 0.0], [-1.0, 0.0])]
        [[4.0, 0.0], [3.0, 0.0]]
        """
        cosine = F.cosine_similarity(gradient.flatten(), side.flatten(), dim=0)
        return gradient + (cosine + 1) / 2 * side
