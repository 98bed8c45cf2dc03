"""What CADyQ and its successors share: a scale for every candidate width, and 8-bit weights.

They differ in who chooses among the candidates: their bit provider.
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
    """What all of them have."""

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
        """Who chooses bits knows the candidates alone.

        Raises
        ------
        ValueError
            The activation bits are not the largest of them.
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
        """Largest absolute weight of each step."""
        return largest_weight(bits, per_channel=per_channel)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """A trainable maximum scale of fixed bits."""
        return MaxScale(bits)

    def low_input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """A scale for every candidate; of tokens, which are no map, one of fixed bits."""
        if site.kind in ("linear", "matmul"):
            return MaxScale(bits)
        return Scales(bits, tuple(self.config.candidates))
