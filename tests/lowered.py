"""Tiny quantized networks, their codes, and graphs that all test modules share."""

from copy import deepcopy
from functools import cache

import numpy as np
import torch
from torch import nn

from sr_quant_cli.lowering.deploy import Deployed, deploy
from sr_quant_cli.lowering.graph import describe, save_graph
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.spec import InputSpec, WeightSpec, freeze, reduce_range
from sr_quant_cli.methods import build, config_class, method_names
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.sites import FULL, Operands, Site
from sr_quant_cli.runtimes.torch import TorchRuntime
from tests.helpers import Block, BlockConfig, picture, tiny_block, tiny_edsr

CPU = torch.device("cpu")
STATIC = [
    name
    for name in method_names()
    # DDTB's ranges are static as long as no gate is chosen.
    if name == "ddtb" or not build(config_class(name)()).dynamic
    if build(config_class(name)()).uniform
]
"""Methods whose operands are uniform codes, in ranges that do not depend on the picture."""


def lr_batch(count, first=0, size=12):
    pictures = [picture(size, size, seed) for seed in range(first, first + count)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def quantize(network, name, placement="full", bits=4, **config):
    """Quantize and calibrate in place; QuantSR gets shifts as training would leave them."""
    known = config_class(name).model_fields
    config |= {"candidates": 10} if "candidates" in known else {}
    method = build(config_class(name)(**config))
    sites = FULL if placement == "full" else method.paper_placement()
    quantize_network(network, method, sites, Bits(bits, bits))
    method.calibrate(network, [lr_batch(2), lr_batch(2, first=2)])
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, Quantizer) and module.shift_before() is not None:
            nn.init.uniform_(module.shift, -3, 3)
    return network.eval()


@cache
def quantized_edsr(name, placement, bits):
    """Shared between tests: must not be changed."""
    return quantize(tiny_edsr(), name, placement, bits)


def scaled_edsr():
    """Make a network with a factor on its residual branches."""
    network = EDSR(EDSRConfig(scale=2, n_blocks=2, n_feats=8, res_scale=0.3)).eval()
    network.load_state_dict(tiny_edsr().state_dict())
    return network


def mixed_edsr():
    """Make a network with bits of its own at some sites: 2 to 8, and a float input."""
    sites = {
        "body.0.conv1": Operands(7, 2, integer=True),
        "body.0.conv2": Operands(6, 5, integer=True),
        "body.1.block_in": Operands(4, integer=True),
        "body.1.conv2": Operands("fp32", 3, integer=True),
        "body_last": Operands(3, 8, integer=True),
    }
    network, method = fold(tiny_edsr()), build(config_class("minmax")())
    quantize_network(network, method, FULL | sites, Bits(4, 4))
    method.calibrate(network, [lr_batch(2), lr_batch(2, first=2)])
    return network.eval()


class Transformer(Block):
    """A block of a transformer that can be tiled."""

    receptive_radius, floats_per_pixel = 9, 100


def transformer():
    network = Transformer(BlockConfig(scale=2)).eval()
    network.load_state_dict(tiny_block().state_dict())
    return network


class One(Network):
    """A single module at a site."""

    def __init__(self, module, kind="block", unsigned=False):
        super().__init__(BlockConfig(scale=2))
        self.layer = module
        self.site = Site("layer", kind, 1, unsigned=unsigned)

    receptive_radius, floats_per_pixel = 1, 1

    def declared_sites(self):
        return (self.site,)

    def features(self):
        return {}

    def forward(self, *operands):
        return self.layer(*operands)


def twin(module, change=lambda spec: spec, **site):
    """Make the integer form of a module, and the description of its site."""
    network = One(module, **site)
    spec = change(freeze(network))
    assert not spec.obstacles
    return lower(network, spec).layer, spec.sites[0]


def inputs_of(spec: InputSpec, shape, *, beyond=3, noise=0.4, positive=False):
    """Draw inputs around all codes and beyond, far from ties between two codes."""
    generator = torch.Generator().manual_seed(7)
    codes = torch.randint(-beyond, spec.last + 1 + beyond, shape, generator=generator)
    codes = codes + (torch.rand(shape, generator=generator) * 2 - 1) * noise
    x = (codes - spec.zero) * spec.step + spec.offset
    if spec.shift is not None:
        x = x - spec.shift.detach()
    return x.clamp_min(0) if positive else x


def values_of(weight: WeightSpec):
    shape = [-1, *[1] * (weight.codes.ndim - 1)]
    return weight.codes * weight.step.view(shape) + weight.offset.view(shape)


def equal(a, b, part=1e-5):
    """True if two results are equal but for the order of summation."""
    return a.shape == b.shape and bool((a - b).abs().max() <= part * b.abs().max())


NETWORKS = {
    "float": tiny_edsr,
    "full w8a8": lambda: quantize(fold(tiny_edsr()), "minmax", bits=8),
    "full w4a4": lambda: quantize(fold(scaled_edsr()), "minmax", bits=4),
    "mixed bits": mixed_edsr,
    # Real offsets of inputs and weights at convolutions that pad.
    "offsets": lambda: quantize(tiny_edsr(), "dbdc_pac", "paper"),
    # Shifts before quantization, and an upsampler of two layers.
    "shifts": lambda: quantize(tiny_edsr(), "quantsr"),
    # Linear layers and products with real offsets; ends with a PixelShuffle.
    "transformer": lambda: quantize(transformer(), "minmax", "paper", bits=8),
}


@cache
def network(which):
    """Shared between tests: must not be changed."""
    return NETWORKS[which]()


@cache
def _deployed(which, io):
    return deploy(network(which), which, io)


def deployed(which, io) -> Deployed:
    """Copy a graph; tracing takes seconds and happens once for all tests."""
    return deepcopy(_deployed(which, io))


def graph_file(folder, which, io, suffix=".onnx"):
    found = deployed(which, io)
    path = folder / f"{which.replace(' ', '-')}-{io}{suffix}"
    describe(found.model, found.traits)
    save_graph(found.model, path)
    return path


def reference(which):
    """Make the torch runtime of the network that a graph was made from."""
    original = network(which)
    if original.quantization is None:
        return TorchRuntime(deepcopy(original), CPU)
    return TorchRuntime(lower(original, reduce_range(freeze(original))), CPU)
