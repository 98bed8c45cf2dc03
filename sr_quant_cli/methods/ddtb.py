"""DDTB: dynamic dual trainable bounds.

Every activation is on ``affine_int`` between two trainable bounds. Where the extremes vary most
between batches, a small gate multiplies the bounds by factors for every sample. The bounds of a
weight are its 1st and 99th percentile in each forward pass.

    (g_u, g_l) = 2 sigmoid(gate(x)), or 1
    u = g_u upper,   l = g_l lower,   s = (u - l) / (2^b - 1),   z = R(l / s)
    x_hat = s (R(clip(x, l, u) / s - z) + z)

    d x_hat / d x    1 inside, 0 outside
    d x_hat / d u    1[x > u] - e,    e = (clip(x, l, u) - x_hat) / (u - l)
    d x_hat / d l    1[x < l] + e

A value on a bound counts half inside and half outside. Weights have the same formulas without
gradients of the bounds, so clipped weights get none. The gate is a 1x1 convolution from the means
of the channels to 32 units, normalization, ReLU, and a 1x1 convolution to two logits, all with
2-bit operands.

Training has three phases, here shares of its length (published: epoch 1, 2 to 5, and 6 to 60):

1. statistics: everything runs in full precision and nothing is trained; batch normalization uses
   its running statistics. The extremes of every activation are recorded, and those with the largest
   ``var(max) + var(min)`` get gates
2. gates are computed and pulled to factors of 1 by a loss, but not applied
3. gates are applied

The loss is that of PAMS: L1 to HR and 1000 times the attention transfer in front of the upsampler.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  bounds start at percentiles of the calibration; all layers of a gate learn; its inner
           quantizers have ranges per sample and its normalization uses running statistics, so
           factors do not depend on the batch, which may be a single sample
paper      the inner ranges of a gate and its normalization in training are those of the
           batch, which needs two samples or more
code       as paper; only the last layer of a gate learns, as its input is detached; bounds start
           at percentiles only at 2 bits, found layer by layer behind quantized ones, and
           otherwise at -10 and 10; the first convolution in a block of EDSR reads the unquantized
           block input
=========  =====================================================================================

In SRResNet only the inputs of a block's convolutions are quantized. In RDN every quantized tensor
is what the concatenation behind it carries on, where it is quantized again with the new features;
outputs of branches stay float. All variants do this.

The released code ignores its gates in evaluation unless a flag is set. Here the network saves
whether they are applied. All variants keep the upper bound above the lower one. In tiled inference
the factors are those of each tile.

References
----------
.. [1] Y. Zhong, M. Lin, X. Li, K. Li, Y. Shen, F. Chao, Y. Wu, R. Ji, "Dynamic Dual Trainable
       Bounds for Ultra-low Precision Super-Resolution Networks", ECCV 2022.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods.base import Group, Method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.fake import without_autocast
from sr_quant_cli.quant.grids import Grid, affine_int, sym_narrow
from sr_quant_cli.quant.layers import QuantLinear
from sr_quant_cli.quant.plan import Bits, MethodConfig
from sr_quant_cli.quant.quantizers import (
    BoundsQuantizer,
    Quantizer,
    WeightRangeQuantizer,
    quantizers,
)
from sr_quant_cli.quant.ranges import Bounds, max_abs, min_max, percentile
from sr_quant_cli.quant.sites import RELEASED_RESIDUAL_BLOCKS, RESIDUAL_BLOCKS, Placement, Site

GATE_BITS, GATE_WIDTH = 2, 32
MOMENTUM, EPS = 0.1, 1e-5
"""Momentum and epsilon of the gates' normalization."""


