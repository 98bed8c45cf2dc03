"""Common part of 2DQuant and its successors: bounds of least error on the calibration batch."""

from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor

from sr_quant_cli.methods.base import Method
from sr_quant_cli.quant.grids import affine_real, sym_narrow
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.quantizers import BoundsQuantizer, Quantizer, channel_scale
from sr_quant_cli.quant.ranges import (
    max_abs,
    search_one_sided,
    search_scale,
    search_two_sided,
)
from sr_quant_cli.quant.sites import BLOCKS, Placement, Site


class BoundSearchConfig(MethodConfig):
    """Fields that all of them have."""

    candidates: Annotated[int, Field(ge=1)] = 100
    """pairs of bounds that are tried (K)"""


class BoundSearch(Method):
    """Bounds of least error, per tensor."""

    config: BoundSearchConfig

    def paper_placement(self) -> Placement:
        """Linear layers and products; in convolutional networks, residual blocks."""
        return BLOCKS

    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Search both bounds, or one symmetric bound for each channel."""
        candidates = self.config.candidates
        if per_channel:
            estimate_scale = partial(search_channels, bits=bits, candidates=candidates)
            return channel_scale(bits, "clip", estimate_scale, weight)
        estimate = partial(search_two_sided, bits=bits, candidates=candidates)
        return BoundsQuantizer(bits, "clip", affine_real, estimate)

    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Search the upper bound after ReLU, GELU and softmax (not as released), else both."""
        variant, candidates = self.config.variant, self.config.candidates
        estimate = partial(search_two_sided, bits=bits, candidates=candidates)
        if variant != "code" and (site.unsigned or site.after_gelu):
            reach = 0.5 if variant == "paper" else 1.0
            estimate = partial(search_one_sided, bits=bits, candidates=candidates, reach=reach)
        return BoundsQuantizer(bits, "clip", affine_real, estimate)


def search_channels(weight: Tensor, bits: int, candidates: int) -> Tensor:
    """Symmetric bound of least error for each output channel, ``[C, 1, 1, 1]``."""
    return search_scale(weight, sym_narrow, bits, max_abs(weight, dim=0), candidates, dim=0)
