"""Putting quantizers into a network, and finding their ranges."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.sites import TENSORS, Operands, Placement, Precision, Site
from sr_quant_cli.quant.cost import Operation
from sr_quant_cli.quant.layers import MatMul, QuantConv2d, QuantLinear, QuantMatMul, QuantTensor
from sr_quant_cli.quant.quantizers import Quantizer

if TYPE_CHECKING:
    from sr_quant_cli.methods.base import Method, MethodConfig


@dataclass(frozen=True)
class Bits:
    """Bit-widths asked for: of weights and of activations where precision is ``low``."""

    w: int
    a: int

    def __str__(self) -> str:
        return f"w{self.w}a{self.a}"

    def weight(self, precision: Precision) -> int:
        """Bits of a weight; 32: float."""
        return {"fp32": 32, "int8": 8, "low": self.w}[precision]

    def input(self, precision: Precision) -> int:
        """Bits of an activation; 32: float."""
        return {"fp32": 32, "int8": 8, "low": self.a}[precision]


@dataclass(frozen=True)
class Quantization:
    """How a network was quantized: enough to do it again."""

    method: "MethodConfig"
    placement: Placement
    bits: Bits


@dataclass(frozen=True)
class SiteBits:
    """What became of a site: bits of its operands, 32 where float, 0 where there is none."""

    site: Site
    input_bits: int
    weight_bits: int
    given: bool
    """its input comes with these bits from the tensor site in front"""


def quantize_network(
    network: Network, method: "Method", placement: Placement, bits: Bits
) -> list[SiteBits]:
    """Replace the modules at a network's sites by quantized ones, in place.

    A layer whose input was already quantized to the same precision by a tensor site in front of it
    gets no quantizer of its own.

    Returns
    -------
    What every site got, in the order of ``Network.sites``.

    Raises
    ------
    ValueError
        The placement quantizes nothing of this network, or the method cannot have these bits.
    """
    method.check(bits)
    plan = plan_sites(network, placement, bits)
    kinds = dict.fromkeys(entry.site.kind for entry in plan)
    if all(min(entry.input_bits, entry.weight_bits or 32) == 32 for entry in plan):
        meant = [kind for kind, operands in placement.items() if operands != Operands()]
        raise ValueError(
            f"the placement quantizes {', '.join(meant) or 'nothing'}; the network's sites are "
            f"{', '.join(kinds)}"
        )
    for entry in plan:
        site = entry.site
        module = network.get_submodule(site.path)
        operands = placement.get(site.kind, Operands())
        if entry.input_bits == 32 and entry.weight_bits in (0, 32):
            continue

        def input_quantizer(
            site: Site = site, entry: SiteBits = entry, operands: Operands = operands
        ) -> nn.Module:
            if entry.input_bits == 32 or entry.given:
                return nn.Identity()
            make = method.low_input_quantizer if operands.input == "low" else method.input_quantizer
            quantizer = make(site, entry.input_bits)
            if operands.integer:
                quantizer.put_zero_on_level()
            return quantizer

        quantized: nn.Module
        if isinstance(module, MatMul):
            # A softmax gives the left operand alone.
            right = replace(site, unsigned=False)
            quantized = QuantMatMul(input_quantizer(), input_quantizer(right))
        elif isinstance(module, nn.Conv2d | nn.Linear):
            weight = (
                nn.Identity()
                if entry.weight_bits == 32
                else method.weight_quantizer(
                    site, module.weight, entry.weight_bits, per_channel=operands.integer
                )
            )
            quantized = (
                QuantConv2d(module, weight, input_quantizer())
                if isinstance(module, nn.Conv2d)
                else QuantLinear(module, weight, input_quantizer())
            )
        else:
            inner = input_quantizer()
            quantized = inner if isinstance(inner, nn.Identity) else QuantTensor(inner)
        network.set_submodule(site.path, quantized)
    own = {kind: placement[kind] for kind in kinds if kind in placement}
    network.quantization = Quantization(method.config, own, bits)
    method.attach(network)
    return plan


def without_quantizers(network: Network) -> Network:
    """The full-precision network with a quantized one's weights, in evaluation mode."""
    from sr_quant_cli.networks import build

    plain = build(network.config)
    state = network.state_dict()
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    return plain.eval()


def plan_sites(network: Network, placement: Placement, bits: Bits) -> list[SiteBits]:
    """Bits of the operands at every site of a network under a placement."""
    plan = []
    for site in network.sites():
        operands = placement.get(site.kind, Operands())
        no_weight = site.kind in TENSORS or site.kind == "matmul"
        weight_bits = 0 if no_weight else bits.weight(operands.weight)
        input_bits = bits.input(operands.input)
        before = placement.get(site.quantized_by) if site.quantized_by else None
        given = before is not None and bits.input(before.input) == input_bits
        plan.append(SiteBits(site, input_bits, weight_bits, given))
    return plan


@torch.no_grad()
def of_three_levels(network: Network) -> list[str]:
    """Operands of which a symmetric grid makes three levels at 2 bits, once their ranges are found.

    By the kinds of their sites, as ``block weight``.
    """
    found: dict[str, None] = {}
    for site in network.sites():
        module = network.get_submodule(site.path)
        for name, quantizer in module.named_children():
            if not isinstance(quantizer, Quantizer):
                continue
            grid = quantizer.static_grid()
            if name == "weight_quantizer" and isinstance(module, QuantConv2d | QuantLinear):
                grid = quantizer.grid(module.weight)
            if grid is not None and grid.last - grid.first == 2:
                found[f"{site.kind} {name.removesuffix('_quantizer')}"] = None
    return list(found)


def count_operations(network: Network, height: int, width: int) -> list[Operation]:
    """Operations at the sites of a network, float or quantized, for an LR picture of that size.

    Counted by tracing a float twin on meta tensors, nothing is computed. Sites that the network's
    depth leaves out have no multiply-accumulates.
    """
    how = network.quantization
    twin = network.twin()
    plan = plan_sites(twin, how.placement if how else {}, how.bits if how else Bits(8, 8))
    operations: dict[str, Operation] = {}

    def note(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs = output.numel() * module.weight[0].numel()
        else:
            macs = output.numel() * inputs[0].shape[-1]
        # Some modules are used more than once.
        operations[path] = replace(operations[path], macs=operations[path].macs + macs)

    for entry in plan:
        path = entry.site.path
        if entry.site.kind not in TENSORS:
            module = twin.get_submodule(path)
            weights = module.weight.numel() if isinstance(module, nn.Conv2d | nn.Linear) else 0
            weight_bits = entry.weight_bits or entry.input_bits
            operations[path] = Operation(path, 0, weights, weight_bits, entry.input_bits)
            module.register_forward_hook(partial(note, path))
    with torch.no_grad():
        twin(torch.empty(1, 3, height, width, device="meta"))
    return list(operations.values())


@torch.no_grad()
def observe(network: Network, batches: Iterable[Tensor]) -> None:
    """Show weights and calibration batches to all quantizers, every operand in float.

    Parameters
    ----------
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.
    """
    from sr_quant_cli.methods.base import set_mode

    network.eval()
    set_mode(network, "observe")
    for batch in batches:
        network(batch)
        # Weights do not change from batch to batch.
        for module in network.modules():
            if isinstance(module, QuantConv2d | QuantLinear):
                set_mode(module.weight_quantizer, "off")
    set_mode(network, "quantize")
