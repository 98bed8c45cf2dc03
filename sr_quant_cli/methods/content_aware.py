"""What CADyQ and its successors share: a scale for every candidate width, and 8-bit weights.

They differ in who chooses among the candidates: their bit provider.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import Tensor

from sr_quant_cli.methods.base import Method, MethodConfig, quantizers
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.sites import CONTENT_AWARE_BLOCKS, Placement, Site
from sr_quant_cli.quant.dynamic import Scales
from sr_quant_cli.quant.grids import MIN_WIDTH, sym_narrow
from sr_quant_cli.quant.quantizers import MaxScale, Quantizer, WeightRangeQuantizer
from sr_quant_cli.quant.ranges import max_abs

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

    def paper_placement(self) -> Placement:
        """Both convolutions of a block and its input; the output of the branch at 8 bits."""
        return CONTENT_AWARE_BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Largest absolute weight of each step."""
        dim = 0 if per_channel else None
        return WeightRangeQuantizer(
            bits, "ste", lambda w, b: sym_narrow(max_abs(w, dim) + MIN_WIDTH, b)
        )

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """A trainable maximum scale of fixed bits."""
        return MaxScale(bits)

    def low_input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """A scale for every candidate; of tokens, which are no map, one of fixed bits."""
        if site.kind in ("linear", "matmul"):
            return MaxScale(bits)
        return Scales(bits, tuple(self.config.candidates))


def follow(network: Network, *, follows: bool) -> None:
    """Let all scales follow the data, or not."""
    for quantizer in quantizers(network):
        if isinstance(quantizer, MaxScale):
            quantizer.follows = follows
