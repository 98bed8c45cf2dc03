"""LSQ: learned step size quantization.

Weights and activations have a learned step ``s`` each; ``R`` rounds half to even:

    x_hat = s clip(R(x / s), Qn, Qp)

Weights and signed activations have ``Qn = -2^(b-1)`` and ``Qp = 2^(b-1) - 1``. Activations after a
ReLU have ``Qn = 0`` and ``Qp = 2^b - 1``. A step starts at ``2 mean|x| / sqrt(Qp)``. Its gradient
is divided by ``sqrt(N Qp)``, where ``N`` is the number of values that share it:

    d x_hat / d x    1 inside, 0 outside
    d x_hat / d s    R(x / s) - x / s inside, Qn or Qp outside

The first and the last layer have 8 bits. The paper trains classifiers. Here the loss is L1 to HR,
and the learning rates are srq's. It has no variants.

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
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Operands, Placement, Site


class LSQConfig(MethodConfig):
    """LSQ has no hyper-parameters [1]_."""

    name: Literal["lsq"] = "lsq"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""


class LSQ(Method):
    """Learned steps for weights and activations [1]_."""

    trains = True

    def paper_placement(self) -> Placement:
        """Quantize every layer, the first and the last one with 8 bits."""
        low, ends = Operands("low", "low"), Operands("int8", "int8")
        return {
            "head": ends,
            **RESIDUAL_CONVOLUTIONS,
            "fusion": low,
            "body_last": low,
            "linear": low,
            "matmul": Operands("low"),
            "upsampler": low,
            "tail": ends,
        }

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Learn one step for the whole weight, or one for each output channel."""
        shape = range_shape(weight, 0 if per_channel else None)
        return LearnedStep(bits, "clip", sym_full, shape)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn one step; without negative codes where the input is never negative."""
        return LearnedStep(bits, "clip", unsigned if site.unsigned else sym_full)
