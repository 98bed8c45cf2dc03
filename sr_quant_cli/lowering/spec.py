"""What a quantized network is once nothing of it changes any more: codes, steps, zero points.

A value of an input is ``step * (q - zero) + offset`` with a code ``0 <= q <= last``; a weight is
``step * q + offset`` with a code of int8. Offsets are 0 where integer kernels need nothing more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.dynamic import DynamicQuantizer
from sr_quant_cli.quant.grids import Grid, encode
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul, QuantTensor
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.sites import FULL, TENSORS, Kind, Site

ROUND_OFF = 1e-4
"""Part of a step by which an offset may miss a multiple of the step and still count as one."""


@dataclass(frozen=True, eq=False)
class InputSpec:
    """Codes of an activation: ``q = clip(R((x + shift - offset) / step) + zero, 0, last)``."""

    bits: int
    step: float
    zero: int
    """code of the value 0, less the offset; 0..255"""
    last: int
    """largest code"""
    offset: float = 0.0
    """of all values, padding excepted; where zero is in range half a step at most"""
    shift: Tensor | None = None
    """added before, ``[C, 1, 1]`` or ``[C]``"""


@dataclass(frozen=True, eq=False, kw_only=True)
class ChosenSpec(InputSpec):
    """Codes of the bits that are chosen at run time; ``step`` is 1: they count steps."""

    layer: str
    """dynamic input that the bits are chosen for"""
    steps: Tensor
    """float32 ``[K]``: of the candidates"""
    bounds: Tensor
    """float32 ``[K]``: largest magnitudes"""


@dataclass(frozen=True, eq=False)
class WeightSpec:
    """Codes of a weight: ``w = step * codes + offset``."""

    bits: int
    codes: Tensor
    """int8, in the shape of the weight"""
    step: Tensor
    """float32, ``[C]``: of each output channel"""
    offset: Tensor
    """float32, ``[C]``"""


@dataclass(frozen=True, eq=False)
class SiteSpec:
    """A site: operands that are None are float."""

    site: Site
    inputs: tuple[InputSpec | None, ...]
    """one; of a product two"""
    weight: WeightSpec | None

    @property
    def on_integers(self) -> bool:
        """Whether it is a product of which both operands are codes."""
        return None not in self.inputs and (self.weight is not None or len(self.inputs) == 2)

    @property
    def needs_float(self) -> bool:
        """Whether levels start at a real number, or something is added before, somewhere."""
        inputs = [given for given in self.inputs if given is not None]
        of_weight = self.weight is not None and bool(self.weight.offset.any())
        return of_weight or any(given.offset or given.shift is not None for given in inputs)


@dataclass(frozen=True)
class QuantSpec:
    """All that integer kernels need to know of a quantized network."""

    sites: tuple[SiteSpec, ...]
    obstacles: tuple[tuple[str, str], ...]
    """paths of what does not come down to integers, and why"""

    @property
    def passes_codes(self) -> bool:
        """Whether all tensors between products are codes, so that none has to give floats."""

        def is_code(site: SiteSpec) -> bool:
            return bool(site.inputs) and None not in site.inputs

        codes = {site.site.kind for site in self.sites if is_code(site)}
        between = [s for s in self.sites if s.site.kind in TENSORS and s.site.kind in FULL]
        return all(is_code(site) or site.site.quantized_by in codes for site in between)


@torch.no_grad()
def freeze(network: Network) -> QuantSpec:
    """Read off what became of every site.

    Ranges that a picture decides at run time are obstacles; their operands are float in the result.
    """
    sites, obstacles = [], []
    tensors: dict[Kind, InputSpec | None] = {}
    for site in network.sites():
        module = network.get_submodule(site.path)
        inputs: list[InputSpec | None] = []
        for quantizer in _input_quantizers(module):
            found: InputSpec | str | None = None
            if isinstance(quantizer, Quantizer):
                # A softmax gives the left operand of a product alone.
                found = _input(quantizer, site.unsigned and not inputs)
            elif site.quantized_by:
                found = tensors.get(site.quantized_by)
            if isinstance(found, str):
                obstacles.append((site.path, found))
                found = None
            inputs.append(found)
        weight = None
        if isinstance(module, QuantConv2d | QuantLinear) and isinstance(
            module.weight_quantizer, Quantizer
        ):
            weight = _weight(module.weight, module.weight_quantizer)
        if isinstance(module, QuantTensor):
            tensors[site.kind] = inputs[0]
        elif site.kind in TENSORS:
            tensors[site.kind] = tensors.get(site.quantized_by) if site.quantized_by else None
        sites.append(SiteSpec(site, tuple(inputs), weight))
    return QuantSpec(tuple(sites), tuple(obstacles))


def _input_quantizers(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, QuantMatMul):
        return [module.left_quantizer, module.right_quantizer]
    if isinstance(module, QuantConv2d | QuantLinear | QuantTensor):
        return [module.input_quantizer]
    return []


def _input(quantizer: Quantizer, unsigned: bool) -> InputSpec | str:
    """Codes of an activation, or why there are none."""
    if isinstance(quantizer, DynamicQuantizer) and (grids := quantizer.symmetric_grids()):
        return _chosen(quantizer, grids, unsigned)
    grid = quantizer.static_grid()
    if grid is None or grid.step.ndim:
        return "its range follows from the picture at run time"
    step, origin = float(grid.step), float(grid.origin)
    shift = quantizer.shift_before()
    # What is clipped to a bound gets its code, which need not be the grid's outermost.
    first, end = (int(encode(bound, grid)) for bound in (grid.lower, grid.upper))
    last = end - first
    zero = min(max(-(first + round(origin / step)), 0), last)
    offset = origin + (first + zero) * step
    if abs(offset) < ROUND_OFF * step:
        offset = 0.0
    if unsigned and shift is None and zero > 0 and not offset:
        # Codes of values below zero do not occur.
        zero, last = 0, last - zero
    return InputSpec(grid.bits, step, zero, last, offset, shift)


def _chosen(quantizer: DynamicQuantizer, grids: Sequence[Grid], unsigned: bool) -> ChosenSpec:
    largest = int(grids[-1].last)
    return ChosenSpec(
        bits=quantizer.bits,
        step=1.0,
        zero=0 if unsigned else largest,
        last=largest if unsigned else 2 * largest,
        layer=quantizer.layer,
        steps=torch.stack([grid.step for grid in grids]),
        bounds=torch.stack([grid.upper for grid in grids]),
    )


def _weight(weight: Tensor, quantizer: Quantizer) -> WeightSpec:
    """Codes of a weight; those that start at 0 are centred, so that they fit int8."""
    grid: Grid = quantizer.grid(weight)
    codes = encode(weight, grid)
    centre = 2 ** (grid.bits - 1) if grid.first == 0 else 0
    channels = len(weight)
    step = grid.step.flatten().expand(channels).clone()
    offset = (grid.origin + centre * grid.step).flatten().expand(channels).clone()
    codes = (codes - centre).to(torch.int8)
    # An integer zero point: as codes, if they still fit. Of half a step, odd multiples of it.
    for parts in (1, 2):
        if _is_multiple(parts * offset, step) and offset.any():
            multiple = (parts * offset / step).round().view(-1, *[1] * (codes.ndim - 1))
            shifted = parts * codes.float() + multiple
            if shifted.abs().max() <= 127:
                codes, step, offset = shifted.to(torch.int8), step / parts, 0 * offset
    return WeightSpec(grid.bits, codes, step, offset)


def snap(spec: QuantSpec) -> QuantSpec:
    """Move real offsets to the nearest multiple of the step, by half a step at most.

    With zero points and codes that are integers nothing remains but integer kernels. Offsets of
    weights stay where the moved codes would not fit 8 bits, those of inputs where the range does
    not reach zero.
    """

    def moved_input(given: InputSpec | None) -> InputSpec | None:
        if given is None or not 0 < abs(given.offset) <= (0.5 + ROUND_OFF) * given.step:
            return given
        return replace(given, offset=0.0)

    def moved(site: SiteSpec) -> SiteSpec:
        inputs, weight = tuple(map(moved_input, site.inputs)), site.weight
        if weight is not None and weight.offset.any():
            multiple = (weight.offset / weight.step).round()
            codes = weight.codes + multiple.view(-1, *[1] * (weight.codes.ndim - 1))
            if codes.abs().max() <= 127:
                weight = replace(
                    weight, codes=codes.to(torch.int8), offset=torch.zeros_like(weight.offset)
                )
        if weight is site.weight and all(a is b for a, b in zip(inputs, site.inputs, strict=True)):
            return site
        return replace(site, inputs=inputs, weight=weight)

    return replace(spec, sites=tuple(map(moved, spec.sites)))


def reduce_range(spec: QuantSpec) -> QuantSpec:
    """Weights of 7 bits where a sum of two products could exceed 16 bits.

    Integer kernels of x86 processors without VNNI add pairs of products of an unsigned 8-bit and a
    signed 8-bit code in 16 bits, and saturate. Codes up to 64 do not.
    """

    def reduced(site: SiteSpec) -> SiteSpec:
        weight = site.weight
        if weight is None or not any(i is not None and i.last > 127 for i in site.inputs):
            return site
        if int(weight.codes.short().abs().max()) <= 64:  # -128 has no opposite in 8 bits
            return site
        codes = (weight.codes / 2).round().to(torch.int8)
        return replace(site, weight=replace(weight, codes=codes, step=weight.step * 2))

    return replace(spec, sites=tuple(map(reduced, spec.sites)))


def _is_multiple(offset: Tensor, step: Tensor) -> bool:
    multiple = offset / step
    return bool(((multiple - multiple.round()).abs() < ROUND_OFF).all())
