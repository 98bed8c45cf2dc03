"""Granular-DQ: one bit-width for a patch, by the entropy of its grey values.

    p_i = sum over pixels of exp(-(g - c_i)^2 / 2 w^2), normalized;   c_i = i / 31, w = 0.0255
    H = -sum p_i ln p_i
    bits = candidates by the percentiles that H lies between; published 4, 5, 8 at 50 and 90
    x_hat = Q_bits(x)

g is the grey patch, 0..1. All layers of a patch have the same bits, so one static network for each
candidate is enough. The percentiles are those of the training patches. They are found before
training and saved.

It has no variants. It is only the entropy rule, with the quantizers of PAMS and CADyQ, and starts
from the 8-bit network.

The paper also has a gate on pooled features of the patch. The gate chooses among 4, 6 and 8 bits,
and the rule applies to patches that get 8; the quantizers are those of QuantSR. In the released
code the gate sees the mean of the features three times (pools of different size, averaged). It
draws a random Gumbel sample at run time, too, so results differ from run to run. With the rule
alone, a comparison with CADyQ and CABM is one of who chooses the bits.

References
----------
.. [1] M. Wang, Z. Zhang, F. Li, K. Xu, K. Miao, M. Wang, "Thinking in Granularity: Dynamic
       Quantization for Image Super-Resolution by Intriguing Multi-Granularity Clues", AAAI 2025.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sr_quant_cli.methods.content_aware import Candidates, ContentAware, ContentAwareConfig
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.dynamic import Choice, ListedProvider, attach, dynamic_quantizers
from sr_quant_cli.quant.max_scale import inherit_scales
from sr_quant_cli.quant.pictures import entropy

Percentiles = Annotated[list[Annotated[float, Field(gt=0, lt=100)]], Field(min_length=1)]


class GranularDQConfig(ContentAwareConfig):
    """Granular-DQ [1]_."""

    name: Literal["granular_dq"] = "granular_dq"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""
    candidates: Candidates = Field(default_factory=lambda: [4, 5, 8])
    """bits to choose from, ascending"""
    percentiles: Percentiles = Field(default_factory=lambda: [50.0, 90.0])
    """percentiles of the entropy between the candidates, ascending"""

    @model_validator(mode="after")
    def _one_between_two(self) -> Self:
        if len(self.percentiles) != len(self.candidates) - 1:
            raise ValueError(
                f"percentiles = {self.percentiles}: needs {len(self.candidates) - 1}, one between "
                f"each two of {self.candidates}"
            )
        if self.percentiles != sorted(self.percentiles):
            raise ValueError(f"percentiles = {self.percentiles}: must ascend")
        return self


class EntropyRule(ListedProvider):
    """Chooses the same bits for all layers of a patch, by its entropy [1]_.

    Attributes
    ----------
    thresholds
        Entropies between the candidates, ``[K - 1]``.
    """

    thresholds: Tensor

    def __init__(self, candidates: tuple[int, ...], layers: int) -> None:
        super().__init__(candidates)
        self._layers = layers
        self.register_buffer("thresholds", torch.zeros(len(candidates) - 1))

    def look(self, picture: Tensor) -> None:
        """Find the row of every patch; one on a threshold gets fewer bits."""
        self.row = torch.bucketize(entropy(picture), self.thresholds)

    def choose(self, layer: str, x: Tensor) -> Choice:
        """Choose what the patch was given."""
        return self.of_index(self.row)

    def rows(self) -> Tensor:
        """A row for each candidate."""
        return torch.tensor(self.candidates)[:, None].repeat(1, self._layers)


class GranularDQ(ContentAware):
    """Bits chosen for every patch by its entropy [1]_."""

    starts_from = "pams"
    config: GranularDQConfig

    def attach(self, network: Network) -> None:
        """Attach the rule."""
        layers = len(dynamic_quantizers(network))
        attach(network, EntropyRule(tuple(self.config.candidates), layers))

    def inherit(self, network: Network, before: Network, batches: Iterable[Tensor]) -> None:
        """Copy the scales, and find the percentiles."""
        inherit_scales(network, before)
        rule = network.bit_provider
        assert isinstance(rule, EntropyRule)
        found = torch.cat([entropy(batch) for batch in batches])
        rule.thresholds.copy_(torch.quantile(found, torch.tensor(self.config.percentiles) / 100))
