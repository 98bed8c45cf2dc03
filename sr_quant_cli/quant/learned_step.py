"""A quantizer whose step is learned (LSQ), with the gradient rule as a parameter.

References
----------
.. [1] S. K. Esser, J. L. McKinstry, D. Bablani, R. Appuswamy, D. S. Modha, "Learned Step Size
       Quantization", ICLR 2020.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sr_quant_cli.quant.fake import Rule, scale_gradient
from sr_quant_cli.quant.grids import Grid
from sr_quant_cli.quant.quantizers import ScaleQuantizer
from sr_quant_cli.quant.ranges import lsq_step

StepToGrid = Callable[[Tensor, int], Grid]


class LearnedStep(ScaleQuantizer):
    """``x_hat = s clip(R(x / s), Qn, Qp)`` with a trainable step ``s`` [1]_.

    The step starts at ``2 mean|x| / sqrt(Qp)``. Its gradient is divided by ``sqrt(numel Qp)``,
    where ``numel`` is the number of values that share the step.

    Parameters
    ----------
    rule
        ``clip`` is LSQ: the gradient of ``x`` is 1 inside the range and 0 outside. ``tanh`` is
        QuantSR's soft staircase.
    to_grid
        ``sym_full`` (Qn = -2^(b-1), Qp = 2^(b-1) - 1) or ``unsigned`` (Qn = 0, Qp = 2^b - 1).
    shape
        Shape of the step: ``()``, or ``(C, 1, 1, 1)`` for one per output channel of a weight.

    Examples
    --------
    >>> from sr_quant_cli.quant.grids import sym_full
    >>> x = torch.tensor([-4.0, -1.0, 0.0, 3.0])
    >>> quantizer = LearnedStep(2, "clip", sym_full)
    >>> quantizer.observe(x)
    >>> quantizer.value.item(), quantizer(x).tolist()
    (4.0, [-4.0, 0.0, 0.0, 4.0])
    """

    def __init__(
        self, bits: int, rule: Rule, to_grid: StepToGrid, shape: tuple[int, ...] = ()
    ) -> None:
        super().__init__(bits, rule, to_grid, self._initial, shape)

    def _initial(self, x: Tensor) -> Tensor:
        last = self._to_grid(torch.ones(()), self.bits).last
        return lsq_step(x, last, dim=0 if self.value.ndim else None)

    def grid(self, x: Tensor) -> Grid:
        """The grid of the step, which gets a scaled gradient."""
        grid = super().grid(x)
        factor = 1 / math.sqrt(x.numel() / grid.step.numel() * grid.last)
        return scale_gradient(grid, factor)