class DDTBConfig(MethodConfig):
    """DDTB [1]_; the defaults are those for EDSR."""

    name: Literal["ddtb"] = "ddtb"
    """method"""
    weight_percentile: Annotated[float, Field(gt=50, le=100)] = 99.0
    """percentile that weights are clipped to, above and below; 100: not clipped (RDN)"""
    activation_percentile: Annotated[float, Field(gt=50, le=100)] = 99.0
    """percentile that the bounds of activations start at (RDN: 95)"""
    dynamic_ratio: Annotated[float, Field(ge=0, le=1)] = 0.3
    """share of the activations that get a gate, rounded down (SRResNet: 0.1, RDN: 0.5)"""
    statistics: Annotated[float, Field(gt=0, lt=1)] = 1 / 60
    """share of the training in which extremes are recorded, in full precision"""
    gates_from: Annotated[float, Field(gt=0, lt=1)] = 5 / 60
    """share of the training after which gates are applied"""
    gate_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight of the loss that pulls gates to 1 before they are applied"""

    @model_validator(mode="after")
    def _phases_in_order(self) -> Self:
        if self.gates_from < self.statistics:
            raise ValueError(f"gates_from = {self.gates_from}: must be at least statistics")
        return self


class RunningNorm(nn.Module):
    """Batch normalization by running statistics, in training and evaluation.

    The result for a sample does not depend on its batch. The running variance is taken around the
    running mean, so batches of one sample, whose own variance is 0, count as well.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C]`` -> ``[N, C]``."""
        y = (x - self.mean) * (self.variance + EPS).rsqrt() * self.weight + self.bias
        if self.training:
            with torch.no_grad():
                from_old_mean = x - self.mean
                self.mean.lerp_(x.mean(0), MOMENTUM)
                self.variance.lerp_((from_old_mean * (x - self.mean)).mean(0), MOMENTUM)
        return y


class Gate(nn.Module):
    """Factors of the two bounds of an activation, for every sample, from the channel means.

    The 1x1 convolutions of the globally pooled map are linear layers here. Their weights are on
    ``sym_narrow``, their inputs on ``affine_int`` between their extremes.

    Parameters
    ----------
    channels
        Channels of the activation.
    learns
        False: only the last layer gets a gradient.
    per_sample
        True: factors of a sample do not depend on its batch.

    Examples
    --------
    Means 0, 1.2 and 3 become 0, 1 and 3. Each hidden unit adds them to 4, which a fresh
    normalization leaves; the logits are the mean of the units and its negative:

    >>> gate = Gate(3, learns=True, per_sample=True).eval()
    >>> gate.reduce.weight.data[:] = 1.0
    >>> gate.expand.weight.data[:] = torch.tensor([[1 / 32], [-1 / 32]])
    >>> logits = gate(torch.tensor([0, 1.2, 3]).view(1, 3, 1, 1))
    >>> [round(value, 2) for value in logits[0].tolist()]
    [4.0, -4.0]
    """

    def __init__(self, channels: int, *, learns: bool, per_sample: bool) -> None:
        super().__init__()
        self._learns, self._per_sample = learns, per_sample
        self.reduce = self._layer(channels, GATE_WIDTH)
        self.norm = RunningNorm(GATE_WIDTH) if per_sample else nn.BatchNorm1d(GATE_WIDTH)
        self.expand = self._layer(GATE_WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits of the upper and lower factor: ``[N, C, H, W]`` -> ``[N, 2]``.

        Raises
        ------
        UsageError
            The gate normalizes over the batch, and trains on a batch of one.
        """
        if self.training and not self._per_sample and len(x) == 1:
            raise UsageError(
                "train.batch: gates normalize over the batch, so each process needs 2 patches or "
                "more; those of method.variant = corrected do with one"
            )
        with without_autocast(x):
            means = x.detach().mean((2, 3), dtype=torch.float32)
            hidden = torch.relu(self.norm(self.reduce(means)))
            logits: Tensor = self.expand(hidden if self._learns else hidden.detach())
        return logits

    def _layer(self, inputs: int, outputs: int) -> QuantLinear:
        dim = 0 if self._per_sample else None
        return QuantLinear(
            nn.Linear(inputs, outputs, bias=False),
            WeightRangeQuantizer(GATE_BITS, "ste", lambda w, b: sym_narrow(max_abs(w), b)),
            WeightRangeQuantizer(GATE_BITS, "ste", lambda x, b: affine_int(*min_max(x, dim), b)),
        )


