"""AdaBM: adaptive bit mapping after training, with fixed weights.

An activation has the bits asked for, plus or minus one for the picture and plus or minus one for
the layer:

    b = base + d_img + d_l                          between 2 and 8
    d_img = -1 if g < t_l, 1 if g > t_u, else 0
    g = 1000 mean of |dx| and |dy| of the grey picture, 0..1, by Sobel's kernel
    d_l   = R(clip(o_l, -1, 1)); 0 for the convolution that ends a dense block of RDN
    s = (u - l) / (2^b - 1),   x_hat = s R((clip(x, l, u) - l) / s) + l
    w_hat = midrise over [-u_w, u_w] in 2^w levels

    d d_img / d t    gradient of tanh((g - (t_l + t_u) / 2) 2 / (t_u - t_l))
    d d_l / d o_l    gradient of tanh(o_l)
    d x_hat / d s    R(v) - v,    v = (clip(x, l, u) - l) / s
    d x_hat / d l, d x_hat / d u    as of ``torch.clamp``: nothing from values on a bound

Calibration finds l and u (extremes of a batch) and t (10th and 90th percentile of a batch), all of
them averaged over batches with weight 0.9 for the old value, and o: -1 for layers below the 30th
percentile of the deviations of their inputs, 1 for those above the 70th. The deviation of an input
is the mean over its samples. u_w has the least squared error among 50 candidates that shrink by
1 % each. Bounds are then clipped for the bits of each layer (without d_img): those of least squared
error among 100 that shrink by 1 %, averaged with the old ones. This uses two pictures, and each
layer sees what the quantized layers before it give. Layers at fixed 8 bits are not clipped.

Training takes turns of 50 steps: u_w, (l, u), (t, o), and again. The learning rate of each is
multiplied by 0.9 after each turn of its own, so the schedule of the recipe must be constant. That
of t is ten times that of o. The weights of the network stay fixed. The loss is L1 to the
full-precision output, the distance of the features f_i behind all n blocks to those of the
teacher, f'_i, and, in turns of (t, o), 50 max(mean bits - base, 0). For B samples j of a batch the
distance is

    10 / (B n) mean over j of the sum over i of || f_ij / ||f_i|| - f'_ij / ||f'_i|| ||_2

with the inner norms over the batch.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  the search for u_w starts at the largest absolute weight
paper      as corrected
code       it starts at the largest weight, which clips large negative weights; on RDN the distance
           of the features is divided by C H W of f_i, which leaves next to nothing of it
=========  =====================================================================================

All else is as released. Not repeated from the released code: it has no limits of the bits, so that
2 bits may become 0; it searches weights of 8 bits at the bits of the others; and it clips for the
bits on the first training batch, not on pictures of the calibration.

The released code quantizes the convolutions of residual blocks of EDSR and SRResNet, and on RDN
both fusions and the last convolution of the body, too. The convolution that ends a dense block has
the bits asked for, whatever the picture. Mean bits in the loss include it; those that ``srq eval``
reports do not. The option ``--fq`` of the code quantizes all convolutions: that of ``body_last``
like those in blocks, ``head``, ``upsampler`` and ``tail`` at fixed 8 bits. This is how RDN was
published, and ``[sites]`` of ``adabm-rdn`` has it; other networks get it by the same fields.

Bits follow the input of the network: in patch-wise inference the patch.

References
----------
.. [1] C. Hong, K. M. Lee, "AdaBM: On-the-Fly Adaptive Bit Mapping for Image Super-Resolution",
       CVPR 2024.
"""

from collections.abc import Iterable
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sr_quant_cli.methods.base import FeatureDistance, Group, Method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.dynamic import (
    Choice,
    DynamicQuantizer,
    ListedProvider,
    attach,
    dynamic_quantizers,
)
from sr_quant_cli.quant.fake import fake_quantize
from sr_quant_cli.quant.grids import Grid, above, affine_real, midrise, quantize, sym_narrow
from sr_quant_cli.quant.pictures import sobel_gradients
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import (
    BoundsQuantizer,
    Quantizer,
    ScaleQuantizer,
    channel_scale,
    observe,
    set_mode,
)
from sr_quant_cli.quant.ranges import max_abs, min_max, search_scale
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Placement, Site

TURNS: tuple[Group, ...] = ("weight_bounds", "bounds", "auxiliary")

SEARCHED, WEIGHT_SHRINK = 100, 0.01
"""Number of bounds tried for an activation; relative decrease between bounds of a weight."""

