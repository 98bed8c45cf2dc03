"""PAMS: parameterized max scale.

Every activation has a trainable bound ``alpha``; weights use their largest absolute value. Both are
on the symmetric grid ``sym_narrow`` with ``2^b - 1`` levels. After a ReLU the levels below zero are
unused: at 2 bits two levels are left. With ``q = 2^(b-1) - 1``:

    activations    x_hat = R(clip(x, -alpha, alpha) q / alpha) alpha / q
    weights        w_hat = R(w q / m) m / q,                 m the largest absolute weight

    d x_hat / d x        1 inside, 0 outside, 1/2 on a bound
    d x_hat / d alpha    (R(v) - v) / q inside, v = x q / alpha; the sign of x outside
    d w_hat / d w        1; m is computed anew in each step and gets no gradient

For a first share of the training (``warmup``; published: epoch 1 of 30) nothing is clipped, and
``alpha`` follows the data: it is the mean over the samples of a batch of their largest absolute
value. From then on it is learned. The loss is L1 to HR and 1000 times the attention transfer of the
features in front of the upsampler, with the full-precision network as teacher. The student starts
from it, too; the released code loads it only into the teacher.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  the first convolution of a block reads the quantized block input
paper      as corrected
code       the first convolution in a block of EDSR reads the unquantized block input
=========  =====================================================================================

In RDN every quantized tensor is what the concatenation behind it carries on, where it is quantized
again with the new features; outputs of branches stay float. All variants do this.

The exponential average of the maxima in the released code never acts, as its phase is one epoch
long: ``alpha`` is the mean over the samples of the last batch of that epoch. All variants do this.

References
----------
.. [1] H. Li, C. Yan, S. Lin, X. Zheng, B. Zhang, F. Yang, R. Ji, "PAMS: Quantized Super-Resolution
       via Parameterized Max Scale", ECCV 2020.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sr_quant_cli.methods.base import Method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.max_scale import MaxScale, follow
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer, largest_weight
from sr_quant_cli.quant.sites import RELEASED_RESIDUAL_BLOCKS, RESIDUAL_BLOCKS, Placement, Site


class PAMSConfig(MethodConfig):
    """PAMS [1]_."""

    name: Literal["pams"] = "pams"
    """method"""
    warmup: Annotated[float, Field(ge=0, le=1)] = 1 / 30
    """share of the training in which alpha follows the data and nothing is clipped"""


class PAMS(Method):
    """Learned maximum scale of activations [1]_."""

    trains = True
    config: PAMSConfig

    def paper_placement(self) -> Placement:
        """Both convolutions of a block, its input or shortcut, and the output of the branch."""
        return RELEASED_RESIDUAL_BLOCKS if self.config.variant == "code" else RESIDUAL_BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Quantize up to the largest absolute weight of each step; all weights get a gradient."""
        return largest_weight(bits, per_channel=per_channel)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn a maximum scale."""
        return MaxScale(bits)

    def before_step(self, network: Network, step: int, iters: int) -> None:
        """Let alpha follow the data in the first steps."""
        follow(network, follows=step < self.config.warmup * iters)
