"""PAMS: parameterized max scale.

Every activation has a trainable bound ``alpha``; weights take their largest absolute value. Both
lie on the symmetric grid ``sym_narrow`` with ``2^b - 1`` levels, after a ReLU too, where those
below zero are unused: at 2 bits two levels are left. With ``q = 2^(b-1) - 1``:

    activations    x_hat = R(clip(x, -alpha, alpha) q / alpha) alpha / q
    weights        w_hat = R(w q / m) m / q,                 m the largest absolute weight

    d x_hat / d x        1 inside, 0 outside, 1/2 on a bound
    d x_hat / d alpha    (R(v) - v) / q inside, v = x q / alpha; the sign of x outside
    d w_hat / d w        1; m is computed anew in each step and gets no gradient

For a first share of the training (``warmup``; published: epoch 1 of 30) nothing is clipped, and
``alpha`` follows the data: it is the mean over a batch's samples of their largest absolute value.
From then on it is learned. The loss is L1 to HR and 1000 times the attention transfer of the
feature in front of the upsampler, towards the full-precision network, from which the student
starts. The released code loads that into the teacher alone.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  the first convolution of a block reads the quantized block input
paper      as corrected
code       the first convolution reads the unquantized block input
=========  =====================================================================================

In the released code the exponential average of the maxima never acts, since its phase is one epoch
long: ``alpha`` is the mean over the samples of the last batch of that epoch. All variants do so.

References
----------
.. [1] H. Li, C. Yan, S. Lin, X. Zheng, B. Zhang, F. Yang, R. Ji, "PAMS: Quantized Super-Resolution
       via Parameterized Max Scale", ECCV 2020.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sr_quant_cli.methods.base import Method, MethodConfig, quantizers
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.sites import RELEASED_RESIDUAL_BLOCKS, RESIDUAL_BLOCKS, Placement, Site
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, sym_narrow
from sr_quant_cli.quant.quantizers import Quantizer, WeightRangeQuantizer, average_processes
from sr_quant_cli.quant.ranges import max_abs


class PAMSConfig(MethodConfig):
    """PAMS [1]_."""

    name: Literal["pams"] = "pams"
    """method"""
    warmup: Annotated[float, Field(ge=0, le=1)] = 1 / 30
    """share of the training in which alpha follows the data and nothing is clipped"""


BEYOND = 2**16
"""Factor on a range that clips nothing then. A power of two: alpha's gradient stays what it is."""


class MaxScale(Quantizer):
    """A trainable bound of both signs [1]_.

    While it follows the data, ``alpha`` is the mean over the samples of a batch of their largest
    absolute values, and nothing is clipped: codes go on beyond ``q``.

    Examples
    --------
    >>> quantizer = MaxScale(3)
    >>> quantizer.alpha.data.fill_(6.0).item()
    6.0
    >>> x = torch.tensor([[-1.0, 0.9, 5.0], [1.1, -7.0, 3.2]])
    >>> quantizer(x).tolist()
    [[0.0, 0.0, 4.0], [2.0, -6.0, 4.0]]

    The largest values of the two samples are 5 and 7, their mean is 6 and the step 2:

    >>> quantizer.follows = True
    >>> quantizer(x).tolist()
    [[0.0, 0.0, 4.0], [2.0, -8.0, 4.0]]
    """

    alpha: nn.Parameter

    def __init__(self, bits: int) -> None:
        super().__init__(bits, "half")
        self.alpha = nn.Parameter(torch.tensor(10.0))
        self.follows = False

    def observe(self, x: Tensor) -> None:
        """Take the mean over the samples of the largest absolute value."""
        self.alpha.data.copy_(x.abs().amax(tuple(range(1, x.ndim))).mean())

    def grid(self, x: Tensor) -> Grid:
        """The symmetric grid up to ``alpha``, and on beyond it while alpha follows the data."""
        grid = sym_narrow(self.alpha, self.bits)
        if not (self.follows and self.training):
            return grid
        wide = {name: BEYOND * getattr(grid, name) for name in ("lower", "upper", "first", "last")}
        return replace(grid, **wide)

    def static_grid(self) -> Grid:
        """The grid up to ``alpha``."""
        return sym_narrow(self.alpha, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32."""
        if self.mode == "quantize" and self.follows and self.training:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self.observe(x.float())
                average_processes(self.alpha)
        return super().forward(x)

    @torch.no_grad()
    def keep_valid(self) -> None:
        """Keep alpha positive."""
        self.alpha.clamp_(min=MIN_WIDTH)


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
        """Largest absolute weight of each step; all weights get their gradient."""
        dim = 0 if per_channel else None
        return WeightRangeQuantizer(
            bits, "ste", lambda w, b: sym_narrow(max_abs(w, dim) + MIN_WIDTH, b)
        )

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """A trainable maximum scale."""
        return MaxScale(bits)

    def before_step(self, network: Network, step: int, iters: int) -> None:
        """In the first steps alpha follows the data."""
        for quantizer in quantizers(network):
            if isinstance(quantizer, MaxScale):
                quantizer.follows = step < self.config.warmup * iters