CLIPPING_BATCH = 2
"""Pictures that bounds are clipped on for the bits of the layers."""

THRESHOLD_GAIN = 10.0
"""Factor between thresholds and their parameters, so that they learn ten times as fast."""

OLD, BLEND = 0.9, 0.5
"""Weights of the old bounds: from batch to batch, and after the search at a layer's bits."""


class AdaBMConfig(MethodConfig):
    """AdaBM [1]_."""

    name: Literal["adabm"] = "adabm"
    """method"""
    picture_percentile: Annotated[float, Field(gt=0, lt=50)] = 10.0
    """percentage of pictures that start with one bit less, and with one more"""
    layer_percentile: Annotated[float, Field(ge=0, lt=50)] = 30.0
    """percentage of layers that start with one bit less, and with one more"""
    bit_weight: Annotated[float, Field(ge=0)] = 50.0
    """weight of the mean bits above those asked for"""
    searched_weights: Annotated[int, Field(ge=1, le=99)] = 50
    """bounds that are tried for a weight"""
    turn: Annotated[int, Field(ge=1, le=10**9)] = 50
    """steps in which one group of parameters learns, before the next one does"""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """factor of a group's learning rate after each of its turns"""


class BitMapping(ListedProvider):
    """Bits by picture and layer [1]_.

    Attributes
    ----------
    slope_thresholds
        Lower and upper slope, divided by ``THRESHOLD_GAIN``.
    offsets
        Offsets of the layers, ``[L]``, rounded when used.
    learns
        True in steps that train the mapping.
    fixed
        Number of inputs that have ``base`` bits for every picture.
    """

    def __init__(self, base: int, layers: list[str]) -> None:
        lowest, highest = max(base - 2, 2), min(base + 2, 8)
        super().__init__(tuple(range(lowest, highest + 1)))
        self.base, self.learns = base, False
        self.fixed = 0
        self.column = {layer: index for index, layer in enumerate(layers)}
        self.slope_thresholds = nn.Parameter(torch.zeros(2))
        self.offsets = nn.Parameter(torch.zeros(len(layers)))

    def look(self, picture: Tensor) -> None:
        """Find the offset of every picture."""
        slope = slopes(picture)
        lower, upper = THRESHOLD_GAIN * self.slope_thresholds
        hard = (slope > upper).float() - (slope < lower).float()
        width = above(lower, upper) - lower
        soft = ((slope - (lower + upper) / 2) * 2 / width).tanh()
        self.of_picture = hard + (soft - soft.detach())
        self.row = hard.long() + 1

    def choose(self, layer: str, x: Tensor) -> Choice:
        """Add the offsets, clipped to the candidates."""
        offset = self.offsets[self.column[layer]]
        soft = offset.tanh()
        of_layer = _offset(offset.detach()) + (soft - soft.detach())
        bits = self.base + self.of_picture + of_layer
        bits = bits.clamp(self.candidates[0], self.candidates[-1])
        # Bits stay whole numbers despite the rounding errors of the gradients' terms.
        bits = bits + (bits.round() - bits).detach()
        return Choice(bits, (bits.detach() - self.candidates[0]).long())

    def rows(self) -> Tensor:
        """Rows for pictures with one bit less, none changed, and one more."""
        of_picture = torch.arange(-1, 2, device=self.offsets.device)[:, None]
        bits = self.base + of_picture + _offset(self.offsets.detach()).long()
        return bits.clamp(self.candidates[0], self.candidates[-1])


def _offset(parameter: Tensor) -> Tensor:
    return parameter.clamp(-1, 1).round()


