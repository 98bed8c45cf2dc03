"""Folding: consecutive linear layers become one.

Batch normalization is merged into the convolution before it. Linear layers around an enlargement
become one convolution and one PixelShuffle.

Between the body of most networks and their output nothing is nonlinear: the convolutions,
PixelShuffles and transposed convolutions are one linear map from LR features to HR pixels. Away
from the border it is the same everywhere. It therefore equals a convolution to ``scale^2`` times as
many channels and one PixelShuffle, without feature maps at higher resolutions.

At the border it differs, because the layers pad zeros at every resolution and the folded
convolution only at the lowest one. ``fold`` is for a network that is quantized afterwards: it pads
pictures by mirroring and cuts the padding off again. ``fold_exactly`` is for inference: it computes
the outermost pixels by the layers themselves.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.layers import Leaf
from sr_quant_cli.networks.tracing import enlargement_of, followed_by, modules_at, trace

CONTEXT = 6
"""Mirrored padding of a folded network in LR pixels. With it flat pictures come out flat up to the
last pixel; more changes nothing."""

LINEAR = (nn.Conv2d, nn.ConvTranspose2d, nn.PixelShuffle, nn.Identity)


def linear_chain(network: nn.Module) -> list[str]:
    """Find the longest chain of linear modules that enlarges; empty if there is none to fold.

    Each module is the only reader of the one before. The chain begins with a layer that has
    weights, and ends with one or with a PixelShuffle. A single convolution and PixelShuffle does
    not count.

    Returns
    -------
    Paths of the modules, in order.
    """
    graph = trace(network)
    best: list[str] = []
    chain: list[fx.Node] = []
    for node in graph.nodes:
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        continues = bool(chain) and node.args[:1] == (chain[-1],) and len(chain[-1].users) == 1
        if not isinstance(module, LINEAR):
            chain = []
            continue
        chain = [*chain, node] if continues else [node]
        paths = _without_ends(network, [str(link.target) for link in chain])
        modules = modules_at(network, paths)
        transposed = any(isinstance(module, nn.ConvTranspose2d) for module in modules)
        worth = len(paths) > (0 if transposed else 2)
        if enlargement_of(modules) > 1 and worth and len(paths) > len(best):
            best = paths
    return best


def fold(network: Network) -> Network:
    """Copy a float network and fold what can be folded, for quantization."""
    folded = deepcopy(network)
    norms = _fold_norms(folded)
    if paths := linear_chain(network):
        convolution = _put_convolution(folded, paths)
        fold_weights(modules_at(network, paths), convolution)
        if len(paths) > 1:
            folded.set_context(max(network.config.context, CONTEXT, _reach(convolution)))
    if norms or paths:
        folded.config = folded.config.model_copy(update={"folded": True})
    return folded


def fold_exactly(network: Network) -> Network:
    """Copy a float network and fold it for inference, with the same outputs."""
    folded = deepcopy(network)
    norms = _fold_norms(folded)
    if paths := linear_chain(network):
        chain = modules_at(folded, paths)
        if len(chain) == 1 or network.config.context >= _reach(_folded_shape(chain)[0]):
            # Zeros are padded only at the lowest resolution, or in what is cut off.
            fold_weights(chain, _put_convolution(folded, paths))
        else:
            folded.set_submodule(paths[0], ExactBorder(chain))
            for path in paths[1:]:
                folded.set_submodule(path, nn.Identity())
    if norms or paths:
        folded.config = network.config.model_copy(update={"folded": True})
    return folded


def _fold_norms(network: Network) -> bool:
    """Merge batch normalization into the convolutions, in place; False if there is none."""
    pairs = followed_by(network, (nn.Conv2d,), nn.BatchNorm2d)
    for before, behind in pairs:
        convolution, norm = network.get_submodule(before), network.get_submodule(behind)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        fused = fuse_conv_bn_eval(convolution.eval(), norm.eval())
        # torch freezes a bias that it adds.
        network.set_submodule(before, fused.requires_grad_())
        network.set_submodule(behind, nn.Identity())
    return bool(pairs)


class ExactBorder(Leaf):
    """A folded chain whose outermost pixels are computed by the chain itself.

    >>> chain = [nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(2, 3, 3, padding=1)]
    >>> x = torch.rand(1, 3, 12, 9)
    >>> torch.allclose(ExactBorder(chain)(x), nn.Sequential(*chain)(x), atol=1e-6)
    True
    """

    def __init__(self, chain: Sequence[nn.Module]) -> None:
        super().__init__()
        self.chain = nn.Sequential(*chain)
        convolution, self.scale = _folded_shape(chain)
        fold_weights(chain, convolution)
        self.folded = nn.Sequential(convolution, nn.PixelShuffle(self.scale))
        self.radius = _reach(convolution)

    @property
    def least(self) -> int:
        """Smallest side in LR pixels for which the folded convolution is used."""
        return 2 * self.radius + 1

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, 3, sH, sW]``."""
        # Pixels within the radius of the border may differ; as many more keep the cut away from it.
        thick, seen = self.radius * self.scale, 2 * self.radius
        if min(x.shape[2:]) < self.least:
            whole: Tensor = self.chain(x)
            return whole
        y: Tensor = self.folded(x)[:, :, :, thick:-thick]
        left = self.chain(x[:, :, :, :seen])[:, :, :, :thick]
        right = self.chain(x[:, :, :, -seen:])[:, :, :, -thick:]
        y = torch.cat([left, y, right], 3)[:, :, thick:-thick]
        top = self.chain(x[:, :, :seen])[:, :, :thick]
        bottom = self.chain(x[:, :, -seen:])[:, :, -thick:]
        return torch.cat([top, y, bottom], 2)


