"""Putting quantizers into a network, removing them, and counting its operations."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from sr_quant_cli.methods.base import Method
from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.counting import float_twin
from sr_quant_cli.networks.layers import MatMul
from sr_quant_cli.quant.cost import FLOAT_BITS, Operation
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul, QuantTensor
from sr_quant_cli.quant.plan import Bits, Quantization, SiteBits, plan_sites
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.sites import TENSORS, Operands, Placement, Site
from sr_quant_cli.quant.widths import MAX_BITS, MIN_BITS, NarrowBits


def quantize_network(
    network: Network, method: Method, placement: Placement, bits: Bits
) -> list[SiteBits]:
    """Replace the modules at a network's sites by quantized ones, in place.

    Returns
    -------
    What every site got, in the order of ``Network.sites``.

    Raises
    ------
    ValueError
        The placement quantizes nothing in this network, or the method does not allow these bits.
    """
    sites = network.sites()
    plan = plan_sites(sites, placement, bits, dynamic=method.chooses_bits)
    kinds = dict.fromkeys(site.kind for site in sites)
    if not any(entry.quantized for entry in plan):
        meant = [name for name, operands in placement.items() if operands != Operands()]
        raise ValueError(
            f"the placement quantizes {', '.join(meant) or 'nothing'}; the network's sites are "
            f"{', '.join(kinds)}"
        )
    known = dict.fromkeys([*kinds, *(site.path for site in sites)])
    own = {name: placement[name] for name in known if name in placement}
    apply_plan(network, method, Quantization(method.config, own, bits, tuple(plan)))
    return plan


def apply_plan(network: Network, method: Method, quantization: Quantization) -> None:
    """Put the quantizers of a resolved plan into a network, in place.

    A layer gets no input quantizer where a tensor site in front has quantized its input to the
    same bits.

    Raises
    ------
    ValueError
        The method does not allow these bits or levels.
    """
    method.check(quantization.bits)
    check_levels(method, (w for e in quantization.sites for w in (e.input_bits, e.weight_bits)))
    for entry in quantization.sites:
        if entry.quantized:
            module = network.get_submodule(entry.site.path)
            network.set_submodule(entry.site.path, _quantized(module, method, entry))
    network.quantization = quantization
    method.attach(network)


def check_levels(method: Method, widths: Iterable[object]) -> None:
    """Refuse widths that are numbers of levels, for a method that has bits alone.

    Raises
    ------
    ValueError
        One of them is.
    """
    for width in widths:
        if isinstance(width, NarrowBits) and not method.takes_levels:
            raise ValueError(f"{width}: has no levels; must be {MIN_BITS} to {MAX_BITS} (bits)")


def _quantized(module: nn.Module, method: Method, entry: SiteBits) -> nn.Module:
    """Quantized module for one site."""
    site = entry.site

    def input_quantizer(site: Site = site) -> nn.Module:
        if entry.input_bits == FLOAT_BITS or entry.given:
            return nn.Identity()
        make = method.low_input_quantizer if entry.dynamic else method.input_quantizer
        quantizer = make(site, entry.input_bits)
        if entry.integer:
            quantizer.require_zero_level()
        return quantizer

    if isinstance(module, MatMul):
        # Only the left operand comes from a softmax.
        return QuantMatMul(input_quantizer(), input_quantizer(replace(site, unsigned=False)))
    if not isinstance(module, nn.Conv2d | nn.Linear):
        inner = input_quantizer()
        return inner if isinstance(inner, nn.Identity) else QuantTensor(inner)
    weight: nn.Module = nn.Identity()
    if entry.weight_bits != FLOAT_BITS:
        weight = method.weight_quantizer(
            site, module.weight, entry.weight_bits, per_channel=entry.integer
        )
    if isinstance(module, nn.Conv2d):
        return QuantConv2d(module, weight, input_quantizer())
    return QuantLinear(module, weight, input_quantizer())


def without_quantizers(network: Network) -> Network:
    """Full-precision network with the weights of a quantized one, in evaluation mode."""
    plain = build(network.config)
    state = network.state_dict()
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    return plain.eval()


@torch.no_grad()
def ternary_operands(network: Network) -> list[str]:
    """Operands whose calibrated 2-bit symmetric grid is ternary, by kind: ``block weight``."""
    found: dict[str, None] = {}
    for site in network.sites():
        module = network.get_submodule(site.path)
        for name, quantizer in module.named_children():
            if not isinstance(quantizer, Quantizer):
                continue
            grid = quantizer.static_grid()
            if name == "weight_quantizer" and isinstance(module, QuantConv2d | QuantLinear):
                grid = quantizer.grid(module.weight)
            if grid is not None and grid.last - grid.first == 2 and grid.bits == MIN_BITS:
                found[f"{site.kind} {name.removesuffix('_quantizer')}"] = None
    return list(found)


def count_operations(network: Network, height: int, width: int) -> list[Operation]:
    """Operations at the sites of a network, float or quantized, for an LR picture of that size.

    Counted by tracing a float twin on meta tensors; nothing is computed. Sites that the network's
    depth leaves out have no multiply-accumulates.
    """
    twin = float_twin(network)
    quantization = network.quantization
    plan = quantization.sites if quantization else plan_sites(twin.sites(), {}, Bits(8, 8))
    operations: dict[str, Operation] = {}

    def note(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs = output.numel() * module.weight[0].numel()
        else:
            macs = output.numel() * inputs[0].shape[-1]
        # A module may be used more than once.
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
