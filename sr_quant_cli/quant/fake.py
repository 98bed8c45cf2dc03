"""Fake quantization: rounding to a grid forwards, a chosen gradient backwards.

Published methods use these rules:

========  ===============  ==============================  ====================================
rule      papers           gradient of the input           gradient of the bounds
========  ===============  ==============================  ====================================
``ste``   DAQ              1, on clipped values too        none
``half``  PAMS, DDTB       1 inside, 0 outside, 1/2 on a   share of clipped values, less the
                           bound, as min and max give it   rounding error over the width
``clip``  2DQuant, LSQ,    1 inside and on a bound, 0      as above, with ties in full
          LSQ+             outside
``clamp`` AdaBM,           as ``clip``                     as above, without ties, as
          DBDC+PaC                                         ``torch.clamp`` gives it
``tanh``  QuantSR          slope of a soft staircase       LSQ's, with the same slope
                           inside, 0 outside
========  ===============  ==============================  ====================================

With ``e = (clip(x) - x_hat) / (u - l)`` the gradient of the upper bound is ``1[x >= u] - e`` and of
the lower one ``1[x <= l] + e``; for ``clamp`` with ``>`` and ``<``. For ``u = Qp * step`` and
``l = Qn * step`` this is LSQ's gradient of the step, for ``u = -l = alpha`` PAMS's of ``alpha``:
every trainable range reduces to these two.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sr_quant_cli.quant.grids import Grid, quantize

Rule = Literal["ste", "half", "clip", "clamp", "tanh"]


def fake_quantize(x: Tensor, grid: Grid, rule: Rule) -> Tensor:
    """Put values on a grid: any floating type -> float32 of the same shape.

    Computed in float32, also under autocast. Gradients reach ``x`` and the bounds of the grid.

    >>> from sr_quant_cli.quant.grids import affine_real
    >>> x = torch.tensor([-2.0, 0.4, 1.3, 5.0], requires_grad=True)
    >>> lower, upper = torch.tensor(0.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    >>> y = fake_quantize(x, affine_real(lower, upper, 2), "clip")
    >>> y.tolist()
    [0.0, 0.0, 1.0, 3.0]
    >>> y.sum().backward()
    >>> x.grad.tolist()
    [0.0, 1.0, 1.0, 0.0]
    >>> round(upper.grad.item(), 4), round(lower.grad.item(), 4)
    (0.7667, 1.2333)
    """
    with without_autocast(x):
        out: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
            x.float(), grid.lower, grid.upper, grid, rule
        )
    return out


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Compute in float32 on the device of a tensor.

    Without autocast there is nothing to do: a region of its own would make tracing slow.
    """
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def scale_gradient(grid: Grid, factor: float) -> Grid:
    """Multiply the gradient of a grid's range by ``factor`` (LSQ); the grid stays the same."""

    def scaled(bound: Tensor) -> Tensor:
        value = bound.detach()
        return value + (bound - value) * factor

    # Scaled at the bounds, so that the step stays the same to the last bit.
    return replace(grid, lower=scaled(grid.lower), upper=scaled(grid.upper))


class _FakeQuantize(torch.autograd.Function):
    """In-place passes over the feature map, as few as possible: memory traffic dominates."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, grid: Grid, rule: Rule
    ) -> Tensor:
        y = quantize(x, grid)
        ctx.rule, ctx.grid = rule, grid
        if rule != "ste":
            ctx.save_for_backward(x, y, lower, upper)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.rule == "ste":
            return g, None, None, None, None
        x, y, lower, upper = ctx.saved_tensors
        input_above, upper_gradient = _beyond(g, x, upper, ctx.rule, (torch.gt, torch.ge))
        input_below, lower_gradient = _beyond(g, x, lower, ctx.rule, (torch.lt, torch.le))
        inside = g - input_above
        inside -= input_below
        if ctx.rule == "tanh":
            # Gradient of the step: R(v) - slope * v, for values that are not clipped.
            rounded = (y - ctx.grid.origin).mul_(inside)
            inside *= _tanh_slope(x, ctx.grid)
            error = (x - ctx.grid.origin).mul_(inside).sub_(rounded)
        else:
            error = torch.clamp(x, lower, upper).sub_(y).mul_(g)
        spread = error.sum_to_size(lower.shape) / (upper - lower)
        return inside, lower_gradient + spread, upper_gradient - spread, None, None


def _beyond(
    g: Tensor, x: Tensor, bound: Tensor, rule: Rule, compare: tuple[Any, Any]
) -> tuple[Tensor, Tensor]:
    """Gradient that values beyond a bound take from the input, and the sum that the bound gets."""
    # Float32 masks: a pass that mixes dtypes takes several times as long.
    strict, closed = (test(x, bound, out=torch.empty_like(x)) for test in compare)
    if rule == "clamp":
        beyond = strict.mul_(g)
        return beyond, beyond.sum_to_size(bound.shape)
    if rule == "half":
        both = strict.add_(closed).mul_(0.5).mul_(g)
        return both, both.sum_to_size(bound.shape)
    return strict.mul_(g), closed.mul_(g).sum_to_size(bound.shape)


def _tanh_slope(x: Tensor, grid: Grid) -> Tensor:
    """Slope of QuantSR's soft staircase: 1.082 between two levels, 0.851 on a level."""
    v = torch.clamp(x, grid.lower, grid.upper).sub_(grid.origin).div_(grid.step)
    t = v.sub_(v.floor()).sub_(0.5).tanh_()
    return t.square_().neg_().add_(1).div_(2 * math.tanh(0.5))
