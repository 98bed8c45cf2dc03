"""DAQ: distribution-aware quantization, channel by channel.

Steps are the optimal step ``s(b)`` for Gaussian values of unit variance (0.996 at 2 bits, 0.586 at
3, 0.335 at 4), times the standard deviation. A weight has one deviation. Activations are measured
at run time, in every sample and channel, and their deviations are quantized, too, with ``qq`` bits.

    weights         w_hat = M(w, s(b) sigma_w)
    deviations      sigma_hat = mean + M(sigma - mean, s(qq) deviation of sigma over the channels)
    activations     x_hat = mu + M(x - mu, d),               d = s(b) sigma_hat
    after a ReLU    x_hat = d min(R(x / d), 2^b - 1)

``M(v, d) = d (clip(R(v / d - 1/2), -2^(b-1), 2^(b-1) - 1) + 1/2)`` is the mid-rise grid, which has
no zero. ``mu`` and ``sigma`` are the mean and deviation of a channel. After a ReLU ``sigma`` is the
deviation of the positive values and a single zero.

The gradient passes rounding and clipping unchanged, for weights and activations. No gradient goes
through the statistics, so only the weights of the network are learned. The loss is L1 to HR,
without a teacher. In tiled inference the statistics are those of each tile.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  the step for ``b`` bits is optimal for ``2^b`` levels; the network says which inputs
           follow a ReLU; these have ``2^b`` levels from 0; a channel whose quantized deviation
           is not positive becomes 0, or its mean
paper      as corrected
code       the step for ``b`` bits is optimal for ``2^(b-1)`` levels; an input counts as one after
           a ReLU if the smallest value of the whole batch is 0, so a sample depends on its
           batch; the levels then have no upper limit; a channel whose quantized deviation is
           negative becomes a constant that differs from 0, or from its mean; half-way between
           two levels of ``M`` the other one is taken, ``R(v / d + 1/2) - 1``, so that a
           constant channel becomes its mean less ``d / 2`` instead of plus
=========  =====================================================================================

The ``finetune`` switch of the released code, which uses the steps for 2 bits (and 8 for the
deviations) at any number of bits, is left out.

References
----------
.. [1] C. Hong, H. Kim, S. Baik, J. Oh, K. M. Lee, "DAQ: Channel-Wise Distribution-Aware
       Quantization for Deep Image Super-Resolution Networks", WACV 2022.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.fake import fake_quantize, without_autocast
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, midrise, quantize, sym_full, unsigned
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer, WeightRangeQuantizer
from sr_quant_cli.quant.ranges import gaussian_step
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Placement, Site

FLOAT = 32
"""Value of ``qq`` for deviations that are not quantized."""


class DAQConfig(MethodConfig):
    """DAQ [1]_. The authors' full EDSR at 2 bits has ``qq`` 8."""

    name: Literal["daq"] = "daq"
    """method"""
    qq: Literal[2, 3, 4, 5, 6, 7, 8, 32] = 4
    """bits of the deviations of a sample's channels; 32: not quantized"""


