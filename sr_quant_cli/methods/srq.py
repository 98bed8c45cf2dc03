"""srq's own method: searched ranges that training moves by shares of their width.

The start is that of DOBI: an activation has the two bounds of least error, a weight one symmetric
bound of least error for each output channel, or two for the whole weight where the placement asks
for ranges per tensor. The recipes fold, equalize and mix the network before, and round its weights
so that errors cancel (``[calibration]``).

Training then moves weights and ranges towards the output of the full-precision network. Of a range
it learns the change relative to the start, whose width is ``w0``:

    l = l0 + w0 t_l,    u = u0 + w0 t_u,    s = (u - l) / (2^b - 1)
    x_hat = s R((clip(x, l, u) - l) / s) + l        activations; weights with a range per tensor

    a = a0 (1 + t),     s = a / (2^(b-1) - 1)
    x_hat = s R(clip(x, -a, a) / s)                 weights with a range for each output channel

Adam moves every parameter by about its learning rate in a step, whatever its gradient. Bounds that
are learned directly move as far in a feature map of width 500 as in a weight of width 0.05, and so
published recipes have rates of their own for each network. Relative changes need one rate for all
of them. Gradients of ``x_hat`` are those of 2DQuant.

This is no method of a paper. ``docs/results.md`` has what it reaches, and what each part brings.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sr_quant_cli.methods.base import Method
from sr_quant_cli.methods.bound_search import BoundSearchConfig, search_channels
from sr_quant_cli.quant.grids import affine_real, sym_narrow
from sr_quant_cli.quant.quantizers import BoundsQuantizer, Quantizer, ScaleQuantizer
from sr_quant_cli.quant.ranges import Bounds, range_shape, search_one_sided, search_two_sided
from sr_quant_cli.quant.sites import FULL, Placement, Site

NARROWEST = 0.05
"""Smallest width of a trained range, as a share of its width at the start."""


class SRQConfig(BoundSearchConfig):
    """Searched ranges, trained relative to their width."""

    name: Literal["srq"] = "srq"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""


class RelativeBounds(BoundsQuantizer):
    """Bounds that training moves by shares of the calibrated width.

    ``lower`` and ``upper`` stay as calibrated.

    Examples
    --------
    >>> quantizer = RelativeBounds(2, lambda x: (x.amin(), x.amax()))
    >>> quantizer.observe(torch.tensor([1.0, 3.0]))
    >>> _ = quantizer.change.data.copy_(torch.tensor([-0.5, 0.25]))
    >>> [bound.item() for bound in quantizer.bounds()]
    [0.0, 3.5]
    """

    def __init__(self, bits: int, estimate: Callable[[Tensor], Bounds]) -> None:
        super().__init__(bits, "clip", affine_real, estimate)
        _freeze(self, "lower", "upper")
        self.change = nn.Parameter(torch.zeros(2))

    def bounds(self) -> Bounds:
        """Calibrated bounds, moved."""
        lower, upper = self.lower, self.upper
        width = upper - lower
        return lower + width * self.change[0], upper + width * self.change[1]

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep a width, after a training step."""
        lower, upper = self.change
        upper.clamp_(min=lower + NARROWEST - 1)


class RelativeScale(ScaleQuantizer):
    """Symmetric bounds of output channels that training moves by shares of the calibrated ones.

    ``value`` stays as calibrated.
    """

    def __init__(
        self, bits: int, estimate: Callable[[Tensor], Tensor], shape: tuple[int, ...]
    ) -> None:
        super().__init__(bits, "clip", sym_narrow, estimate, shape)
        _freeze(self, "value")
        self.change = nn.Parameter(torch.zeros(shape))

    def scale(self) -> Tensor:
        """Calibrated bounds, moved."""
        return self.value * (1 + self.change)

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep a width, after a training step."""
        self.change.clamp_(min=NARROWEST - 1)


def _freeze(quantizer: Quantizer, *names: str) -> None:
    """Keep parameters in the state that training leaves alone."""
    for name in names:
        start = quantizer.get_parameter(name).data
        delattr(quantizer, name)
        quantizer.register_buffer(name, start)


class SRQ(Method):
    """Searched ranges, trained relative to their width."""

    trains = True
    config: SRQConfig

    def paper_placement(self) -> Placement:
        """Every convolution, on integers."""
        return FULL

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Search two bounds, or one symmetric bound for each output channel."""
        candidates = self.config.candidates
        if not per_channel:
            return RelativeBounds(bits, partial(search_two_sided, bits=bits, candidates=candidates))
        search = partial(search_channels, bits=bits, candidates=candidates)
        return RelativeScale(bits, search, range_shape(weight, dim=0))

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Search the upper bound where values peak at the smallest one, else both bounds."""
        one_sided = site.unsigned or site.after_gelu
        search = search_one_sided if one_sided else search_two_sided
        return RelativeBounds(bits, partial(search, bits=bits, candidates=self.config.candidates))
