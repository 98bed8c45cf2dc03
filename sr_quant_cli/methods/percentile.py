"""Percentile: a range without the outermost activations.

This is a baseline without training; Table 3 of 2DQuant has it on SwinIR-light without the
percentile. Weights and activations are on ``affine_real``, per tensor:

    s = (u - l) / (2^b - 1),    x_hat = s R((clip(x, l, u) - l) / s) + l

The bounds ``l`` and ``u`` of an activation are the percentiles ``100 - percent`` and ``percent`` of
a calibration batch, averaged over the batches. Percentiles are interpolated linearly. Weights keep
their smallest and largest value. The default 99 is that of AdaBM's code, which averages
exponentially over batches. Nothing is trained by default; if a recipe trains, bounds get the
gradients of 2DQuant. It has no variants.
"""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.grids import affine_real
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import BoundsQuantizer, Quantizer, channel_scale
from sr_quant_cli.quant.ranges import max_abs, min_max, percentile
from sr_quant_cli.quant.sites import BLOCKS, Placement, Site


class PercentileConfig(MethodConfig):
    """Percentile."""

    name: Literal["percentile"] = "percentile"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""
    percent: Annotated[float, Field(gt=50, le=100)] = 99.0
    """upper percentile of activations; the lower one is 100 - percent"""


class Percentile(Method):
    """Range of most of the data, per tensor."""

    trains = False
    config: PercentileConfig

    def paper_placement(self) -> Placement:
        """Linear layers and products, or residual blocks, as in 2DQuant."""
        return BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Quantize from the smallest to the largest weight, or by a channel's largest magnitude."""
        if per_channel:
            return channel_scale(bits, "clip", partial(max_abs, dim=0), weight)
        return BoundsQuantizer(bits, "clip", affine_real, min_max)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Quantize between two percentiles, averaged over batches."""
        estimate = partial(percentile, percent=self.config.percent)
        return BoundsQuantizer(bits, "clip", affine_real, estimate)
