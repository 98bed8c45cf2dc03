"""LSQ: learned step size quantization.

This is the general baseline of quantization-aware training. Weights and activations have a learned
step ``s`` each, per tensor; ``R`` rounds half to even:

    x_hat = s clip(R(v), Qn, Qp),    v = x / s

Weights and activations that may be negative have ``Qn = -2^(b-1)`` and ``Qp = 2^(b-1) - 1``.
Activations after a ReLU have ``Qn = 0`` and ``Qp = 2^b - 1``. A step starts at ``2 mean|x| /
sqrt(Qp)``. Its gradient is divided by ``sqrt(N Qp)``, where ``N`` is the number of values that
share it:

    d x_hat / d x    1 inside, 0 outside
    d x_hat / d s    R(v) - v inside, Qn or Qp outside

The paper trains classifiers with SGD, and quantizes every layer, the first and the last one to 8
bits. There is no published recipe for super-resolution. Here the quantized layers are those of
blocks, as in the methods that it is compared with, and the optimizer is Adam. Adam divides the
factor ``1 / sqrt(N Qp)`` out again, so what counts is the learning rate of the steps in the recipe.
``N`` counts the values of the whole batch. A step starts from the mean over all calibration
batches, where the paper has the first one. It has no variants.

References
----------
.. [1] S. K. Esser, J. L. McKinstry, D. Bablani, R. Appuswamy, D. S. Modha, "Learned Step Size
       Quantization", ICLR 2020.
"""

from typing import Literal

from torch import Tensor

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.grids import sym_full, unsigned
from sr_quant_cli.quant.learned_step import LearnedStep
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.ranges import range_shape
from sr_quant_cli.quant.sites import BLOCKS, Placement, Site


class LSQConfig(MethodConfig):
    """LSQ has no hyper-parameters [1]_."""

    name: Literal["lsq"] = "lsq"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""


class LSQ(Method):
    """Learned steps of weights and activations [1]_."""

    trains = True

    def paper_placement(self) -> Placement:
        """Residual blocks, linear layers and products, as for the methods of super-resolution."""
        return BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Learn one step for the whole weight, or one for each output channel."""
        return LearnedStep(bits, "clip", sym_full, range_shape(weight, 0 if per_channel else None))

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn one step; without negative codes where the input is never negative."""
        return LearnedStep(bits, "clip", unsigned if site.unsigned else sym_full)
