"""DDTB on a tiny network, for its tests."""

import torch

from sr_quant_cli.methods.ddtb import (
    DDTB,
    DDTBConfig,
    DynamicBounds,
)
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.ranges import min_max
from tests.helpers import tiny_edsr

VARIANTS = ["code", "paper", "corrected"]
ITERS = 12
PHASES = {"statistics": 0.25, "gates_from": 0.5}
"""Steps 0-2, 3-5 and 6-11 of 12."""


def lr_batch(seed=0):
    """Two pictures, a bright and a dark one."""
    pictures = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return pictures * torch.tensor([1.0, 0.3]).view(2, 1, 1, 1)


def quantized(variant="corrected", bits=4, **config):
    network, method = tiny_edsr(), DDTB(DDTBConfig(variant=variant, **{**PHASES, **config}))
    quantize_network(network, method, method.paper_placement(), Bits(bits, bits))
    method.calibrate(network, [lr_batch(1)])
    return network, method


def activations(network):
    return [module for module in network.modules() if isinstance(module, DynamicBounds)]


def step(network, method, number, rate=0.0, batch=None):
    """Take one step of gradient descent, and return the losses of the method."""
    network.train()
    network.zero_grad()
    method.before_step(network, number, ITERS)
    out = network(lr_batch(number) if batch is None else batch)
    losses = method.regularizers(network)
    (out.square().mean() + sum(losses.values())).backward()
    with torch.no_grad():
        for group, parameters in method.parameter_groups(network).items():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter -= (
                        rate * method.rate_factor(group, number, ITERS) * parameter.grad.sign()
                    )
    method.after_step(network)
    return losses


def train(network, method, steps, rate=1e-3):
    return [step(network, method, number, rate) for number in steps]


def bounds(bits, lower, upper, gate=None):
    quantizer = DynamicBounds(bits, min_max, gate)
    quantizer.observe(torch.tensor([lower, upper]))
    return quantizer


class Fixed(torch.nn.Module):
    """Stands in for a gate, with given factors ``[N, 2]``."""

    def __init__(self, factors):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.logit(torch.tensor(factors) / 2))

    def forward(self, x):
        return self.logits


def gated(bits, lower, upper, factors):
    quantizer = bounds(bits, lower, upper, Fixed(factors))
    quantizer.dynamic.fill_(True)
    quantizer.applied.fill_(True)
    return quantizer


# Bounds of weights and activations.