def fold_modules(network: Network) -> None:
    """Fold a network with fresh weights in place; the folded layers get fresh weights.

    The first module of the chain becomes the convolution, the second a PixelShuffle, the others
    identities.

    Raises
    ------
    ValueError
        There is nothing to fold.
    """
    norms, paths = _fold_norms(network), linear_chain(network)
    if not (norms or paths):
        raise ValueError(f"{network.config.name} has no linear layers to fold")
    if paths:
        _put_convolution(network, paths)


def _put_convolution(network: Network, paths: Sequence[str]) -> nn.Conv2d:
    """Replace the modules of a chain, and return the convolution with fresh weights."""
    convolution, scale = _folded_shape(modules_at(network, paths))
    shuffle = nn.PixelShuffle(scale)
    network.folded_chain, network.folded_at = tuple(paths), paths[0]
    if len(paths) == 1:
        network.set_submodule(paths[0], nn.Sequential(convolution, shuffle))
        network.folded_at = f"{paths[0]}.0"
        return convolution
    network.set_submodule(paths[0], convolution)
    network.set_submodule(paths[1], shuffle)
    for path in paths[2:]:
        network.set_submodule(path, nn.Identity())
    return convolution


class ComposedEnd:
    """Linear layers at the end of a network, run as one convolution while their weights learn.

    The kernel is composed from their weights in every forward pass, so that gradients reach them.
    The outputs are the same except for ``border`` LR pixels on each side, where the layers pad
    zeros at every resolution and the convolution only at the lowest.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._paths = linear_chain(network)
        chain = modules_at(network, self._paths)
        self._end = _ComposedChain(chain) if chain else None
        self.border = self._end.radius if self._end is not None and len(chain) > 1 else 0

    @contextmanager
    def composed(self) -> Iterator[None]:
        """Run the network in the composed form inside the context; its state stays unchanged."""
        if self._end is None:
            yield
            return
        modules = modules_at(self._network, self._paths)
        try:
            for path in self._paths:
                self._network.set_submodule(path, nn.Identity())
            self._network.set_submodule(self._paths[0], self._end)
            yield
        finally:
            for path, module in zip(self._paths, modules, strict=True):
                self._network.set_submodule(path, module)


class _ComposedChain(Leaf):
    def __init__(self, chain: Sequence[nn.Module]) -> None:
        super().__init__()
        # In a tuple, as the weights belong to the network and not to this module.
        self._chain = tuple(chain)
        convolution, self._scale = _folded_shape(chain)
        self._channels, self.radius = convolution.in_channels, _reach(convolution)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, 3, sH, sW]``."""
        with torch.autocast(x.device.type, enabled=False):
            kernel, bias = compose(self._chain, self._channels, self.radius)
        y = nn.functional.conv2d(x, kernel, bias, padding=self.radius)
        return nn.functional.pixel_shuffle(y, self._scale)


