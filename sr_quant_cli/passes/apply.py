"""Putting quantizers into a network, taking them out, and counting its operations."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from sr_quant_cli.methods.base import Method
from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.counting import float_twin
from sr_quant_cli.networks.layers import MatMul
from sr_quant_cli.quant.cost import Operation
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul, QuantTensor
from sr_quant_cli.quant.plan import Bits, Quantization, SiteBits, plan_sites
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.sites import TENSORS, Operands, Placement, Site


def quantize_network(
    network: Network, method: Method, placement: Placement, bits: Bits
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
    plan = plan_sites(network.sites(), placement, bits)
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
    plain = build(network.config)
    state = network.state_dict()
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    return plain.eval()


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
    twin = float_twin(network)
    plan = plan_sites(twin.sites(), how.placement if how else {}, how.bits if how else Bits(8, 8))
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
