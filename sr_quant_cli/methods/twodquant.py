"""2DQuant: dual-stage low-bit post-training quantization.

Weights and activations are on ``affine_real``, per tensor, between bounds ``l`` and ``u``:

    s = (u - l) / (2^b - 1),    x_hat = s R((clip(x, l, u) - l) / s) + l

*DOBI*, the first stage, tries K pairs of bounds on the calibration batch and takes the pair with
the smallest L2 norm of ``x - x_hat``. Bell-shaped tensors are clipped at both ends. Tensors that
peak at their smallest value (after ReLU, GELU, softmax) are clipped only from above:

    two-sided    l_i = min + i d,  u_i = max - i d,  d = (max - min) / 2K,  i = 0 .. K - 1
    one-sided    l_i = min,        u_i = max - i d

*DQC*, the second stage, trains the bounds of weights and activations with the full-precision
network as teacher: L1 to its output, and 5 times the squared distance of normalized features, here
of all blocks. The weights of the network stay fixed. With ``e = (clip(x, l, u) - x_hat) / (u -
l)``:

    d x_hat / d x    1 inside and on a bound, 0 outside
    d x_hat / d u    1[x >= u] - e
    d x_hat / d l    1[x <= l] + e

The published learning rate of all bounds is 1e-2. Adam moves a bound by about this much in a step,
which is too much for ranges of weights: the recipe for EDSR has 1e-4 for them. The method ``dobi``
is only the first stage.

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  one-sided search with ``d = (max - min) / K``: upper bounds over the whole range
paper      one-sided search with ``d = (max - min) / 2K``: no upper bound below the middle
code       two-sided search everywhere, as the flag for the one-sided one is never set; the
           released loss
=========  =====================================================================================

The released loss divides L1 (on 0..1) once more by the values of an output picture, and the
distance of features by their number. The features are the outputs of the last transformer layer of
each group, before its convolution and shortcut, and every sample j is compared once with the norms
of every sample k of the batch, for B samples of n values:

    5 / (B^2 n)^2 sum over j, k of || f_j / ||f_k|| - f'_j / ||f'_k|| ||^2

No gradient goes through the inner norms.

Gradients are then close to Adam's epsilon, and steps much smaller than the learning rate. The
released options have 4000 steps of 16 patches, a constant learning rate and 0.99 for the squared
gradients; the recipe has those of the paper. The recipe pads pictures by ``reflect``; the released
test repeats the pixel at the edge (``network.padding = "symmetric"``).

At few bits the best upper bound of a long tail is below the middle of its range, which the paper's
search does not reach. The larger step is the one of the released, unused one-sided search.

The paper calibrates on one batch of 32 patches. With several batches the bounds are the mean of the
bounds found on each.

References
----------
.. [1] K. Liu, H. Qin, Y. Guo, X. Yuan, L. Kong, G. Chen, Y. Zhang, "2DQuant: Low-bit Post-Training
       Quantization for Image Super-Resolution", NeurIPS 2024.
"""

from typing import Literal

import torch
from torch import Tensor

from sr_quant_cli.methods.base import FeatureDistance
from sr_quant_cli.methods.bound_search import BoundSearch, BoundSearchConfig
from sr_quant_cli.networks.base import Network


class DOBIConfig(BoundSearchConfig):
    """The first stage of 2DQuant [1]_."""

    name: Literal["dobi"] = "dobi"
    """method"""


class TwoDQuantConfig(BoundSearchConfig):
    """2DQuant [1]_."""

    name: Literal["2dquant"] = "2dquant"
    """method"""


class DOBI(BoundSearch):
    """Bounds of least error, per tensor: distribution-oriented bound initialization [1]_."""

    trains = False


class TwoDQuant(BoundSearch):
    """Searched bounds that are trained [1]_."""

    trains = True

    def pixel_factor(self, output: Tensor) -> float:
        """Divide by the number of values of a picture, as released."""
        return len(output) / output.numel() if self.config.variant == "code" else 1.0

    def feature_distance(self, network: Network, default: FeatureDistance) -> FeatureDistance:
        """Compare with the norms of all samples, as released."""
        return released_distance if self.config.variant == "code" else default

    def feature_paths(self, network: Network) -> tuple[str, ...]:
        """Compare tokens where the network has them, as released."""
        return network.features().get("tokens", ()) if self.config.variant == "code" else ()


def released_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features over the norms of each sample, over their number.

    >>> a, b = torch.tensor([[3.0], [4.0]]), torch.tensor([[4.0], [3.0]])
    >>> found = released_distance(a, b)  # (3/3 - 4/4)^2, (4/3 - 3/4)^2, (3/4 - 4/3)^2, 0
    >>> round(found.item() * 16 / 2, 6) == round((4 / 3 - 3 / 4) ** 2, 6)
    True
    """
    norms = [f.detach().flatten(1).norm(dim=1) for f in (student, teacher)]
    distance = torch.stack(
        [
            (student / ours - teacher / theirs).square().mean()
            for ours, theirs in zip(*norms, strict=True)
        ]
    )
    return distance.mean() / (len(student) * student.numel())