def compose(chain: Sequence[nn.Module], channels: int, radius: int) -> tuple[Tensor, Tensor]:
    """Compute the kernel and bias of a linear chain, differentiably.

    They are the responses of the chain to single input values, far from any border.

    Parameters
    ----------
    channels
        Channels of the chain's input, ``C``.
    radius
        Radius of the kernel in LR pixels, ``r``.

    Returns
    -------
    ``[s^2 O, C, 2r + 1, 2r + 1]`` and ``[s^2 O]``.
    """
    scale, size = enlargement_of(chain), 2 * radius + 1
    weight = next(module for module in chain if hasattr(module, "weight")).weight
    assert isinstance(weight, Tensor)
    # The last picture is empty and gives the bias.
    x = weight.new_zeros(channels + 1, channels, size, size)
    each = torch.arange(channels)
    x[each, each, radius, radius] = 1
    for module in chain:
        x = module(x)
    # A network may cut these pixels off behind the chain.
    x = x[:, :, : size * scale, : size * scale]
    responses = nn.functional.pixel_unshuffle(x, scale)
    impulses, empty = responses[:-1], responses[-1]
    # An impulse response is the kernel mirrored.
    kernel = (impulses - empty).transpose(0, 1).flip(2, 3)
    return kernel, empty[:, radius, radius]


@torch.no_grad()
def fold_weights(chain: Sequence[nn.Module], convolution: nn.Conv2d) -> None:
    """Set the weights of a folded convolution from its chain, computed in float64."""
    assert convolution.bias is not None
    doubles = [deepcopy(module).double() for module in chain]
    kernel, bias = compose(doubles, convolution.in_channels, _reach(convolution))
    convolution.weight.copy_(kernel)
    convolution.bias.copy_(bias)


def _folded_shape(chain: Sequence[nn.Module]) -> tuple[nn.Conv2d, int]:
    """Make the folded convolution of a chain with fresh weights; return it and the enlargement."""
    scale = enlargement_of(chain)
    first, last = 0, scale - 1
    for module in reversed(chain):
        if isinstance(module, nn.PixelShuffle):
            factor = module.upscale_factor
            first, last = first // factor, last // factor
        elif isinstance(module, nn.ConvTranspose2d):
            size, factor, pad = module.kernel_size[0], module.stride[0], int(module.padding[0])
            first, last = -((size - 1 - pad - first) // factor), (last + pad) // factor
        elif isinstance(module, nn.Conv2d):
            reach = module.kernel_size[0] // 2
            first, last = first - reach, last + reach
    radius = max(-first, last)
    layers = [module for module in chain if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    shuffled = 1
    for module in reversed(chain):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            break
        shuffled *= module.upscale_factor**2 if isinstance(module, nn.PixelShuffle) else 1
    out = layers[-1].out_channels // shuffled * scale**2
    size = 2 * radius + 1
    return nn.Conv2d(layers[0].in_channels, out, size, padding=radius), scale


def _reach(convolution: nn.Conv2d) -> int:
    return convolution.kernel_size[0] // 2


def _without_ends(network: nn.Module, paths: list[str]) -> list[str]:
    """Drop modules before the first layer with weights, and identities at the end."""
    modules = modules_at(network, paths)
    while modules and not isinstance(modules[0], nn.Conv2d | nn.ConvTranspose2d):
        modules, paths = modules[1:], paths[1:]
    while modules and isinstance(modules[-1], nn.Identity):
        modules, paths = modules[:-1], paths[:-1]
    return paths