class AveragedBounds(BoundsQuantizer):
    """Two trainable bounds [1]_."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits, "clamp", affine_real, min_max)

    def observe(self, x: Tensor) -> None:
        """Update the moving average of the extremes."""
        for bound, new in zip((self.lower, self.upper), self._estimate(x), strict=True):
            bound.data.copy_(_averaged(bound, new, int(self.batches)))
        self.batches.add_(1)


class ShiftedBits(DynamicQuantizer, AveragedBounds):
    """Two trainable bounds, and a step that follows the bits [1]_."""

    def static_grid(self) -> None:
        """None: it depends on the choice."""

    def grid_at(self, bits: int) -> Grid:
        """The grid of the bounds at some bits."""
        return self._to_grid(self.lower, self.upper, bits)

    def grid_for(self, choice: Choice) -> Grid:
        """The grid of the bounds at each sample's bits."""
        bits = [int(b) for b in choice.bits.tolist()]
        grids = {b: self.grid_at(b) for b in set(bits)}

        def each(name: str) -> Tensor:
            values = [getattr(grids[b], name) for b in bits]
            return torch.stack(values).view(-1, 1, 1, 1)

        most = max(grid.last for grid in grids.values())
        return Grid(each("step"), each("origin"), each("lower"), each("upper"), 0, most, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32; bits get their gradient through the step."""
        if self.mode != "quantize":
            return super().forward(x)
        choice = self.provider[0].choice(self.layer, x)
        grid = self.grid_for(choice)
        y = fake_quantize(x, grid, self.rule)
        if not choice.bits.requires_grad:
            return y
        error = (y - torch.clamp(x.float(), grid.lower, grid.upper)).detach()
        # log of the step, up to a constant, as a function of the bits alone.
        log_step = -torch.log(2**choice.bits - 1).view(-1, 1, 1, 1)
        return y + error * (log_step - log_step.detach())


class AdaBM(Method):
    """Bits by picture and layer, found after training [1]_."""

    trains = True
    dynamic = True
    chooses_bits = True
    takes_levels = False
    config: AdaBMConfig

    def paper_placement(self) -> Placement:
        """Both operands of the convolutions of residual blocks."""
        return RESIDUAL_CONVOLUTIONS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Quantize to mid-rise levels between opposite bounds; per channel with zero as a level."""
        if per_channel:
            return channel_scale(
                bits,
                "clamp",
                lambda w: search_scale(w, sym_narrow, bits, max_abs(w, dim=0), dim=0),
                weight,
            )
        code = self.config.variant == "code"

        def estimate(weight: Tensor) -> Tensor:
            start = weight.max() if code else max_abs(weight)
            return shrunk_bound(weight, bits, start, self.config.searched_weights)

        return ScaleQuantizer(bits, "clamp", bound_to_midrise, estimate)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn two bounds at fixed bits."""
        return AveragedBounds(bits)

    def low_input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn two bounds at dynamic bits; for tokens and fusions in blocks at fixed bits."""
        in_block = "." in site.path
        if site.kind in ("linear", "matmul") or (site.kind == "fusion" and in_block):
            return self.input_quantizer(site, bits)
        return ShiftedBits(bits)

    def attach(self, network: Network) -> None:
        """Attach the mapping."""
        assert network.quantization is not None
        layers = list(dynamic_quantizers(network))
        mapping = BitMapping(network.quantization.bits.a, layers)
        mapping.fixed = len(_low_inputs(network)) - len(layers)
        attach(network, mapping)

    def calibrate(self, network: Network, batches: Iterable[Tensor]) -> None:
        """Find bounds, thresholds and offsets, then bounds for the bits of the layers."""
        given = list(batches)
        mapping = _mapping(network)
        layers = dynamic_quantizers(network)
        spread = dict.fromkeys(layers, 0.0)

        def look(layer: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            spread[layer] += inputs[0].float().flatten(1).std(1).mean().item()

        handles = [
            quantizer.register_forward_pre_hook(partial(look, layer))
            for layer, quantizer in layers.items()
        ]
        observe(network, given)
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for seen, batch in enumerate(given):
                ends = _ends(slopes(batch), self.config.picture_percentile) / THRESHOLD_GAIN
                mapping.slope_thresholds.copy_(_averaged(mapping.slope_thresholds, ends, seen))
            deviations = mapping.offsets.new_tensor([spread[layer] for layer in mapping.column])
            smallest, largest = _ends(deviations, self.config.layer_percentile)
            mapping.offsets.copy_((deviations > largest).float() - (deviations < smallest).float())
            self._clip_for_bits(network, given[0][:CLIPPING_BATCH])

    def _clip_for_bits(self, network: Network, batch: Tensor) -> None:
        """Search bounds at the bits of each layer, behind quantized layers [1]_."""
        mapping = _mapping(network)

        def search(bits: int, quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(quantizer, AveragedBounds)
            x = inputs[0].float()
            shares = torch.arange(SEARCHED, 0, -1, device=x.device) / SEARCHED
            lower, upper = quantizer.lower, quantizer.upper
            errors = [
                (quantize(x, affine_real(r * lower, r * upper, bits)) - x).square().mean()
                for r in shares
            ]
            best = shares[torch.stack(errors).argmin()]
            for bound in (lower, upper):
                bound.copy_(BLEND * bound + (1 - BLEND) * best * bound)

        handles = []
        for quantizer in _low_inputs(network):
            bits = mapping.base
            if isinstance(quantizer, ShiftedBits):
                offset = int(mapping.offsets[mapping.column[quantizer.layer]].round())
                bits = min(max(bits + offset, 2), 8)
            handles.append(quantizer.register_forward_pre_hook(partial(search, bits)))
        set_mode(network, "quantize")
        network(batch)
        for handle in handles:
            handle.remove()

    def rate_factor(self, group: Group, step: int, iters: int) -> float:
        """Train the groups in turn, each at its own pace; the weights of the network stay fixed.

        >>> adabm = AdaBM(AdaBMConfig())
        >>> [adabm.rate_factor("bounds", step, 500) for step in (49, 50, 99, 100, 200)]
        [0.0, 1.0, 1.0, 0.0, 0.9]
        """
        done, turn = divmod(step // self.config.turn, len(TURNS))
        return self.config.decay**done if group == TURNS[turn] else 0.0

    def before_step(self, network: Network, step: int, iters: int) -> None:
        """Set the group that learns."""
        turn = step // self.config.turn % len(TURNS)
        _mapping(network).learns = TURNS[turn] == "auxiliary"

    def regularizers(self, network: Network) -> dict[str, Tensor]:
        """Penalize mean bits above those asked for, in steps that train the mapping."""
        mapping = _mapping(network)
        choices, mapping.choices = mapping.choices, {}
        if not mapping.learns:
            return {}
        excess = torch.stack([choice.bits.mean() - mapping.base for choice in choices.values()])
        mean = excess.sum() / (len(excess) + mapping.fixed)
        return {"bits": self.config.bit_weight * mean.clamp_min(0)}

    def feature_distance(self, network: Network, default: FeatureDistance) -> FeatureDistance:
        """Divide by the number of values of a sample behind dense blocks, as released."""
        if self.config.variant == "code" and any(s.kind == "dense_in" for s in network.sites()):
            return lambda student, teacher: default(student, teacher) / student[0].numel()
        return default


def slopes(picture: Tensor) -> Tensor:
    """Mean of |dx| and |dy| of grey pictures, times 1000: RGB 0..1 ``[N, 3, H, W]`` -> ``[N]``.

    >>> ramp = torch.arange(4.0).expand(1, 3, 3, 4) / 100  # 0.01 a pixel, half of it at the sides
    >>> round(slopes(ramp).item(), 4)
    3.75
    """
    return 1000 * sobel_gradients(picture).mean(1)


def bound_to_midrise(bound: Tensor, bits: int) -> Grid:
    """Make ``2^b`` levels from ``-bound`` to ``bound``.

    >>> from sr_quant_cli.quant.grids import levels
    >>> levels(bound_to_midrise(torch.tensor(3.0), 2)).tolist()
    [-3.0, -1.0, 1.0, 3.0]
    """
    return midrise(2 * bound / (2**bits - 1), bits)


@torch.no_grad()
def shrunk_bound(weight: Tensor, bits: int, start: Tensor, count: int) -> Tensor:
    """Find the bound of least squared error among ``start (1 - 0.01 i)``, ``i = 0 .. count - 1``.

    >>> shrunk_bound(torch.tensor([-3.0, -1.0, 1.0, 3.0]), 2, torch.tensor(3.3), 50).item()
    3.003000020980835
    """
    shares = 1 - WEIGHT_SHRINK * torch.arange(count, device=weight.device)
    errors = torch.stack(
        [
            (quantize(weight, bound_to_midrise(share * start, bits)) - weight).square().mean()
            for share in shares
        ]
    )
    return start * shares[errors.argmin()]


def _averaged(old: Tensor, new: Tensor, seen: int) -> Tensor:
    """Update a moving average over batches, of which ``seen`` came before."""
    return OLD * old + (1 - OLD) * new if seen else new


def _ends(values: Tensor, percentile: float) -> Tensor:
    """Compute a percentile from below and from above: ``[K]`` -> ``[2]``."""
    share = percentile / 100
    return torch.quantile(values, values.new_tensor([share, 1 - share]))


def _low_inputs(network: Network) -> list[AveragedBounds]:
    """Quantizers of the inputs with the bits asked for, in the order of the network's modules."""
    assert network.quantization is not None
    return [
        module
        for entry in network.quantization.sites
        if entry.dynamic
        for module in network.get_submodule(entry.site.path).modules()
        if isinstance(module, AveragedBounds)
    ]


def _mapping(network: Network) -> BitMapping:
    assert isinstance(network.bit_provider, BitMapping)
    return network.bit_provider
