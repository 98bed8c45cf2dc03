"""CADyQ: content-aware dynamic quantization.

For every patch and layer a selector chooses the bits of the activation among a few candidates. Each
candidate has a trainable bound as in PAMS. Weights have 8 bits. A selector sees the gradients of
the patch and the standard deviations of the layer's input:

    s = (mean |d/dx|, mean |d/dy|) of the grey patch, 0..1, times ``gradient_scale``
    d = standard deviation of every channel of the layer's input, over its pixels
    p = softmax(W (s, d) + c),    k = argmax p
    x_hat = Q_k(x)                forward
          = sum_k p_k Q_k(x)      for all gradients
    bits  = b_k                   forward
          = sum_k p_k b_k         for all gradients

Every bound thus learns in each step, weighted by the probability of its candidate. W starts at 1
and c at 0, except for the candidate of the bits asked for, where c is 1: every layer begins with
these bits. The teacher is the same network at 8 bits by PAMS, and the student starts from it. The
loss is L1 to HR, 1000 times the attention transfer in front of the upsampler, 100 times the one
behind the last convolution of every branch, and a loss on the bits,

    w_bits * sum over samples and layers of  bits / SG(sum_k p_k b_k)

whose gradient is the one of the soft bits, divided by their value. ``w_bits`` rises linearly over
the training (published: 1e-4 + 1e-6 epoch, for 300 epochs).

=========  =====================================================================================
variant    what differs
=========  =====================================================================================
corrected  bounds start from those of the 8-bit network
paper      a selector sees two numbers: the mean magnitude of the patch's gradient, and the mean of
           the channels' deviations; bounds as corrected
code       bounds follow the data in the first epoch, which overwrites the loaded ones; the first
           convolution in a block of SRResNet reads the unquantized block input
=========  =====================================================================================

Outputs of branches are quantized in EDSR alone, to 8 bits. CARN and IDN carry unquantized features
past their blocks. Bits are fixed on tokens of a transformer. Choices depend on the patches that a
picture is cut into.

References
----------
.. [1] C. Hong, S. Baik, H. Kim, S. Nah, K. M. Lee, "CADyQ: Content-Aware Dynamic Quantization for
       Image Super-Resolution", ECCV 2022.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sr_quant_cli.methods.content_aware import ContentAware, ContentAwareConfig
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.dynamic import BitProvider, Choice, attach, dynamic_quantizers
from sr_quant_cli.quant.max_scale import follow, inherit_scales
from sr_quant_cli.quant.pictures import deviations, sobel_gradients
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.system.processes import process_count


class CADyQConfig(ContentAwareConfig):
    """CADyQ [1]_; the defaults are those for EDSR."""

    name: Literal["cadyq"] = "cadyq"
    """method"""
    gradient_scale: Annotated[float, Field(gt=0)] = 1000.0
    """factor of the gradients of a patch (CARN: 1)"""
    bit_weight: Annotated[float, Field(ge=0)] = 1e-4
    """weight of the loss on bits at the start of training"""
    bit_weight_end: Annotated[float, Field(ge=0)] = 4e-4
    """weight of the loss on bits at the end (CARN, which trains twice as long: 7e-4)"""
    warmup: Annotated[float, Field(ge=0, le=1)] = 1 / 300
    """share of the training in which bounds follow the data (variant code)"""


class Selectors(BitProvider):
    """Linear maps from statistics to candidates, one for every dynamic input [1]_.

    Attributes
    ----------
    gradients
        Gradients of the current batch, ``[N, 2]``, or ``[N, 1]`` for averages.
    bit_weight
        Weight of the loss in the current step.
    """

    gradients: Tensor

    def __init__(self, config: CADyQConfig, channels: dict[str, int], start: int) -> None:
        super().__init__(tuple(config.candidates))
        self._averages = config.variant == "paper"
        self._scale = config.gradient_scale
        self.bit_weight = config.bit_weight
        self.soft: list[Tensor] = []
        self.layers = nn.ModuleDict()
        for layer, count in channels.items():
            selector = nn.Linear(2 if self._averages else 2 + count, len(config.candidates))
            nn.init.ones_(selector.weight)
            nn.init.zeros_(selector.bias)
            selector.bias.data[config.candidates.index(start)] = 1
            self.layers[_key(layer)] = selector

    def look(self, picture: Tensor) -> None:
        """Compute the gradients of the patches."""
        self.soft = []
        self.gradients = self._scale * sobel_gradients(picture, magnitude=self._averages)

    def choose(self, layer: str, x: Tensor) -> Choice:
        """Choose the most probable candidate, with gradients for all."""
        spread = deviations(x.detach().float())
        if self._averages:
            spread = spread.mean(1, keepdim=True)
        logits = self.layers[_key(layer)](torch.cat([self.gradients, spread], 1))
        made = self.of_index(logits.argmax(1))
        if not self.training:
            return made
        p = logits.softmax(1)
        widths = p.new_tensor(self.candidates)
        soft = p @ widths
        self.soft.append(soft)
        return Choice(made.bits + (soft - soft.detach()), made.index, p)

    def bit_loss(self) -> Tensor:
        """Sum chosen bits over detached soft bits, for all samples and layers, weighted."""
        pairs = zip(self.choices.values(), self.soft, strict=True)
        ratios = [(choice.bits / soft.detach()).sum() for choice, soft in pairs]
        self.choices, self.soft = {}, []
        # The gradients of several processes are averaged, but this loss is a sum.
        return self.bit_weight * process_count() * torch.stack(ratios).sum()


class CADyQ(ContentAware):
    """Bits chosen for every patch and layer [1]_."""

    starts_from = "pams"
    config: CADyQConfig

    def check(self, bits: Bits) -> None:
        """Refuse activation bits that are not a candidate, as selectors start there.

        Raises
        ------
        ValueError
            The activation bits are not among the candidates.
        """
        if bits.a not in self.config.candidates:
            among = ", ".join(map(str, self.config.candidates))
            raise ValueError(f"`a` {bits.a}: selectors start at one of the candidates {among}")

    def attach(self, network: Network) -> None:
        """Attach a selector for every dynamic input."""
        channels = {site.path: site.channels for site in network.sites()}
        assert network.quantization is not None
        dynamic = {path: channels[path] for path in dynamic_quantizers(network)}
        attach(network, Selectors(self.config, dynamic, network.quantization.bits.a))

    def inherit(self, network: Network, before: Network, batches: Iterable[Tensor]) -> None:
        """Copy the bounds of the 8-bit network for every candidate."""
        inherit_scales(network, before)

    def before_step(self, network: Network, step: int, iters: int) -> None:
        """Raise the weight of the bits; in variant ``code`` bounds follow the data at first."""
        config, provider = self.config, network.bit_provider
        assert isinstance(provider, Selectors)
        rise = config.bit_weight_end - config.bit_weight
        provider.bit_weight = config.bit_weight + rise * step / max(iters, 1)
        follow(network, follows=config.variant == "code" and step < config.warmup * iters)

    def regularizers(self, network: Network) -> dict[str, Tensor]:
        """Compute the loss on bits."""
        assert isinstance(network.bit_provider, Selectors)
        return {"bits": network.bit_provider.bit_loss()}


def _key(layer: str) -> str:
    # Names of modules have no dots.
    return layer.replace(".", "_")
