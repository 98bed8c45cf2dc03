"""MinMax: the widest range that was seen.

The simplest baseline of post-training quantization; Table 3 of 2DQuant has it on SwinIR-light.
Weights and activations lie on ``affine_real``, per tensor: the smallest value is the first level,
the largest one the last. The range of an activation spans all calibration batches.

    s = (max - min) / (2^b - 1),    x_hat = s R((clip(x, min, max) - min) / s) + min

Zero is no level in general. More bits are not always better: in that table 2 bits score higher than
3. Nothing is trained; with training steps all the same, bounds get the gradients of 2DQuant's.
It has no variants.
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
        """Smallest to largest value of all calibration batches."""
        return BoundsQuantizer(bits, "clip", affine_real, min_max, average=False)
