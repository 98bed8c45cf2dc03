"""MinMax: the widest range in the data.

This is the simplest baseline of post-training quantization; Table 3 of 2DQuant has it on
SwinIR-light. Weights and activations are on ``affine_real``, per tensor: the smallest value is the
first level, the largest one the last. The range of an activation spans all calibration batches.

    s = (max - min) / (2^b - 1),    x_hat = s R((clip(x, min, max) - min) / s) + min

In general zero is not a level. More bits are not always better: in that table 2 bits score higher
than 3. Nothing is trained by default; if a recipe trains, bounds get the gradients of 2DQuant. It
has no variants.
"""

from functools import partial
from typing import Literal

from torch import Tensor

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.grids import affine_real
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import BoundsQuantizer, Quantizer, channel_scale
from sr_quant_cli.quant.ranges import max_abs, min_max
from sr_quant_cli.quant.sites import BLOCKS, Placement, Site


class MinMaxConfig(MethodConfig):
    """MinMax has no hyper-parameters."""

    name: Literal["minmax"] = "minmax"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""


class MinMax(Method):
    """Range of the data, per tensor."""

    trains = False

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
        """Quantize from the smallest to the largest value of all calibration batches."""
        return BoundsQuantizer(bits, "clip", affine_real, min_max, average=False)
