"""QuantSR: a learned step, and a learned shift of every input channel before it.

This is its quantizer, RLQ. The depth-dynamic part belongs to the network QuantSR-C: 32 blocks with
learned factors on their shortcuts, some of which may be skipped.

    activations    x_hat = alpha clip(R(v), Qn, Qp),    v = (x + tau_c) / alpha
    weights        w_hat = alpha clip(R(v), Qn, Qp),    v = w / alpha

Codes go from ``Qn = -2^(b-1)`` to ``Qp = 2^(b-1) - 1``, or from 0 to ``2^b - 1`` for activations
that are never negative. The shift ``tau`` of a channel is not subtracted again. A step starts at
``2 mean|x| / sqrt(Qp)``. Rounding has the slope of a soft staircase. The gradient of a step is
LSQ's [2]_, divided by ``sqrt(numel Qp)``:

    r = (1 - tanh(t)^2) / (2 tanh(1/2)),    t = v - floor(v) - 1/2

    d x_hat / d x, d tau    r inside, 0 outside: 1.082 between two levels, 0.851 on one
    d x_hat / d alpha       R(v) - r v inside, Qn or Qp outside

The released training code has two losses: L1 to HR on values 0..1, of all depths with equal
weights; and L1 to HR with 1e-4 times a distance to a teacher, the mean over features F of

    || Qs / ||Qs|| - Qt / ||Qt|| ||_2,    Q = F^2,    norms over the batch

It does not say which features. The recipes for QuantSR-C and QuantSR-T have both losses at once,
with the outputs of all blocks as features and the network in full precision as teacher; that for
EDSR has L1 alone. The schedule is not released: that of the recipe is the one that a successor
describes.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  an input has codes from 0 upwards where the network says that it comes from a ReLU;
           steps start from the mean over all calibration batches
paper      as corrected
code       sign and step of an input are those of the first calibration batch: codes from 0
           upwards if none of its values is below -1e-5
=========  =====================================================================================

After a ReLU a negative shift makes values negative. They become 0, so the shift is a threshold
below which a channel is silent. In all variants calibration finds the steps, and they stay
positive. In the released code a step may become negative in training, which reverses its grid, and
a step that was never calibrated is uninitialized memory.

References
----------
.. [1] H. Qin, Y. Zhang, Y. Ding, Y. Liu, X. Liu, M. Danelljan, F. Yu, "QuantSR: Accurate Low-bit
       Quantization for Efficient Image Super-Resolution", NeurIPS 2023.
.. [2] S. K. Esser, J. L. McKinstry, D. Bablani, R. Appuswamy, D. S. Modha, "Learned Step Size
       Quantization", ICLR 2020.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.fake import Rule
from sr_quant_cli.quant.grids import Grid, sym_full, unsigned
from sr_quant_cli.quant.learned_step import LearnedStep, StepToGrid
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.ranges import range_shape
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, TENSORS, Operands, Placement, Site

RULE: Rule = "tanh"
"""Rounding has the slope of a soft staircase."""


class QuantSRConfig(MethodConfig):
    """QuantSR has no hyper-parameters [1]_."""

    name: Literal["quantsr"] = "quantsr"
    """method"""


class ShiftedStep(LearnedStep):
    """``x_hat = alpha clip(R((x + tau_c) / alpha), Qn, Qp)``: the shift stays in the result [1]_.

    Parameters
    ----------
    shape
        Shape of the trainable shift ``tau``: ``(C, 1, 1)``, or ``(C,)`` where channels come last.

    Examples
    --------
    >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 2, 1, 2)
    >>> quantizer = ShiftedStep(2, unsigned, (2, 1, 1))
    >>> quantizer.value.data.fill_(1.0), quantizer.batches.fill_(1)
    (tensor(1.), tensor(1))
    >>> quantizer.shift.data[0] = 0.75
    >>> quantizer(x).flatten().tolist()
    [1.0, 2.0, 2.0, 3.0]
    """

    def __init__(self, bits: int, to_grid: StepToGrid, shape: tuple[int, ...]) -> None:
        super().__init__(bits, RULE, to_grid)
        self.shift = nn.Parameter(torch.zeros(shape))

    def shift_before(self) -> Tensor:
        """The learned shift."""
        return self.shift

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]``, or ``[..., C]``: same shape, float32."""
        return super().forward(x + self.shift if self.mode == "quantize" else x)


class ReleasedStep(ShiftedStep):
    """Shifted step as released: the first batch decides on the sign and the step."""

    signed: Tensor

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits, self._by_sign, shape)
        self.register_buffer("signed", torch.tensor(False))

    def _by_sign(self, step: Tensor, bits: int) -> Grid:
        return (sym_full if self.signed else unsigned)(step, bits)

    def observe(self, x: Tensor) -> None:
        """Find sign and step on the first batch."""
        if not self.batches:
            self.signed.copy_(x.amin() < -1e-5)
            super().observe(x)


class QuantSR(Method):
    """Redistribution-driven learnable quantizer [1]_."""

    trains = True

    def paper_placement(self) -> Placement:
        """Both convolutions of a block, and the linear layers of transformers."""
        return {**RESIDUAL_CONVOLUTIONS, "linear": Operands("low", "low")}

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Learn a step without a shift."""
        return LearnedStep(bits, RULE, sym_full, range_shape(weight, 0 if per_channel else None))

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn a step, with a shift for the input of a convolution or linear layer."""
        to_grid = unsigned if site.unsigned else sym_full
        if site.kind in (*TENSORS, "matmul"):
            return LearnedStep(bits, RULE, to_grid)
        # Four dimensions in channels_last break the broadcast of buffers between processes.
        shape = (site.channels,) if site.kind == "linear" else (site.channels, 1, 1)
        if self.config.variant == "code":
            return ReleasedStep(bits, shape)
        return ShiftedStep(bits, to_grid, shape)
