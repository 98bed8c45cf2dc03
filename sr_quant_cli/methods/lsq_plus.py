"""LSQ+: learned steps and offsets, from a better start.

LSQ has unsigned codes after a ReLU and signed ones elsewhere. Where values are a little below zero
(leaky activation functions, tensors of residual networks), both waste levels. LSQ+ learns an
offset ``beta`` beside the step ``s`` of an activation. Weights stay symmetric, with a learned step:

    activations    x_hat = s R(clip(v, 0, 2^b - 1)) + beta,           v = (x - beta) / s
    weights        w_hat = s R(clip(v, -2^(b-1), 2^(b-1) - 1)),       v = w / s

    d x_hat / d x       1 inside, 0 outside
    d x_hat / d s       R(v) - v inside, the smallest or largest code outside
    d x_hat / d beta    0 inside, 1 outside

This is the paper's configuration 4, whose codes start at 0. The gradients of step and offset are
divided by ``sqrt(N Qp)`` as in LSQ, where ``N`` is the number of values that share the step, and
``Qp`` the largest code.

A step of weights starts at ``max(|mean - 3 std|, |mean + 3 std|) / 2^(b-1)``. Step and offset of an
activation start where their squared error is least. The paper finds them by gradient descent on a
few batches. Here both ends of the range are searched on a grid, and then on a finer one around the
best; the result is averaged over the batches.

The paper trains classifiers with SGD, and quantizes every layer. There is no published recipe for
super-resolution. As for LSQ, the quantized layers are those of blocks and the optimizer is Adam,
which divides constant factors of a gradient out again. It has no variants.

References
----------
.. [1] Y. Bhalgat, J. Lee, M. Nagel, T. Blankevoort, N. Kwak, "LSQ+: Improving Low-bit Quantization
       through Learnable Offsets and Better Initialization", CVPR Workshops 2020.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.fake import scale_gradient
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, affine_real, affine_zero, sym_full
from sr_quant_cli.quant.learned_step import LearnedStep
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.ranges import range_shape, search_both
from sr_quant_cli.quant.sites import BLOCKS, Placement, Site
from sr_quant_cli.quant.widths import level_count


class LSQPlusConfig(MethodConfig):
    """LSQ+ has no hyper-parameters [1]_."""

    name: Literal["lsq_plus"] = "lsq_plus"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""


class WeightStep(LearnedStep):
    """LSQ's step, which starts at three standard deviations [1]_.

    >>> quantizer = WeightStep(3, ())
    >>> quantizer.observe(torch.tensor([-1.0, 1.0]))
    >>> quantizer.value.item()
    0.75
    """

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits, "clip", sym_full, shape)

    def _initial(self, x: Tensor) -> Tensor:
        own = tuple(range(1, x.ndim)) if self.value.ndim else tuple(range(x.ndim))
        deviation, mean = torch.std_mean(x, own, correction=0, keepdim=True)
        reach = mean.abs() + 3 * deviation
        return (reach / (level_count(self.bits) // 2)).reshape(self.value.shape)


class OffsetStep(Quantizer):
    """``x_hat = s R(clip((x - beta) / s, 0, 2^b - 1)) + beta`` with trainable step and offset [1]_.

    Examples
    --------
    >>> quantizer = OffsetStep(2)
    >>> quantizer.observe(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    >>> quantizer.step.item(), quantizer.offset.item()
    (1.0, -1.0)
    >>> quantizer(torch.tensor([-3.0, -0.4, 0.7, 9.0])).tolist()
    [-1.0, 0.0, 1.0, 2.0]
    """

    batches: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits, "clip")
        self.step = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._to_grid = affine_real
        self._last = level_count(bits) - 1

    def require_zero_level(self) -> None:
        """Use ``affine_zero``, and start from a range that includes zero."""
        self._to_grid = affine_zero

    def observe(self, x: Tensor) -> None:
        """Update the averages with step and offset of least squared error on one batch."""
        lower, upper = search_both(x, self.bits)
        if self._to_grid is affine_zero:
            lower, upper = lower.clamp(max=0), upper.clamp(min=0)
        part = 1 / (int(self.batches) + 1)
        self.step.data.lerp_((upper - lower) / self._last, part)
        self.offset.data.lerp_(lower, part)
        self.batches.add_(1)

    def grid(self, x: Tensor) -> Grid:
        """The range on its grid; only the scale of the gradient depends on ``x``.

        Raises
        ------
        RuntimeError
            The range was not calibrated.
        """
        if not self.batches:
            raise RuntimeError("the range of a quantizer is missing: calibrate first")
        grid = self._to_grid(self.offset, self.offset + self._last * self.step, self.bits)
        return scale_gradient(grid, 1 / math.sqrt(x.numel() * self._last))

    def static_grid(self) -> Grid | None:
        """The range on its grid."""
        return self.grid(self.step)

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep the step positive, after a training step."""
        self.step.clamp_(min=MIN_WIDTH)


class LSQPlus(Method):
    """Learned steps, and offsets of activations [1]_."""

    trains = True

    def paper_placement(self) -> Placement:
        """Residual blocks, linear layers and products, as for the methods of super-resolution."""
        return BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Learn one step for the whole weight, or one for each output channel."""
        return WeightStep(bits, range_shape(weight, 0 if per_channel else None))

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn a step and an offset."""
        return OffsetStep(bits)
