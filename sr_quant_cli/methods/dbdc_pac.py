"""DBDC+PaC: density-based dual clipping and pixel-aware calibration.

Weights are on ``affine_real`` per output channel, activations per tensor:

    s = (u - l) / (2^b - 1),    x_hat = s R((clip(x, l, u) - l) / s) + l

*DBDC* takes the histogram of an activation in a calibration batch. It repeatedly drops the
outermost bin of the less dense end, as long as at most a share ``p`` of the values is clipped. The
bounds are averaged over the calibration batches. Weights keep their smallest and largest value.

*PaC* trains the bounds with the full-precision network as teacher, on its output and the features
of its blocks. Bounds of activations learn in the first half of the training, those of weights in
the second. In each half the learning rate follows a cosine, from 5e-3 to 2e-3 and from 5e-6 to 2e-6
in the released code; the schedule of the recipe must be constant. The weights of the network stay
fixed. With ``e = (clip(x, l, u) - x_hat) / (u - l)`` and ``numel`` values in the tensor:

    d x_hat / d x    1 inside and on a bound, 0 outside
    d x_hat / d u    (1[x > u] - e) / sqrt(numel (2^(b-1) - 1))
    d x_hat / d l    (1[x < l] + e) / sqrt(numel (2^(b-1) - 1))

The loss is L1 to the full-precision output, on values 0..1, and 5 times the attention transfer of
PAMS, averaged over the blocks.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  bounds of activations are the outer edges of the bins that are kept
paper      as corrected, as far as the paper says
code       the lower bound is one bin higher, so 0 after a ReLU is clipped; below 8 bits
           p = 1e-4 and weights are not clipped, as its configuration is ignored
=========  =====================================================================================

In all variants the recipe sets the losses. In the released code features are detached, so their
loss has no gradient. It also drops one bin too many, which is not repeated here.

References
----------
.. [1] Z. Tu, J. Hu, H. Chen, Y. Wang, "Toward Accurate Post-Training Quantization for Image Super
       Resolution", CVPR 2023.
"""

import math
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sr_quant_cli.methods.base import Group, Method
from sr_quant_cli.quant.fake import scale_gradient
from sr_quant_cli.quant.grids import Grid, affine_real, sym_narrow
from sr_quant_cli.quant.plan import Bits, MethodConfig
from sr_quant_cli.quant.quantizers import BoundsQuantizer, Quantizer, ScaleQuantizer
from sr_quant_cli.quant.ranges import Bounds, histogram_clip, min_max, percentile, range_shape
from sr_quant_cli.quant.sites import BLOCKS, Operands, Placement, Site
from sr_quant_cli.quant.widths import level_count

BINS = 2048


class DBDCPaCConfig(MethodConfig):
    """DBDC+PaC [1]_."""

    name: Literal["dbdc_pac"] = "dbdc_pac"
    """method"""
    dropped: Annotated[float, Field(ge=0, lt=1)] = 5e-4
    """share of an activation's values to clip below 8 bits; variant code: 1e-4 whatever it says"""
    dropped_int8: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    """share of an activation's values to clip at 8 bits"""
    weight_clip: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """share of a channel's weights to clip at either end; variant code: none whatever it says"""
    final: Annotated[float, Field(ge=0, le=1)] = 0.4
    """learning rate at the end of each half of the training, relative to its start"""


class ScaledBounds(BoundsQuantizer):
    """Two bounds whose gradient is divided by ``sqrt(numel (2^(b-1) - 1))``."""

    def grid(self, x: Tensor) -> Grid:
        """The range on its grid; only the scale of the gradient depends on ``x``."""
        return _scaled(super().grid(x), x)


class ScaledScale(ScaleQuantizer):
    """Symmetric bound whose gradient is divided by ``sqrt(numel (2^(b-1) - 1))``."""

    def grid(self, x: Tensor) -> Grid:
        """The range on its grid; only the scale of the gradient depends on ``x``."""
        return _scaled(super().grid(x), x)


def _scaled(grid: Grid, x: Tensor) -> Grid:
    return scale_gradient(grid, 1 / math.sqrt(x.numel() * ((level_count(grid.bits) - 1) // 2)))


class DBDCPaC(Method):
    """Bounds found by density and trained in two phases [1]_."""

    trains = True
    config: DBDCPaCConfig

    def paper_placement(self) -> Placement:
        """Every convolution, the ends at 8 bits; linear layers and products."""
        low, int8 = Operands("low", "low"), Operands("int8", "int8")
        ends: Placement = {"head": int8, "tail": int8}
        return {**BLOCKS, **ends, "body_last": low, "fusion": low, "upsampler": low}

    def cautions(self, bits: Bits) -> list[str]:
        """Warn of fields that the released code ignores."""
        config, default = self.config, type(self.config)()
        ignored = {"weight_clip": config.weight_clip != default.weight_clip}
        ignored["dropped"] = bits.a < 8 and config.dropped != default.dropped
        if config.variant != "code" or not any(ignored.values()):
            return []
        names = " and ".join(f"method.{name}" for name, yes in ignored.items() if yes)
        return [f"variant code clips no weight and 1e-4 of an activation, whatever {names} says"]

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Quantize each output channel between its extremes, or percentiles."""
        clip = 0.0 if self.config.variant == "code" else self.config.weight_clip
        bounds = partial(percentile, percent=100 * (1 - clip), dim=0)
        shape = range_shape(weight, dim=0)
        if per_channel:

            def scale(weight: Tensor) -> Tensor:
                lower, upper = bounds(weight)
                return torch.maximum(-lower, upper)

            return ScaledScale(bits, "clamp", sym_narrow, scale, shape)
        return ScaledBounds(bits, "clamp", affine_real, bounds, shape)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Clip by density, averaged over batches."""
        dropped = self.config.dropped if bits < 8 else self.config.dropped_int8
        estimate = partial(histogram_clip, dropped=dropped, bins=BINS)
        if self.config.variant == "code":
            estimate = partial(released_clip, dropped=1e-4 if bits < 8 else dropped)
        return ScaledBounds(bits, "clamp", affine_real, estimate)

    def rate_factor(self, group: Group, step: int, iters: int) -> float:
        """Train bounds of activations in the first half, of weights in the second, by cosines.

        >>> pac = DBDCPaC(DBDCPaCConfig())
        >>> [pac.rate_factor("bounds", step, 500) for step in (0, 125, 250)]
        [1.0, 0.7, 0.0]
        >>> [pac.rate_factor("weight_bounds", step, 500) for step in (249, 250, 375)]
        [0.0, 1.0, 0.7]
        """
        if group not in ("bounds", "weight_bounds"):
            return 1.0
        progress = 2 * step / iters - (group == "weight_bounds")
        if not 0 <= progress < 1:
            return 0.0
        final = self.config.final
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def released_clip(x: Tensor, dropped: float) -> Bounds:
    """Clip by density as released: the lower bound is the upper edge of its bin."""
    lower, upper = histogram_clip(x, dropped, BINS)
    smallest, largest = min_max(x)
    return lower + (largest - smallest) / BINS, upper
