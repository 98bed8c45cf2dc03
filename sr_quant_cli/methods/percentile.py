"""Percentile: a range that leaves out the outermost activations.

A baseline without training; Table 3 of 2DQuant has it on SwinIR-light without stating the
percentile. Weights and activations lie on ``affine_real``, per tensor:

    s = (u - l) / (2^b - 1),    x_hat = s R((clip(x, l, u) - l) / s) + l

The bounds ``l`` and ``u`` of an activation are the percentiles ``100 - percent`` and ``percent`` of
a calibration batch, of several batches the mean of these; percentiles are interpolated linearly.
Weights keep their smallest and largest value. AdaBM, from whose code the default 99 is taken,
averages exponentially over batches instead. Nothing is trained; with training steps all the same,
bounds get the gradients of 2DQuant's. It has no variants.
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
        """As 2DQuant: linear layers and products; in convolutional networks, residual blocks."""
        return BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Smallest to largest weight; of a channel, its largest magnitude on either side."""
        if per_channel:
            return channel_scale(bits, "clip", partial(max_abs, dim=0), weight)
        return BoundsQuantizer(bits, "clip", affine_real, min_max)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Between two percentiles, averaged over batches."""
        estimate = partial(percentile, percent=self.config.percent)
        return BoundsQuantizer(bits, "clip", affine_real, estimate)
