"""Equal ranges for the channels of a residual stream, so that one range serves all of them.

Activations have one range for a whole tensor: a channel of small values is then left with few
levels. Where channels run through a network by additions alone, each may be scaled as one likes.
The float network stays the same; after it, all channels reach equally far (cross-layer equalization
[1]_, by activations).

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

SMALLEST = 1e-3
"""Reach of a channel, as a share of the largest one's, below which it is taken for this."""


@torch.no_grad()
def equalize(network: Network, batches: Iterable[Tensor]) -> None:
    """Scale the channels of a float network's residual stream, in place.

    The reach of a channel at a layer that reads the stream is its largest magnitude there, as a
    share of the largest channel's; the largest reach of all these layers becomes 1.

    Parameters
    ----------
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.

    Raises
    ------
    ValueError
        The network has no such stream.
    """
    stream = network.stream()
    if stream is None:
        raise ValueError(
            f"{network.config.name} has no residual stream whose channels can be scaled"
        )
    reach: dict[str, Tensor] = {}

    def look(path: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].abs().amax((0, 2, 3))
        reach[path] = torch.maximum(reach.get(path, largest), largest)

    handles = [
        network.get_submodule(path).register_forward_pre_hook(partial(look, path))
        for path in stream.readers
    ]
    network.eval()
    for batch in batches:
        network(batch)
    for handle in handles:
        handle.remove()
    shares = torch.stack([largest / largest.amax() for largest in reach.values()])
    scale = shares.amax(0).clamp_min(SMALLEST)
    for path in stream.writers:
        layer = network.get_submodule(path)
        assert isinstance(layer, nn.Conv2d)
        layer.weight.div_(scale.view(-1, 1, 1, 1))
        if layer.bias is not None:
            layer.bias.div_(scale)
    for path in stream.readers:
        layer = network.get_submodule(path)
        assert isinstance(layer, nn.Conv2d)
        layer.weight.mul_(scale.view(1, -1, 1, 1))
