"""TQT: trained quantization thresholds.

Weights and activations have a learned threshold ``t`` each, and a power of two as their step, so
that an integer kernel shifts where others multiply. ``R`` rounds half to even:

    s = 2^ceil(log2(t / Qp)),    x_hat = s clip(R(v), Qn, Qp),    v = x / s

Weights and signed activations have ``Qn = -2^(b-1)`` and ``Qp = 2^(b-1) - 1``. Activations after a
ReLU have ``Qn = 0`` and ``Qp = 2^b - 1``. A threshold starts at the largest magnitude. What is
learned is its logarithm, and ``ceil`` has the gradient of the identity:

    d x_hat / d x          1 inside, 0 outside
    d x_hat / d log2(t)    s ln 2 times R(v) - v inside, Qn or Qp outside

The paper trains classifiers, starts activations by a divergence of histograms, and freezes
thresholds late in the training. Here the loss is L1 to HR, nothing is frozen, and the learning
rates are srq's. It has no variants.

References
----------
.. [1] S. R. Jain, A. Gural, M. Wu, C. H. Dick, "Trained Quantization Thresholds for Accurate and
       Efficient Fixed-Point Inference of Deep Neural Networks", MLSys 2020.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, sym_full, unsigned
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer, ScaleQuantizer
from sr_quant_cli.quant.ranges import max_abs, range_shape
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Operands, Placement, Site


class TQTConfig(MethodConfig):
    """TQT has no hyper-parameters [1]_."""

    name: Literal["tqt"] = "tqt"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""


class Threshold(ScaleQuantizer):
    """Quantizer whose step is the next power of two; its value is ``log2(t / Qp)`` [1]_."""

    def __init__(
        self, bits: int, to_grid: Callable[[Tensor, int], Grid], shape: tuple[int, ...] = ()
    ) -> None:
        last = to_grid(torch.ones(()), bits).last

        def power_of_two(value: Tensor, bits: int) -> Grid:
            return to_grid(torch.exp2(value + (value.ceil() - value).detach()), bits)

        def estimate(x: Tensor) -> Tensor:
            return (max_abs(x, dim=0 if shape else None) / last).clamp_min(MIN_WIDTH).log2()

        super().__init__(bits, "clip", power_of_two, estimate, shape)

    def clamp_range(self) -> None:
        """Leave the value as it is: a logarithm may be negative."""


class TQT(Method):
    """Learned thresholds of weights and activations [1]_."""

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
        """Learn one threshold for the whole weight, or one for each output channel."""
        return Threshold(bits, sym_full, range_shape(weight, 0 if per_channel else None))

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn one threshold; without negative codes where the input is never negative."""
        return Threshold(bits, unsigned if site.unsigned else sym_full)
