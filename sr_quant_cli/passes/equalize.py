"""Cross-layer equalization: equal ranges for the channels of a stream, so that one range fits all.

Activations have per-tensor ranges, which leave few levels to a channel with small values. Channels
that pass through additions alone, or from one convolution through a ReLU to the next, may be scaled
freely without changing the float network. Afterwards all channels have equal ranges (cross-layer
equalization [1]_, by activations).

References
----------
.. [1] M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight
       Equalization and Bias Correction", ICCV 2019.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.sites import Stream

SMALLEST = 1e-3
"""Smallest reach of a channel, as a share of the largest one."""


@torch.no_grad()
def equalize(network: Network, batches: Iterable[Tensor]) -> None:
    """Scale the channels of a float network's streams, in place.

    The reach of a channel at a module that sees the stream is its largest magnitude there, relative
    to the largest channel. Its maximum over these modules becomes 1.

    Parameters
    ----------
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.

    Raises
    ------
    ValueError
        The network has no such stream.
    """
    streams = network.streams()
    if not streams:
        raise ValueError(f"{network.config.name} has no stream whose channels can be scaled")
    reach: dict[str, Tensor] = {}

    def look(path: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].abs().amax((0, 2, 3))
        reach[path] = torch.maximum(reach.get(path, largest), largest)

    handles = [
        network.get_submodule(path).register_forward_pre_hook(partial(look, path))
        for stream in streams
        for path in stream.places
    ]
    network.eval()
    for batch in batches:
        network(batch)
    for handle in handles:
        handle.remove()
    for stream in streams:
        shares = torch.stack([_shares(reach[path]) for path in stream.places])
        transform(network, stream, shares.amax(0).clamp_min(SMALLEST).reciprocal().diag())


def _shares(reach: Tensor) -> Tensor:
    """Reach of each channel relative to the largest; all 1 where nothing ever passes."""
    largest = reach.amax()
    return reach / largest if largest else torch.ones_like(reach)


@torch.no_grad()
def transform(network: Network, stream: Stream, matrix: Tensor) -> None:
    """Apply a matrix ``[C, C]`` to the writers of a stream, and its inverse to the readers."""
    matrix = matrix.double()
    inverse = torch.linalg.inv(matrix)
    for path in stream.writers:
        layer = network.get_submodule(path)
        assert isinstance(layer, nn.Conv2d)
        layer.weight.copy_(torch.einsum("dc,cikl->dikl", matrix, layer.weight.double()))
        if layer.bias is not None:
            layer.bias.copy_(matrix @ layer.bias.double())
    for path in stream.readers:
        layer = network.get_submodule(path)
        assert isinstance(layer, nn.Conv2d)
        layer.weight.copy_(torch.einsum("ockl,cd->odkl", layer.weight.double(), inverse))
