"""Sensitivity: the loss by quantizing each site of a network alone.

One site at a time computes with its quantizers, rounded weights and corrected bias, and all others
in float. Errors of different sites are nearly independent, so the mean squared errors of all sites
add up to about that of the quantized network.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import inf, log10

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.quantizers import Quantizer, set_mode


@dataclass(frozen=True)
class SiteLoss:
    """Loss by quantizing one site alone, in dB over all colour channels."""

    path: str
    psnr: float
    """PSNR of the output against that of the float network; inf: equal"""
    drop: float | None = None
    """mean loss of PSNR against HR; None: HR is not known"""


@torch.no_grad()
def site_losses(
    network: Network,
    reference: Network,
    lr: Sequence[Tensor],
    hr: Sequence[Tensor] = (),
    paths: Iterable[str] | None = None,
) -> Iterator[SiteLoss]:
    """Measure how much each site of a quantized network loses by itself, one by one.

    Parameters
    ----------
    network
        Quantized and calibrated network; it is left unchanged.
    reference
        The same network in float.
    lr
        LR pictures ``[N, 3, h, w]``, 0..1.
    hr
        Their HR pictures ``[N, 3, sh, sw]``, 0..1; empty: they are not known.
    paths
        Sites to measure; None: all that have quantizers.
    """
    probe = deepcopy(network).eval()
    set_mode(probe, "off")
    for path in quantized_sites(network):
        in_float(probe, reference, path)
    wanted = [reference(pictures) for pictures in lr]
    before = [_psnr(sr, target) for sr, target in zip(wanted, hr, strict=False)]
    for path in quantized_sites(network) if paths is None else paths:
        with _quantized_alone(probe, network, path):
            found = [probe(pictures) for pictures in lr]
        drop = None
        if hr:
            after = [_psnr(sr, target) for sr, target in zip(found, hr, strict=True)]
            drop = float(torch.cat(before).mean() - torch.cat(after).mean())
        error = torch.cat([_squared(a, b) for a, b in zip(found, wanted, strict=True)]).mean()
        yield SiteLoss(path, _decibels(float(error)), drop)


def quantized_sites(network: Network) -> list[str]:
    """Paths of the sites that have a quantizer in use, in the order of computation."""
    return [
        site.path
        for site in network.sites()
        if any(q.mode != "off" for q in _quantizers(network, site.path))
    ]


@torch.no_grad()
def in_float(network: Network, reference: Network, path: str) -> None:
    """Let a site of a quantized network compute as in the float one, in place."""
    for quantizer in _quantizers(network, path):
        quantizer.mode = "off"
    _copy_weights(network, reference, path)


@contextmanager
def _quantized_alone(probe: Network, network: Network, path: str) -> Iterator[None]:
    """Quantize a site of the float ``probe`` as in ``network`` while the block runs."""
    layer = probe.get_submodule(path)
    kept = {name: value.clone() for name, value in layer.named_parameters(recurse=False)}
    _copy_weights(probe, network, path)
    for ours, theirs in zip(_quantizers(probe, path), _quantizers(network, path), strict=True):
        ours.mode = theirs.mode
    try:
        yield
    finally:
        for quantizer in _quantizers(probe, path):
            quantizer.mode = "off"
        for name, value in layer.named_parameters(recurse=False):
            value.copy_(kept[name])


def _quantizers(network: Network, path: str) -> list[Quantizer]:
    modules = network.get_submodule(path).children()
    return [module for module in modules if isinstance(module, Quantizer)]


def _copy_weights(network: Network, other: Network, path: str) -> None:
    layer, source = network.get_submodule(path), other.get_submodule(path)
    if isinstance(layer, QuantConv2d | QuantLinear):
        assert isinstance(source, nn.Conv2d | nn.Linear | QuantConv2d | QuantLinear)
        layer.weight.copy_(source.weight)
        if layer.bias is not None:
            assert source.bias is not None
            layer.bias.copy_(source.bias)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each picture ``[N]``."""
    return (a - b).square().flatten(1).mean(1)


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR of each picture ``[N]``, dB; values below 0 and above 1 are clipped."""
    return -10 * _squared(a.clamp(0, 1), b).clamp_min(1e-12).log10()


def _decibels(error: float) -> float:
    return -10 * log10(error) if error else inf
