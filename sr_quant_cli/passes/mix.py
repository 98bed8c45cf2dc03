"""Mixing the channels of a residual stream so that rounding them disturbs the output least.

A stream is read and written by convolutions and otherwise only added to, so that any invertible
matrix may be applied to its channels where it is written, and the inverse where it is read: the
float network stays the same (as rotations of language models use it [1]_). What changes is the
error of quantization. Where the stream is quantized to b bits, at a place p with features ``x``,

    error of the output  ~  reach(A x)^2 / (2^b - 1)^2 * trace(A^-T G A^-1),

with the largest magnitude ``reach`` of any channel and ``G``, the mean outer product of the
output's derivatives by ``x``. The sum over all places is minimized over ``A`` by Adam, from a
random rotation. Two gains are in it: values that reach far in some channels spread over all, and
what the output hardly depends on is written small.

References
----------
.. [1] S. Ashkboos, A. Mohtashami, M. L. Croci, B. Li, P. Cameron, M. Jaggi, D. Alistarh,
       T. Hoefler, J. Hensman, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", NeurIPS 2024.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.passes.equalize import transform

STEPS = 300
"""Of Adam."""

RATE = 5e-4
"""Its learning rate for 64 channels; as entries of a rotation, it falls with their square root."""

NORM = 16
"""The reach is taken as a mean of this power, which has derivatives for every value."""

SAMPLES = 4096
"""Pixels that are looked at of a place; of each picture, half are those of the largest values."""


@dataclass(frozen=True)
class Place:
    """What is known of a place at which the stream is quantized."""

    samples: Tensor
    """Features of some pixels, float32 ``[n, C]``."""
    influence: Tensor
    """``G / (2^b - 1)^2``, float32 ``[C, C]``."""


def mix(network: Network, batches: Iterable[Tensor], bits: Mapping[str, int]) -> None:
    """Mix the channels of a float network's residual stream, in place.

    Parameters
    ----------
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.
    bits
        At which the inputs of the network's sites are going to be quantized, by their paths; 32, or
        no entry: nothing is quantized there.

    Raises
    ------
    ValueError
        The network has no such stream, or nothing of it is going to be quantized.
    """
    stream = next((stream for stream in network.streams() if not stream.rectified), None)
    if stream is None:
        raise ValueError(
            f"{network.config.name} has no residual stream whose channels can be mixed"
        )
    low = {path: bits[path] for path in stream.places if bits.get(path, 32) < 32}
    if not low:
        raise ValueError("nothing of the residual stream is quantized")
    network.eval()
    transform(network, stream, _best(_look(network, batches, low)))


def _look(network: Network, batches: Iterable[Tensor], bits: Mapping[str, int]) -> list[Place]:
    """Features at places, and how the output depends on each of them alone.

    The mean of ``G`` over random signs of the output's derivative is that over all its pixels.
    """
    features: dict[str, list[Tensor]] = {path: [] for path in bits}
    influence: dict[str, Tensor] = {}
    pixels: dict[str, Tensor] = {}

    def branch_off(path: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        # A tensor of its own: what else becomes of the stream is no part of its derivative.
        pixels[path] = inputs[0].clone()
        return pixels[path]

    handles = [
        network.get_submodule(path).register_forward_pre_hook(partial(branch_off, path))
        for path in bits
    ]
    random = torch.Generator().manual_seed(0)
    pictures = torch.cat(list(batches))
    half = max(SAMPLES // len(pictures) // 2, 1)
    for picture in pictures:
        output = network(picture[None].requires_grad_())
        signs = torch.randint(0, 2, output.shape, generator=random) * 2.0 - 1
        slopes = torch.autograd.grad(output, list(pixels.values()), signs)
        for (path, values), slope in zip(pixels.items(), slopes, strict=True):
            features[path].append(_draw(values.detach().transpose(0, 1).flatten(1).T, half, random))
            flat = slope.transpose(0, 1).flatten(1)
            influence[path] = influence.get(path, 0) + flat @ flat.T / flat.shape[1] / len(pictures)
    for handle in handles:
        handle.remove()
    return [
        Place(torch.cat(features[path]), influence[path] / (2**b - 1) ** 2)
        for path, b in bits.items()
    ]


def _draw(features: Tensor, half: int, random: torch.Generator) -> Tensor:
    """Pixels of ``[n, C]``: ``half`` by their largest value, as many by chance."""
    largest = features.abs().amax(1).topk(min(half, len(features))).indices
    drawn = torch.randint(0, len(features), (half,), generator=random)
    return features[torch.cat([largest, drawn])]


def _best(places: list[Place]) -> Tensor:
    """The matrix of least error, float32 ``[C, C]``."""
    channels = places[0].samples.shape[1]
    random = torch.randn(channels, channels, generator=torch.Generator().manual_seed(0))
    matrix: Tensor = torch.linalg.qr(random)[0].requires_grad_()
    optimizer = torch.optim.Adam([matrix], lr=RATE * 8 / channels**0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        error = torch.stack([_error(matrix, place) for place in places]).sum()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return matrix.detach()


def _error(matrix: Tensor, place: Place) -> Tensor:
    """What quantizing the mixed features of a place does to the output, but for a factor."""
    mixed = (place.samples @ matrix.T).abs()
    largest = mixed.detach().amax()
    reach = largest * (mixed / largest).pow(NORM).mean() ** (1 / NORM)
    inverse = torch.linalg.inv(matrix)
    error: Tensor = reach**2 * (inverse.T @ place.influence @ inverse).trace()
    return error