class ChannelStatistics(Quantizer):
    """Quantizer with a step for each channel of each sample, from its deviation [1]_.

    Parameters
    ----------
    qq
        Bits of the deviations; 32: they are not quantized.
    positive
        The input comes from a ReLU.
    channel
        Dimension of the channels: 1 in ``[N, C, H, W]``, -1 in ``[N, ..., C]``.

    Examples
    --------
    Two channels, the second with ten times the deviation of the first:

    >>> x = torch.tensor([[-3.0, -1.0, 1.0, 3.0], [-30.0, -10.0, 10.0, 30.0]]).view(1, 2, 2, 2)
    >>> quantizer = ChannelStatistics(2, qq=32, positive=False)
    >>> [[round(value, 2) for value in channel] for channel in quantizer(x).flatten(2)[0].tolist()]
    [[-3.86, -1.29, 1.29, 3.86], [-38.57, -12.86, 12.86, 38.57]]
    """

    table: ClassVar[Literal["optimal", "daq"]] = "optimal"
    make_grid: ClassVar[Callable[[Tensor, int], Grid]] = midrise

    def __init__(self, bits: int, qq: int, positive: bool, channel: int = 1) -> None:
        super().__init__(bits, "ste")
        self.qq, self.positive, self.channel = qq, positive, channel

    def is_positive(self, x: Tensor) -> bool:
        """Tell if the input is treated as the output of a ReLU."""
        return self.positive

    def grid(self, x: Tensor) -> Grid:
        """The grids of all samples and channels, of size 1 in the other dimensions."""
        mean, step = self.measure(x.float())
        return self.from_zero(step) if mean is None else self.around(mean, step)

    @torch.no_grad()
    def measure(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Measure the mean and step of each channel; without a mean after a ReLU."""
        pixels = tuple(d for d in range(1, x.ndim) if d != self.channel % x.ndim)
        if self.is_positive(x):
            return None, self.step(_positive_deviation(x, pixels))
        mean = x.mean(pixels, keepdim=True)
        return mean, self.step(_deviation(x, mean, pixels))

    def step(self, deviation: Tensor) -> Tensor:
        """Compute the step of each channel from its deviation, which is quantized first."""
        if self.qq != FLOAT:
            mean = deviation.mean(self.channel, keepdim=True)
            spread = _deviation(deviation, mean, (self.channel,))
            step = gaussian_step(spread, self.qq, self.table)
            deviation = quantize(deviation, _shift(type(self).make_grid(step, self.qq), mean))
        return gaussian_step(deviation, self.bits, self.table)

    def from_zero(self, step: Tensor) -> Grid:
        """Make ``2^b`` levels from 0 upwards; only 0 where the step is not positive."""
        grid = unsigned(step, self.bits)
        return replace(grid, upper=grid.last * step.clamp_min(0))

    def around(self, mean: Tensor, step: Tensor) -> Grid:
        """Make ``2^b`` levels around the mean; only the mean where the step is not positive."""
        return _shift(type(self).make_grid(step, self.bits), mean)


def released_midrise(step: Tensor, bits: int) -> Grid:
    """Make the levels of ``midrise``, with ties rounded to the other level.

    >>> x, step = torch.tensor([-2.0, 0.0, 2.0]), torch.tensor(2.0)
    >>> quantize(x, released_midrise(step, 2)).tolist(), quantize(x, midrise(step, 2)).tolist()
    ([-1.0, -1.0, 3.0], [-3.0, 1.0, 1.0])
    """
    grid = midrise(step, bits)
    return replace(grid, origin=-grid.origin, first=grid.first + 1, last=grid.last + 1)


class ReleasedStatistics(ChannelStatistics):
    """Statistics as in the released code."""

    table = "daq"
    make_grid = released_midrise

    def forward(self, x: Tensor) -> Tensor:
        """Round differences from the mean: a shifted grid would lose ties to rounding errors."""
        if self.mode != "quantize":
            return super().forward(x)
        with without_autocast(x):
            x = x.float()
            mean, step = self.measure(x)
            if mean is None:
                return fake_quantize(x, self.from_zero(step), self.rule)
            return (
                fake_quantize(x - mean, self.around(torch.zeros_like(mean), step), self.rule) + mean
            )

    def is_positive(self, x: Tensor) -> bool:
        """Tell if the smallest value of the batch is 0."""
        return bool(x.amin() == 0)

    def from_zero(self, step: Tensor) -> Grid:
        """Make levels from 0 upwards without a limit."""
        stray = self._stray(step)
        upper = torch.where(step > 0, math.inf, stray)
        return Grid(step.clamp_min(MIN_WIDTH), stray, stray, upper, 0, 2**62, self.bits)

    def around(self, mean: Tensor, step: Tensor) -> Grid:
        """Make ``2^b`` levels around the mean; a constant above it where the step is negative."""
        return super().around(mean - self._stray(step), step)

    def _stray(self, step: Tensor) -> Tensor:
        # With a negative step the bounds are swapped, and all values are clipped to one.
        return (2.0 ** (self.bits - 1) - 0.5) * step.clamp_max(0)


def _shift(grid: Grid, mean: Tensor) -> Grid:
    """Move a grid to a mean."""
    return replace(
        grid, origin=grid.origin + mean, lower=grid.lower + mean, upper=grid.upper + mean
    )


def _deviation(x: Tensor, mean: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Compute the unbiased standard deviation; 0 for a single value."""
    # Not torch.std, which takes as long as the convolution behind it.
    count = math.prod(x.shape[d] for d in dims)
    squares: Tensor = (x - mean).square_().sum(dims, keepdim=True)
    return squares.div_(max(count - 1, 1)).sqrt_()


def _positive_deviation(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Compute the deviation of the positive values and one zero; ``x`` is not negative."""
    scratch = x.square()
    squares = scratch.sum(dims, keepdim=True)
    count = torch.sign(x, out=scratch).sum(dims, keepdim=True).add_(1)
    mean = x.sum(dims, keepdim=True).div_(count)
    return squares.div_(count).sub_(mean.square_()).clamp_min_(0).sqrt_()


class DAQ(Method):
    """Steps from the distribution of every channel [1]_."""

    trains = True
    dynamic = True
    takes_levels = False
    config: DAQConfig

    def paper_placement(self) -> Placement:
        """Both convolutions of a block, weights and inputs."""
        return RESIDUAL_CONVOLUTIONS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Use the deviation of all weights, or of each channel; all weights get a gradient."""
        table, levels = self._statistics().table, self._statistics().make_grid

        def whole(weight: Tensor, bits: int) -> Grid:
            return levels(gaussian_step(weight.std(), bits, table), bits)

        def channels(weight: Tensor, bits: int) -> Grid:
            deviation = weight.std(tuple(range(1, weight.ndim)), keepdim=True)
            return sym_full(gaussian_step(deviation, bits, table), bits)

        return WeightRangeQuantizer(bits, "ste", channels if per_channel else whole)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Measure at run time; channels come last in the operands of linear layers."""
        channel = -1 if site.kind in ("linear", "matmul") else 1
        return self._statistics()(bits, self.config.qq, site.unsigned, channel)

    def _statistics(self) -> type[ChannelStatistics]:
        return ReleasedStatistics if self.config.variant == "code" else ChannelStatistics
