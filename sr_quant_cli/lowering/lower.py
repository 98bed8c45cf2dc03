"""Conversion of a quantized network to integer layers, and operations merged into them."""

from copy import deepcopy

import torch
from torch import nn

from sr_quant_cli.lowering.integer import (
    ChosenConv2d,
    ChosenSteps,
    ChosenTensor,
    IntegerConv2d,
    IntegerInput,
    IntegerLinear,
    IntegerMatMul,
    IntegerTensor,
)
from sr_quant_cli.lowering.spec import ChosenSpec, QuantSpec, SiteSpec
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.layers import ScaledBranch
from sr_quant_cli.networks.tracing import followed_by, links
from sr_quant_cli.quant.dynamic import BitProvider
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul, QuantTensor
from sr_quant_cli.quant.quantizers import Quantizer


def lower(network: Network, spec: QuantSpec) -> Network:
    """Copy a quantized network to integer layers; float operands stay fake-quantized."""
    lowered = deepcopy(network).eval()
    for site in spec.sites:
        module = lowered.get_submodule(site.site.path)
        lowered.set_submodule(site.site.path, _integer(module, site, lowered.bit_provider))
    _bake_constants(lowered)
    for block in lowered.modules():
        if isinstance(block, ScaledBranch) and isinstance(block.block_out, IntegerTensor):
            block.block_out.multiply(block.give_up_scale())
    return lowered


@torch.no_grad()
def _bake_constants(network: Network) -> None:
    """Bake everything constant in fake-quantized layers, in place."""
    for module in network.modules():
        if isinstance(module, QuantConv2d | QuantLinear):
            module.weight = nn.Parameter(module.weight_quantizer(module.weight))
            module.weight_quantizer = nn.Identity()
        elif isinstance(module, Quantizer):
            module.bake_constants()


@torch.no_grad()
def avoid_unit_steps(network: Network) -> None:
    """Enlarge steps of exactly 1 by a few units in the last place, in place.

    Pixels are integers already, so OpenVINO would drop a quantization with step 1 and compute the
    convolution behind it in floating point.
    """
    for module in network.modules():
        if isinstance(module, IntegerInput) and module.step == 1:
            module.step *= 1 + 2**-21


@torch.no_grad()
def absorb_shifts(network: Network) -> None:
    """Merge shifts before quantization into the bias of the preceding convolution, in place.

    An addition between a convolution and its quantized output would prevent an integer kernel.
    """
    for link in links(network, (IntegerConv2d,), (IntegerConv2d,)):
        before, behind = map(network.get_submodule, (link.producer, link.consumer))
        assert isinstance(before, IntegerConv2d)
        assert isinstance(behind, IntegerConv2d)
        # Shifted or not, a ReLU removes values below zero alike only if codes start at zero.
        after_relu = link.relu and behind.input.zero
        if behind.input.shift is not None and link.always and not after_relu:
            shift = behind.input.give_up_shift(after_relu=link.relu).flatten()
            before.bias += shift.repeat_interleave(link.enlargement**2)


@torch.no_grad()
def absorb_norms(network: Network) -> None:
    """Merge batch normalization into the preceding integer convolutions, exactly, in place."""
    for before, behind in followed_by(network, (IntegerConv2d,), nn.BatchNorm2d):
        convolution, norm = map(network.get_submodule, (before, behind))
        assert isinstance(convolution, IntegerConv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        if factor.min() < 0 and convolution.codes.min() == -128:
            continue  # which has no opposite in 8 bits
        convolution.scale(factor, norm.bias - norm.running_mean * factor)
        network.set_submodule(behind, nn.Identity())


def simplify_activations(network: Network) -> None:
    """Replace PReLUs of one slope by LeakyReLUs, which have more kernels, in place."""
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            network.set_submodule(path, nn.LeakyReLU(module.weight.item()))


@torch.no_grad()
def quantize_early(network: Network) -> None:
    """Move quantization in front of PixelShuffles and ReLUs, in place.

    The result is the same, and the preceding convolution becomes an integer kernel. Such kernels
    include only ReLUs whose zero has code 0.
    """
    for link in links(network, (IntegerConv2d,), (IntegerConv2d, IntegerTensor)):
        given = network.get_submodule(link.consumer).input
        assert isinstance(given, IntegerInput)
        no_part_of_it = link.relu and bool(given.zero)
        if given.shift is not None or given.offset is not None:
            continue
        if not (link.enlargement > 1 or no_part_of_it):
            continue
        early = deepcopy(given)
        early.step_out = early.step.clone()
        if no_part_of_it:
            early.least = early.zero if early.least is None else early.least.maximum(early.zero)
        if early.least is not None and early.least.ndim:
            early.least = early.least.repeat_interleave(link.enlargement**2, 0)
        producer = network.get_submodule(link.producer)
        network.set_submodule(link.producer, nn.Sequential(producer, early))


def _integer(module: nn.Module, site: SiteSpec, provider: BitProvider | None) -> nn.Module:
    """Make the integer module for a quantized one; others are returned unchanged."""
    inputs = [spec for spec in site.inputs if spec is not None]
    if len(inputs) < len(site.inputs):
        return module
    if inputs and isinstance(spec := inputs[0], ChosenSpec):
        assert provider is not None
        steps = ChosenSteps(spec, provider, chooses=spec.layer == site.site.path)
        if isinstance(module, QuantConv2d) and site.weight is not None:
            return ChosenConv2d(module, spec, site.weight, steps)
        return ChosenTensor(spec, steps)
    if isinstance(module, QuantTensor):
        return IntegerTensor(*inputs)
    if isinstance(module, QuantMatMul):
        return IntegerMatMul(*inputs)
    if isinstance(module, QuantConv2d) and site.weight is not None:
        return IntegerConv2d(module, inputs[0], site.weight)
    if isinstance(module, QuantLinear) and site.weight is not None:
        return IntegerLinear(module, inputs[0], site.weight)
    return module
