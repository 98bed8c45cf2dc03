"""Cross-layer equalization: equal ranges for the channels of a tensor, so that one range fits all.

Activations have per-tensor ranges, which leave few levels to a channel with small values. Channels
that pass from convolutions to convolutions through additions, ReLUs and other operations that keep
a factor may be scaled freely without changing the float network (``channel_groups``). Afterwards
all channels have equal ranges (cross-layer equalization [1]_, by activations).

References
----------
.. [1] M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight
       Equalization and Bias Correction", ICCV 2019.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.sites import ChannelGroups, Stream

SMALLEST = 1e-3
"""Smallest reach of a channel, as a share of the largest one."""


@torch.no_grad()
def equalize(network: Network, batches: Iterable[Tensor]) -> None:
    """Scale the channels of a float network, in place.

    The reach of a channel at a module that sees it is its largest magnitude there, relative to the
    largest channel. The maximum over these modules, and over the channels of a group, becomes 1.

    Parameters
    ----------
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.

    Raises
    ------
    ValueError
        The network has no such channels.
    """
    groups = _scalable(network)
    places = groups.passed | groups.read
    if not places:
        raise ValueError(f"{network.config.name} has no stream whose channels can be scaled")
    reach: dict[str, Tensor] = {}

    def look(path: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].abs().amax((0, 2, 3))
        reach[path] = torch.maximum(reach.get(path, largest), largest)

    handles = [
        network.get_submodule(path).register_forward_pre_hook(partial(look, path))
        for path in places
    ]
    network.eval()
    for batch in batches:
        network(batch)
    for handle in handles:
        handle.remove()
    ids = torch.cat([torch.tensor(channels) for channels in places.values()])
    shares = torch.cat([_shares(reach[path]) for path in places]).double()
    # Channels that nothing sees, and those of group 0, keep a factor of 1.
    largest = torch.zeros(int(ids.max()) + 1).double().scatter_reduce(0, ids, shares, "amax")
    factors = largest.clamp_min(SMALLEST).reciprocal()
    factors[0] = 1
    _scale(network, groups, factors)


def can_equalize(network: Network) -> bool:
    """Tell if a network has channels that can be scaled; see ``equalize``."""
    return bool(_scalable(network).read)


def _scalable(network: Network) -> ChannelGroups:
    """Modules with channels that can be scaled, without layers that folding has replaced."""
    groups = network.channel_groups()

    def fixed(sides: Mapping[str, Sequence[int]], count: str) -> set[int]:
        layers = ((network.get_submodule(path), channels) for path, channels in sides.items())
        return {
            group
            for layer, channels in layers
            if not isinstance(layer, nn.Conv2d) or getattr(layer, count) != len(channels)
            for group in channels
        }

    left = fixed(groups.written, "out_channels") | fixed(groups.read, "in_channels")

    def kept(sides: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        found = {
            path: tuple(0 if group in left else group for group in channels)
            for path, channels in sides.items()
        }
        return {path: channels for path, channels in found.items() if any(channels)}

    return ChannelGroups(kept(groups.written), kept(groups.read), kept(groups.passed))


def _shares(reach: Tensor) -> Tensor:
    """Reach of each channel relative to the largest; all 1 where nothing ever passes."""
    largest = reach.amax()
    return reach / largest if largest else torch.ones_like(reach)


def _scale(network: Network, groups: ChannelGroups, factors: Tensor) -> None:
    """Multiply the channels of all groups by factors, float64 ``[groups]``."""
    for path, channels in groups.written.items():
        layer, factor = network.get_submodule(path), factors[list(channels)]
        assert isinstance(layer, nn.Conv2d)
        layer.weight.copy_(layer.weight * factor.view(-1, 1, 1, 1))
        if layer.bias is not None:
            layer.bias.copy_(layer.bias * factor)
    for path, channels in groups.read.items():
        layer, factor = network.get_submodule(path), factors[list(channels)]
        assert isinstance(layer, nn.Conv2d)
        # A grouped convolution has the weights of its own inputs in each row.
        rows = factor.view(layer.groups, -1).repeat_interleave(len(layer.weight) // layer.groups, 0)
        layer.weight.copy_(layer.weight / rows[:, :, None, None])


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
