"""Mixing the channels of a residual stream, to minimize the effect of rounding on the output.

A stream is written and read by convolutions and otherwise only added to. Any invertible matrix may
be applied to its channels where it is written, and the inverse where it is read, without changing
the float network (rotations of language models use this [1]_). The quantization error does change.
At a place p where the stream is quantized to n levels, with features ``x``,

    error of the output  ~  reach(A x)^2 / (n - 1)^2 * trace(A^-T G A^-1),

where ``reach`` is the largest magnitude of any channel, and ``G`` the mean outer product of the
output's derivatives with respect to ``x``. Adam minimizes the sum over all places, starting from a
random rotation. This gains twice: large values in some channels spread over all of them, and
directions that the output hardly depends on get small values.

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
from sr_quant_cli.quant.sites import Stream
from sr_quant_cli.quant.widths import level_count
from sr_quant_cli.system.reporting import track

STEPS = 300
"""Steps of Adam."""

RATE = 5e-4
"""Learning rate for 64 channels; like entries of a rotation, it falls with their square root."""

NORM = 16
"""Power of the mean that approximates the reach, so that every value has a gradient."""

SAMPLES = 4096
"""Pixels sampled at a place; half of them are those with the largest values of a picture."""


@dataclass(frozen=True)
class Place:
    """Samples and sensitivity at a place where the stream is quantized."""

    samples: Tensor
    """Features of sampled pixels, float32 ``[n, C]``."""
    influence: Tensor
    """``G / (n - 1)^2``, float32 ``[C, C]``."""


def mix(network: Network, batches: Iterable[Tensor], bits: Mapping[str, int]) -> None:
    """Mix the channels of a float network's residual stream, in place.

    Parameters
    ----------
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.
    bits
        Widths of the inputs at the network's sites, by path; 32, or no entry: not quantized.

    Raises
    ------
    ValueError
        The network has no residual stream, or none of it will be quantized.
    """
    stream = _residual_stream(network)
    if stream is None:
        raise ValueError(
            f"{network.config.name} has no residual stream whose channels can be mixed"
        )
    low = _quantized_places(stream, bits)
    if not low:
        raise ValueError("the residual stream is not quantized anywhere")
    network.eval()
    transform(network, stream, _best(_look(network, batches, low)))


def can_mix(network: Network, bits: Mapping[str, int]) -> bool:
    """Tell if a network has a residual stream that is quantized somewhere; see ``mix``."""
    stream = _residual_stream(network)
    return stream is not None and bool(_quantized_places(stream, bits))


def _residual_stream(network: Network) -> Stream | None:
    return next((stream for stream in network.streams() if not stream.rectified), None)


def _quantized_places(stream: Stream, bits: Mapping[str, int]) -> dict[str, int]:
    """Widths at the places of a stream that are quantized, by path."""
    return {path: bits[path] for path in stream.places if bits.get(path, 32) < 32}


def _look(network: Network, batches: Iterable[Tensor], bits: Mapping[str, int]) -> list[Place]:
    """Features at places, and the sensitivity of the output to each of them alone.

    With random signs for the output's pixels, the mean of ``G`` is that over all of them.
    """
    features: dict[str, list[Tensor]] = {path: [] for path in bits}
    influence: dict[str, Tensor] = {}
    pixels: dict[str, Tensor] = {}

    def branch_off(path: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        # A separate tensor, so that other uses of the stream do not enter its derivative.
        pixels[path] = inputs[0].clone()
        return pixels[path]

    handles = [
        network.get_submodule(path).register_forward_pre_hook(partial(branch_off, path))
        for path in bits
    ]
    random = torch.Generator().manual_seed(0)
    pictures = torch.cat(list(batches))
    half = max(SAMPLES // len(pictures) // 2, 1)
    for picture in track(pictures, len(pictures), "picture", "mixing channels, 1 of 2"):
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
        Place(torch.cat(features[path]), influence[path] / (level_count(b) - 1) ** 2)
        for path, b in bits.items()
    ]


def _draw(features: Tensor, half: int, random: torch.Generator) -> Tensor:
    """Sample pixels of ``[n, C]``: ``half`` by largest value, as many at random."""
    largest = features.abs().amax(1).topk(min(half, len(features))).indices
    drawn = torch.randint(0, len(features), (half,), generator=random)
    return features[torch.cat([largest, drawn])]


def _best(places: list[Place]) -> Tensor:
    """Matrix with the least error, float32 ``[C, C]``."""
    channels = places[0].samples.shape[1]
    random = torch.randn(channels, channels, generator=torch.Generator().manual_seed(0))
    matrix: Tensor = torch.linalg.qr(random)[0].requires_grad_()
    optimizer = torch.optim.Adam([matrix], lr=RATE * 8 / channels**0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in track(range(STEPS), STEPS, "step", "mixing channels, 2 of 2"):
        optimizer.zero_grad()
        inverse = torch.linalg.inv(matrix)
        error = torch.stack([_error(matrix, inverse, place) for place in places]).sum()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return matrix.detach()


def _error(matrix: Tensor, inverse: Tensor, place: Place) -> Tensor:
    """Error of the output due to quantizing a place, up to a factor."""
    mixed = (place.samples @ matrix.T).abs()
    largest = mixed.detach().amax()
    reach = largest * (mixed / largest).pow(NORM).mean() ** (1 / NORM)
    error: Tensor = reach**2 * (inverse.T @ place.influence @ inverse).trace()
    return error