class Resting(Quantizer):
    """Quantizer that passes its input through in the training steps of phase 1.

    Evaluation always quantizes, so that scores are never those of a float network.
    """

    rests = False

    def record(self, x: Tensor) -> None:
        """Update the statistics by a batch; a weight has none."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32 where it is quantized."""
        if not (self.rests and self.training):
            return super().forward(x)
        self.record(x)
        return x


class PercentileWeight(Resting, WeightRangeQuantizer):
    """Quantizer of a weight between its percentiles; clipped weights get no gradient.

    >>> PercentileWeight(2, percent=100)(torch.tensor([-2.0, -0.8, 1.2, 4.0])).tolist()
    [-2.0, 0.0, 2.0, 4.0]
    """

    def __init__(self, bits: int, percent: float, *, per_channel: bool = False) -> None:
        def whole(weight: Tensor, bits: int) -> Grid:
            return affine_int(*percentile(weight, percent), bits)

        def channels(weight: Tensor, bits: int) -> Grid:
            lower, upper = percentile(weight, percent, dim=0)
            return sym_narrow(torch.maximum(-lower, upper), bits)

        super().__init__(bits, "half", channels if per_channel else whole)


class DynamicBounds(Resting, BoundsQuantizer):
    """Two trainable bounds, multiplied by a gate where it was chosen [1]_.

    Attributes
    ----------
    gate
        Gate; None where the bounds are never dynamic.
    seen, means, squares
        Number of recorded batches; means and sums of squared deviations of their extremes, ``[2]``.
    dynamic
        True if the gate was chosen.
    applied
        True if a chosen gate multiplies the bounds, False if it is only computed.
    logits
        Logits of the latest forward pass, if the gate was only computed.

    Examples
    --------
    >>> quantizer = DynamicBounds(2, min_max)
    >>> quantizer.observe(torch.tensor([-2.0, 4.0]))
    >>> quantizer(torch.tensor([-3.0, -0.9, 3.2, 9.0])).tolist()
    [-2.0, 0.0, 4.0, 4.0]
    """

    seen: Tensor
    means: Tensor
    squares: Tensor
    dynamic: Tensor
    applied: Tensor

    def __init__(
        self, bits: int, estimate: Callable[[Tensor], Bounds], gate: Gate | None = None
    ) -> None:
        super().__init__(bits, "half", affine_int, estimate)
        self.gate = gate
        self.logits: Tensor | None = None
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("squares", torch.zeros(2))
        self.register_buffer("dynamic", torch.zeros((), dtype=torch.bool))
        self.register_buffer("applied", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def record(self, x: Tensor) -> None:
        """Update the variances of the extremes by a batch."""
        extremes = torch.stack(torch.aminmax(x)).float()
        self.seen += 1
        from_old_mean = extremes - self.means
        self.means += from_old_mean / self.seen
        self.squares += from_old_mean * (extremes - self.means)
        if self.gate is not None:
            self.gate(x)  # updates the statistics of its normalization

    def variation(self) -> float:
        """``var(max) + var(min)`` over the recorded batches."""
        return float(self.squares.sum() / self.seen.clamp_min(1))

    def grid(self, x: Tensor) -> Grid:
        """The grid of the bounds, or one for each sample if the gate is applied."""
        static = super().grid(x)
        if self.gate is None or not self.dynamic:
            return static
        logits = self.gate(x)
        if not self.applied:
            self.logits = logits
            return static
        upper, lower = (2 * logits.sigmoid()).view(-1, 2, 1, 1, 1).unbind(1)
        return affine_int(lower * self.lower, upper * self.upper, self.bits)

    def static_grid(self) -> Grid | None:
        """The grid of the bounds; None where a gate was chosen."""
        return None if self.gate is not None and self.dynamic else super().static_grid()

    def auxiliary(self) -> list[nn.Parameter]:
        """Parameters of the gate, chosen or not."""
        return [] if self.gate is None else list(self.gate.parameters())


class DDTB(Method):
    """Trainable bounds, dynamic where the data vary most [1]_."""

    trains = True
    dynamic = True
    config: DDTBConfig

    def cautions(self, bits: Bits) -> list[str]:
        """Warn of the released start at -10 and 10."""
        if self.config.variant == "code" and bits.a > 2:
            return [
                "bounds start at -10 and 10 and clip most of the features of a network on 0..255; "
                "variant corrected starts at percentiles"
            ]
        return []

    def paper_placement(self) -> Placement:
        """Both convolutions of a block, its input or shortcut, and the output of the branch."""
        return RELEASED_RESIDUAL_BLOCKS if self.config.variant == "code" else RESIDUAL_BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Quantize between the percentiles of the weight in each step."""
        return PercentileWeight(bits, self.config.weight_percentile, per_channel=per_channel)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn two bounds, with a gate where the input is a map ``[N, C, H, W]``."""
        config, gate = self.config, None
        if site.kind not in ("linear", "matmul"):
            learns, per_sample = config.variant != "code", config.variant == "corrected"
            gate = Gate(site.channels, learns=learns, per_sample=per_sample)
        quantizer = DynamicBounds(bits, lambda x: percentile(x, config.activation_percentile), gate)
        if config.variant == "code" and bits > 2:
            quantizer.lower.data.fill_(-10)
            quantizer.upper.data.fill_(10)
            quantizer.batches.fill_(1)
        return quantizer

    def calibrate(self, network: Network, batches: Iterable[Tensor]) -> None:
        """Find the first bounds on LR batches ``[N, 3, h, w]`` (0..1).

        Variant ``code`` uses one batch, layer by layer behind quantized ones.
        """
        if self.config.variant != "code":
            super().calibrate(network, batches)
            return
        # Every quantizer finds its bounds just before it uses them.
        hooks = [
            quantizer.register_forward_pre_hook(lambda module, inputs: module.observe(*inputs))
            for quantizer in _activations(network)
            if not quantizer.batches
        ]
        with torch.no_grad():
            network.eval()(next(iter(batches)))
        for hook in hooks:
            hook.remove()

    def rate_factor(self, group: Group, step: int, iters: int) -> float:
        """Train nothing in phase 1."""
        return 0.0 if step < self.config.statistics * iters else 1.0

    def before_step(self, network: Network, step: int, iters: int) -> None:
        """Set the phase, and choose the gates after the last step of phase 1."""
        rests = step < self.config.statistics * iters
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # the network's; those of gates are 1-D
                module.train(network.training and not rests)
        for quantizer in quantizers(network):
            if isinstance(quantizer, Resting):
                quantizer.rests = rests
            if isinstance(quantizer, DynamicBounds):
                quantizer.applied.fill_(step >= self.config.gates_from * iters)
        if step == math.ceil(self.config.statistics * iters):
            self.choose([a for a in _activations(network) if a.gate is not None])

    def choose(self, activations: list[DynamicBounds]) -> None:
        """Choose the gates of activations whose extremes vary most between batches [1]_."""
        ranked = sorted(activations, key=DynamicBounds.variation, reverse=True)
        for rank, activation in enumerate(ranked):
            activation.dynamic.fill_(rank < int(self.config.dynamic_ratio * len(ranked)))

    def regularizers(self, network: Network) -> dict[str, Tensor]:
        """Penalize squared logits of gates in phase 2; factors of 1 have logits of 0."""
        terms = []
        for activation in _activations(network):
            if activation.logits is not None:
                terms.append(activation.logits.square().mean())
                activation.logits = None
        return {"gate": self.config.gate_weight * torch.stack(terms).mean()} if terms else {}


def _activations(network: Network) -> Iterator[DynamicBounds]:
    return (module for module in network.modules() if isinstance(module, DynamicBounds))
