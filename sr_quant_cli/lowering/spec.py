"""Integer form of a quantized network: codes, steps, zero points.

An input value is ``step * (q - zero) + offset`` with a code ``0 <= q <= last``. A weight is
``step * q + offset`` with an int8 code. Where offsets are 0, integer kernels need nothing else.
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
from sr_quant_cli.quant.sites import FULL, TENSORS, Site

ROUND_OFF = 1e-4
"""Fraction of a step by which an offset may differ from a multiple of the step."""


@dataclass(frozen=True, eq=False)
class InputSpec:
    """Codes of an activation: ``q = clip(R((x + shift - offset) / step) + zero, 0, last)``."""

    bits: int
    step: float
    zero: int
    """zero point: code of the value 0 without the offset; 0..255"""
    last: int
    """largest code"""
    offset: float = 0.0
    """added to all values except padding; at most half a step if zero is in range"""
    shift: Tensor | None = None
    """added before quantization, ``[C, 1, 1]`` or ``[C]``"""


@dataclass(frozen=True, eq=False, kw_only=True)
class ChosenSpec(InputSpec):
    """Codes of bits that are chosen at run time; they count steps, so ``step`` is 1."""

    layer: str
    """path of the dynamic input"""
    steps: Tensor
    """float32 ``[K]``: step of each candidate"""
    bounds: Tensor
    """float32 ``[K]``: largest magnitude of each candidate"""


@dataclass(frozen=True, eq=False)
class WeightSpec:
    """Codes of a weight: ``w = step * codes + offset``."""

    bits: int
    codes: Tensor
    """int8, same shape as the weight"""
    step: Tensor
    """float32, ``[C]``: step of each output channel"""
    offset: Tensor
    """float32, ``[C]``: offset of each output channel"""


@dataclass(frozen=True, eq=False)
class SiteSpec:
    """Operands of a site; None for float ones."""

    site: Site
    inputs: tuple[InputSpec | None, ...]
    """one; two for a product"""
    weight: WeightSpec | None

    @property
    def on_integers(self) -> bool:
        """True for a layer or product whose two operands are codes."""
        return None not in self.inputs and (self.weight is not None or len(self.inputs) == 2)

    @property
    def needs_float(self) -> bool:
        """True if an operand has a real offset or a shift."""
        inputs = [given for given in self.inputs if given is not None]
        of_weight = self.weight is not None and bool(self.weight.offset.any())
        return of_weight or any(given.offset or given.shift is not None for given in inputs)


@dataclass(frozen=True)
class QuantSpec:
    """Everything that integer kernels need to know of a quantized network."""

    sites: tuple[SiteSpec, ...]
    obstacles: tuple[tuple[str, str], ...]
    """paths of operands that stay float, and the reasons"""

    @property
    def passes_codes(self) -> bool:
        """True if all tensors between layers are codes, so that no layer has a float output."""

        def is_code(site: SiteSpec) -> bool:
            return bool(site.inputs) and None not in site.inputs

        tensors = [site.site for site in self.sites if is_code(site)]
        codes = {name for site in tensors for name in (site.kind, site.path)}
        between = [s for s in self.sites if s.site.kind in TENSORS and s.site.kind in FULL]
        return all(is_code(site) or site.site.quantized_by in codes for site in between)


@torch.no_grad()
def freeze(network: Network) -> QuantSpec:
    """Read codes, steps and zero points off every site of a quantized network.

    Ranges that depend on the picture at run time, and levels that are not uniform, are obstacles;
    their operands stay float.
    """
    sites, obstacles = [], []
    tensors: dict[str, InputSpec | None] = {}
    for site in network.sites():
        module = network.get_submodule(site.path)
        inputs: list[InputSpec | None] = []
        for quantizer in _input_quantizers(module):
            found: InputSpec | str | None = None
            if isinstance(quantizer, Quantizer):
                # Only the left operand of a product comes from a softmax.
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
            tensors[site.kind] = tensors[site.path] = inputs[0]
        elif site.kind in TENSORS:
            before = tensors.get(site.quantized_by) if site.quantized_by else None
            tensors[site.kind] = tensors[site.path] = before
        sites.append(SiteSpec(site, tuple(inputs), weight))
    return QuantSpec(tuple(sites), tuple(obstacles))


def _input_quantizers(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, QuantMatMul):
        return [module.left_quantizer, module.right_quantizer]
    if isinstance(module, QuantConv2d | QuantLinear | QuantTensor):
        return [module.input_quantizer]
    return []


def _input(quantizer: Quantizer, unsigned: bool) -> InputSpec | str:
    """Find the codes of an activation, or the reason why there are none."""
    if isinstance(quantizer, DynamicQuantizer) and (grids := quantizer.symmetric_grids()):
        return _chosen(quantizer, grids, unsigned)
    grid = quantizer.static_grid()
    if grid is None or grid.step.ndim:
        return quantizer.obstacle
    step, origin = float(grid.step), float(grid.origin)
    shift = quantizer.shift_before()
    # Clipped values get the code of the bound, which need not be the outermost of the grid.
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
    """Find the codes of a weight, centred if they start at 0 so that they fit int8."""
    grid: Grid = quantizer.grid(weight)
    codes = encode(weight, grid)
    centre = 2 ** (grid.bits - 1) if grid.first == 0 else 0
    channels = len(weight)
    step = grid.step.flatten().expand(channels).clone()
    offset = (grid.origin + centre * grid.step).flatten().expand(channels).clone()
    codes = (codes - centre).to(torch.int8)
    # An integer zero point moves into the codes if they still fit; half a step doubles them.
    for parts in (1, 2):
        if _is_multiple(parts * offset, step) and offset.any():
            multiple = (parts * offset / step).round().view(-1, *[1] * (codes.ndim - 1))
            shifted = parts * codes.float() + multiple
            if shifted.abs().max() <= 127:
                codes, step, offset = shifted.to(torch.int8), step / parts, 0 * offset
    return WeightSpec(grid.bits, codes, step, offset)


def snap(spec: QuantSpec) -> QuantSpec:
    """Snap real offsets to the nearest multiple of the step.

    Offsets move by half a step at most. Zero points and codes are then integers, so that integer
    kernels suffice. The offset of a weight stays if the codes would not fit 8 bits, the one of an
    input if its range does not reach zero.
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
    """Reduce weights to 7 bits where a sum of two products could exceed 16 bits.

    Integer kernels of x86 processors without VNNI multiply unsigned by signed 8-bit codes, add
    pairs of products in 16 bits, and saturate. Codes up to 64 cannot saturate.
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
