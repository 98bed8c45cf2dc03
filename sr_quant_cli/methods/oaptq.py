"""OAPTQ: outlier-aware post-training quantization.

Few activations of these networks are large, but they carry colour: clipped, they cost much, and
kept, they leave few levels for all others. Activations have two regions with uniform levels each.
With the break point ``p``, the largest magnitude ``m``, ``D`` codes in the dense region and ``T``
in a tail:

    dense region    |x| <= p    x_hat = R(x / s) s,                         s = p / D
    tails           |x| >  p    x_hat = sign(x) (p + R((|x| - p) / t) t),   t = (m - p) / T

A break point starts at the 99th percentile of the magnitudes, averaged over the calibration
batches; ``m`` is the largest of all batches. Both are trained. Gradients are those of 2DQuant for
each region: a value gets 1 inside ``[-m, m]`` and 0 outside, ``p`` and ``m`` what they move its
level by. Weights are on ``affine_real`` per output channel between trained bounds, which start at
the extremes. The weights of the network stay fixed.

The teacher is the full-precision network. The loss is L1 to its output and 5 times the distance of
the features of all blocks, in which sensitive blocks count more. The deviation ``d`` of a block is
the mean absolute change of the output if it alone is quantized:

    5 sum over blocks  a_i || f_i / ||f_i|| - f'_i / ||f'_i|| ||_2,    a = softmax(d / mean(d))

The ranges of weights, those of activations and the break points learn in turns of 50 steps.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  T = 2^(b-2) - 1 on each side and D = 2^(b-2), which leaves one code unused; after a
           ReLU D = 2^(b-1) - 1 and T = 2^(b-1), without levels below zero
paper      T = 2^(b-2) - 1 and D = 2^(b-2) - 1: 2^(b-1) - 1 points in the dense region, also after
           a ReLU; at 2 bits D = 1, as zero would be the only level
=========  =====================================================================================

Levels of two steps are no codes of an integer kernel: a graph keeps these activations in float, or
gets a uniform grid between ``-m`` and ``m`` (after a ReLU from 0) where ranges are fixed for
export.

No code is released. From descriptions of the paper are the regions and their points, the start of
the break point, softmax over deviations, the factor 5, the turns and the number of pictures. The
measure of deviation, the distance of features, the grid of weights, which is that of DBDC+PaC, and
the schedule are srq's.

References
----------
.. [1] H. Wang, J. Lu, Y. Zhang, Y. Fu, "Outlier-Aware Post-Training Quantization for Image
       Super-Resolution", ICCV 2025.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sr_quant_cli.methods.base import Group, Method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.fake import fake_quantize, without_autocast
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, above, affine_real
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import (
    BoundsQuantizer,
    Quantizer,
    channel_scale,
    quantizers,
    set_mode,
)
from sr_quant_cli.quant.ranges import max_abs, min_max, percentile, range_shape
from sr_quant_cli.quant.sites import BLOCKS, Placement, Site

TURNS: tuple[Group, ...] = ("weight_bounds", "bounds", "auxiliary")
"""Groups that learn in turns: ranges of weights, of activations, and break points."""


class OAPTQConfig(MethodConfig):
    """OAPTQ [1]_."""

    name: Literal["oaptq"] = "oaptq"
    """method"""
    variant: Literal["corrected", "paper"] = "corrected"
    """paper: points as described; corrected: no level is left unused"""
    break_percentile: Annotated[float, Field(gt=50, lt=100)] = 99.0
    """percentile of the magnitudes that the break point starts at"""
    turn: Annotated[int, Field(ge=1)] = 50
    """steps in which ranges of weights, then of activations, then break points are trained"""


class TwoRegions(Quantizer):
    """Uniform levels up to a break point, and others beyond it [1]_.

    Parameters
    ----------
    dense, tail
        Number of codes above zero in the dense region, and of those beyond it.
    unsigned
        There are no levels below zero.
    percent
        Percentile of the magnitudes that the break point starts at.

    Attributes
    ----------
    share
        Share of the block that the quantizer is in, in the loss on features.

    Examples
    --------
    >>> quantizer = TwoRegions(4, dense=4, tail=3, unsigned=False, percent=90)
    >>> quantizer.observe(torch.cat([torch.linspace(-4, 4, 101), torch.full((8,), 10.0)]))
    >>> quantizer.breakpoint.data.fill_(4.0)
    tensor(4.)
    >>> quantizer(torch.tensor([-11.0, -4.9, -3.7, 0.4, 2.6, 4.0, 5.1, 8.1])).tolist()
    [-10.0, -4.0, -4.0, 0.0, 3.0, 4.0, 6.0, 8.0]
    """

    obstacle = "its levels have two steps, which no integer kernel takes"
    batches: Tensor
    share: Tensor

    def __init__(self, bits: int, *, dense: int, tail: int, unsigned: bool, percent: float) -> None:
        super().__init__(bits, "clip")
        self._dense, self._tail = dense, tail
        self._unsigned, self._percent = unsigned, percent
        self.breakpoint = nn.Parameter(torch.zeros(()))
        self.largest = nn.Parameter(torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("share", torch.ones(()))

    def observe(self, x: Tensor) -> None:
        """Average the percentile of the magnitudes, and keep the largest."""
        _, start = percentile(x.abs(), self._percent)
        self.breakpoint.data.lerp_(start, 1 / (int(self.batches) + 1))
        self.largest.data.copy_(torch.maximum(self.largest, max_abs(x)))
        self.batches.add_(1)
        self.clamp_range()

    def grid(self, x: Tensor) -> Grid:
        """Grid of the dense region, with the bounds of the whole range.

        Raises
        ------
        RuntimeError
            The range was not calibrated.
        """
        if not self.batches:
            raise RuntimeError("the range of a quantizer is missing: calibrate first")
        whole = self._up_to(self.largest, self._dense + self._tail)
        return replace(self._dense_grid(), lower=whole.lower, upper=whole.upper)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32."""
        if self.mode != "quantize":
            return super().forward(x)
        with without_autocast(x):
            x = x.float()
            dense = self._dense_grid()
            y = fake_quantize(x, dense, self.rule)
            if self._tail:
                tail = self._up_to(self.largest - self.breakpoint, self._tail)
                beyond = torch.relu(x - dense.upper) - torch.relu(dense.lower - x)
                y = y + fake_quantize(beyond, tail, self.rule)
        return y

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep the break point positive, and the largest value above it."""
        self.breakpoint.clamp_(min=MIN_WIDTH)
        self.largest.copy_(above(self.breakpoint, self.largest))

    def auxiliary(self) -> list[nn.Parameter]:
        """The break point, which learns in turns of its own."""
        return [self.breakpoint]

    def _dense_grid(self) -> Grid:
        return self._up_to(self.breakpoint, self._dense)

    def _up_to(self, bound: Tensor, last: int) -> Grid:
        """Grid with ``last`` codes from zero to a bound, and as many below unless unsigned."""
        lower = torch.zeros_like(bound) if self._unsigned else -bound
        first = 0 if self._unsigned else -last
        return Grid(bound / last, torch.zeros_like(bound), lower, bound, first, last, self.bits)


class OAPTQ(Method):
    """Two regions for activations, and a loss that minds sensitive blocks [1]_."""

    trains = True
    uniform: ClassVar[bool] = False
    takes_levels: ClassVar[bool] = False
    config: OAPTQConfig

    def paper_placement(self) -> Placement:
        """Residual blocks, linear layers and products, as in the methods that it is compared to."""
        return BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Learn the bounds of each output channel, from its extremes."""
        if per_channel:
            return channel_scale(bits, "clip", lambda w: max_abs(w, dim=0), weight)
        shape = range_shape(weight, dim=0)
        return BoundsQuantizer(bits, "clip", affine_real, lambda w: min_max(w, dim=0), shape)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn a break point and the largest value."""
        quarter, unsigned = 2 ** (bits - 2), False
        dense, tail = quarter, quarter - 1
        if self.config.variant == "paper":
            dense = max(quarter - 1, 1)
        elif site.unsigned:
            dense, tail, unsigned = 2 * quarter - 1, 2 * quarter, True
        percent = self.config.break_percentile
        return TwoRegions(bits, dense=dense, tail=tail, unsigned=unsigned, percent=percent)

    def calibrate(self, network: Network, batches: Iterable[Tensor]) -> None:
        """Find ranges on LR batches ``[N, 3, h, w]`` (0..1), and the deviations on the first."""
        batches = list(batches)
        super().calibrate(network, batches)
        blocks = network.features().get("blocks", ())
        if not blocks:
            return
        deviations = torch.stack(list(_deviations(network, blocks, batches[0])))
        shares = torch.softmax(deviations / deviations.mean().clamp_min(MIN_WIDTH), 0)
        for path, share in zip(blocks, shares, strict=True):
            for quantizer in _activations(network.get_submodule(path)):
                quantizer.share.copy_(share)

    def rate_factor(self, group: Group, step: int, iters: int) -> float:
        """Train ranges of weights, of activations and break points in turns.

        >>> method = OAPTQ(OAPTQConfig(turn=2))
        >>> [TURNS[[method.rate_factor(g, s, 9) for g in TURNS].index(1)] for s in (0, 3, 5, 6)]
        ['weight_bounds', 'bounds', 'auxiliary', 'weight_bounds']
        """
        return float(group not in TURNS or TURNS[step // self.config.turn % 3] == group)

    def feature_factor(self, network: Network, path: str) -> Tensor | float:
        """Share of a block by its sensitivity; 1 where no activation is quantized."""
        found = next(_activations(network.get_submodule(path)), None)
        return 1.0 if found is None else found.share


@torch.no_grad()
def _deviations(network: Network, blocks: Iterable[str], batch: Tensor) -> Iterator[Tensor]:
    """Mean absolute change of the output if a block alone is quantized, for each block."""
    set_mode(network, "off")
    wanted = network(batch)
    for path in blocks:
        block = network.get_submodule(path)
        set_mode(block, "quantize")
        yield (network(batch) - wanted).abs().mean()
        set_mode(block, "off")
    set_mode(network, "quantize")


def _activations(module: nn.Module) -> Iterator[TwoRegions]:
    return (each for each in quantizers(module) if isinstance(each, TwoRegions))
