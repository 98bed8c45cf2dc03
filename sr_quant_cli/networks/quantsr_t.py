"""QuantSR-T: a SwinIR-light that can leave out residual groups, and so runs at three depths.

This is the transformer of QuantSR [1]_. It does with the residual groups of SwinIR-light what
QuantSR-C does with the blocks of an EDSR. A group is ``s x + conv(layers(x))`` with a learned
factor ``s`` on its shortcut, or ``s x`` alone where it is left out. Of the four groups 4, 2 and 1
run at full, half and quarter depth; their ranks decide which, see ``DepthDynamic.rank_blocks``. It
is trained as QuantSR-C.

The released code has no transformer. This one follows the paper's description, and there is no
checkpoint to compare with.

References
----------
.. [1] H. Qin, Y. Zhang, Y. Ding, Y. Liu, X. Liu, M. Danelljan, F. Yu, "QuantSR: Accurate Low-bit
       Quantization for Efficient Image Super-Resolution", NeurIPS 2023.
"""

from typing import ClassVar, Literal

from sr_quant_cli.networks.depth import DEPTHS, DepthDynamic, Skippable, executed_blocks
from sr_quant_cli.networks.swinir import ResidualGroup, SwinIR, SwinIRConfig
from sr_quant_cli.system.choices import Depth


class QuantSRTConfig(SwinIRConfig):
    """SwinIR-light by default [1]_."""

    depths: ClassVar[tuple[Depth, ...]] = DEPTHS
    recipes_from: ClassVar[str] = "swinir_light"
    extends: ClassVar[str] = "swinir_light"

    name: Literal["quantsr_t"] = "quantsr_t"  # type: ignore[assignment]
    """network"""


class SkippableGroup(Skippable, ResidualGroup):
    """``shortcut_scale * x + conv(layers(x))``, or the first term alone [1]_."""

    last = "conv"


class QuantSRT(DepthDynamic, SwinIR):
    """SwinIR-light with residual groups that can be left out [1]_.

    >>> QuantSRT(QuantSRTConfig(scale=4)).parameter_count()
    929632
    """

    group = SkippableGroup

    def __init__(self, config: QuantSRTConfig) -> None:
        super().__init__(config)
        self.config: QuantSRTConfig = config
        self.forget_ranks()

    @property
    def blocks(self) -> list[SkippableGroup]:
        """Residual groups, in order."""
        return [group for group in self.body if isinstance(group, SkippableGroup)]

    def executed(self, depth: Depth) -> int:
        """Count the residual groups that a depth executes."""
        return executed_blocks(len(self.blocks), depth)

    def executed_groups(self) -> list[ResidualGroup]:
        """List the residual groups that run."""
        return [group for group in self.blocks if not group.skipped]
