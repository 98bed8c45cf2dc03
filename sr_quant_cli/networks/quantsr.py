"""QuantSR-C: an EDSR that can leave out blocks, and so runs at three depths.

This is the depth-dynamic part (DQA) of QuantSR [1]_; its quantizers are the method ``quantsr``. A
block is ``s x + body(x)`` with a learned factor ``s`` on its shortcut, or ``s x`` alone where it is
left out: its branch is then neither computed nor quantized.

=======  ===============  ===============  ==================================
depth    of n blocks      of 32            variant ``code``, of 32
=======  ===============  ===============  ==================================
full     n                32               32
half     n // 2           16               17
quarter  n // 4           8                9
=======  ===============  ===============  ==================================

At least one block is executed. The released model executes one too many, by a counting mistake.

The ranks of the blocks decide which are left out. They are a part of the state. The released code
has a list for its only checkpoint and does not say how it was found: ``RELEASED_ORDER``, which an
imported checkpoint of 32 blocks gets. Here each block is left out once and ranked by how much that
changes the output on pictures: see ``DepthDynamic.rank_blocks``. This happens once, before the
first step of a training that includes lower depths or before quantization; the weights adapt to it.
Ranks mean most for trained weights, so start from an EDSR, or from a QuantSR-C trained at full
depth only (``depth.weights = [1, 0, 0]``). Ranks of fresh weights are close to random.

Training runs all depths on each batch and averages their losses, with equal weights as released.
The release has a second loss, 1e-4 times a distance of features to those of a teacher, which the
recipes for quantization have (see the method ``quantsr``). srq can also pull the outputs of lower
depths towards that of the full one, by a pixel loss on values 0..255 for each lower depth:
``depth.distill_weight`` in recipes. This is not in the release. The release takes the end of the
body, the upsampler and the tail from a float network. Here all weights are taken, and blocks that
an EDSR lacks start with a branch of zero. Post-training quantization finds its ranges at full
depth.

References
----------
.. [1] H. Qin, Y. Zhang, Y. Ding, Y. Liu, X. Liu, M. Danelljan, F. Yu, "QuantSR: Accurate Low-bit
       Quantization for Efficient Image Super-Resolution", NeurIPS 2023.
"""

from typing import ClassVar, Literal

from torch import nn

from sr_quant_cli.networks.depth import DEPTHS, DepthDynamic, Skippable, executed_blocks
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig, ResidualBlock
from sr_quant_cli.strict import Size
from sr_quant_cli.system.choices import Depth

RELEASED_ORDER = (
    *(31, 30, 29, 8, 27, 13, 28, 15, 7, 10, 18, 17, 19, 20, 22, 6),
    *(11, 16, 12, 23, 24, 25, 21, 14, 9, 26, 5, 4, 3, 2, 1, 0),
)
"""Blocks of the released checkpoint, those that matter most first (htqin/QuantSR, d470ad6)."""


class QuantSRCConfig(EDSRConfig):
    """The released network by default: 32 blocks, 64 features."""

    depths: ClassVar[tuple[Depth, ...]] = DEPTHS
    recipes_from: ClassVar[str] = "edsr"
    extends: ClassVar[str] = "edsr"

    name: Literal["quantsr_c"] = "quantsr_c"  # type: ignore[assignment]
    """network"""
    n_blocks: Size = 32
    """residual blocks at full depth"""
    variant: Literal["corrected", "code"] = "corrected"
    """corrected: n // 2 and n // 4 blocks at lower depths; code: one more, as released"""

    def executed(self, depth: Depth) -> int:
        """Count the blocks that a depth executes.

        >>> [QuantSRCConfig(variant="code").executed(d) for d in QuantSRCConfig.depths]
        [32, 17, 9]
        """
        return executed_blocks(self.n_blocks, depth, extra=self.variant == "code")


class SkippableBlock(Skippable, ResidualBlock):
    """``shortcut_scale * x + res_scale * conv(relu(conv(x)))``, or the first term alone [1]_."""

    last = "conv2"


class QuantSRC(DepthDynamic, EDSR):
    """EDSR with blocks that can be left out [1]_.

    >>> QuantSRC(QuantSRCConfig(scale=4)).parameter_count()
    2699299
    """

    def __init__(self, config: QuantSRCConfig) -> None:
        super().__init__(config)
        self.config: QuantSRCConfig = config
        self.body = nn.Sequential(
            *(SkippableBlock(config.n_feats, config.res_scale) for _ in range(config.n_blocks))
        )
        self.forget_ranks()

    @property
    def blocks(self) -> list[SkippableBlock]:
        """Blocks of the body, in order."""
        return [block for block in self.body if isinstance(block, SkippableBlock)]

    def executed(self, depth: Depth) -> int:
        """Count the blocks that a depth executes."""
        return self.config.executed(depth)

    @property
    def receptive_radius(self) -> int:
        """Radius of EDSR, less two for each block that is left out."""
        return super().receptive_radius - 2 * sum(block.skipped for block in self.blocks)
