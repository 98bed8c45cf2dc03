"""Common part of CADyQ and its successors: a scale for every candidate width, 8-bit weights.

They differ in their bit provider, which chooses among the candidates.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import Tensor

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.dynamic import Scales
from sr_quant_cli.quant.max_scale import MaxScale
from sr_quant_cli.quant.plan import Bits, MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer, largest_weight
from sr_quant_cli.quant.sites import CONTENT_AWARE_BLOCKS, Placement, Site

Candidates = Annotated[list[Annotated[int, Field(ge=2, le=8)]], Field(min_length=2)]


class ContentAwareConfig(MethodConfig):
    """Fields that all of them have."""

    candidates: Candidates = Field(default_factory=lambda: [4, 6, 8])
    """bits to choose from, ascending"""

    @model_validator(mode="after")
    def _candidates_ascend(self) -> Self:
        if self.candidates != sorted(set(self.candidates)):
            raise ValueError(f"candidates = {self.candidates}: must be different, ascending")
        return self


class ContentAware(Method):
    """A method whose bits follow the picture, on the quantizers of PAMS."""

    trains = True
    dynamic = True
    chooses_bits = True
    config: ContentAwareConfig

    def check(self, bits: Bits) -> None:
        """Refuse activation bits other than the largest candidate.

        Raises
        ------
        ValueError
            The activation bits are another number.
        """
        among = self.config.candidates
        if bits.a != among[-1]:
            raise ValueError(f"`a` {bits.a}: bits are chosen among {among}; must be {among[-1]}")

    def paper_placement(self) -> Placement:
        """Both convolutions of a block and its input; the output of the branch at 8 bits."""
        return CONTENT_AWARE_BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Quantize up to the largest absolute weight of each step."""
        return largest_weight(bits, per_channel=per_channel)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn a maximum scale at fixed bits."""
        return MaxScale(bits)

    def low_input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Learn a scale for every candidate; for tokens one at fixed bits."""
        if site.kind in ("linear", "matmul"):
            return MaxScale(bits)
        return Scales(bits, tuple(self.config.candidates))
