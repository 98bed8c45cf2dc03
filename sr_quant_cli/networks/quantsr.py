"""QuantSR-C: an EDSR that can leave out blocks, and so runs at three depths.

The depth-dynamic part (DQA) of QuantSR [1]_; its quantizers are the method ``quantsr``. A block is
``s x + body(x)`` with a learned factor ``s`` on its shortcut, or ``s x`` alone where it is left
out: nothing of it is then computed or quantized.

=======  ===============  ===============  ==================================
depth    of n blocks      of 32            variant ``code``, of 32
=======  ===============  ===============  ==================================
full     n                32               32
half     n // 2           16               17
quarter  n // 4           8                9
=======  ===============  ===============  ==================================

The released model executes one block too many by a mistake in counting; at least one is executed.

Which blocks are left out depends on their ranks, a part of the state. The released code has a list
for its only checkpoint, found by a rule that it does not tell. Here every block is left out once,
and ranked by how much that changes the output on pictures: see ``QuantSRC.rank_blocks``. It is done
before the first step of a training that includes lower depths, or before quantization, and never
again, as the weights grow into it. Ranks say most where the weights are trained already: start from
an EDSR, or from a QuantSR-C that was trained at full depth alone (``depth.weights = [1, 0, 0]``).
Those of fresh weights are little better than drawn by lot.

In training all depths run on each batch, their losses are averaged, and the outputs of lower depths
are drawn to that of the full one: see ``[depth]`` of recipes. The release trains nothing. Three
equal weights and 1e-4 are reported; of which distance 1e-4 is the weight is not: here it is that of
the pixel loss, on values 0..255, once for each lower depth. The release takes the end of the body,
the upsampler and the tail of a float network. Here all weights are taken, and blocks that an EDSR
lacks start with a branch of zero. PTQ finds its ranges at full depth. QuantSR-T, a transformer, is
not here.

References
----------
.. [1] H. Qin, Y. Zhang, Y. Ding, Y. Liu, X. Liu, M. Danelljan, F. Yu, "QuantSR: Accurate Low-bit
       Quantization for Efficient Image Super-Resolution", NeurIPS 2023.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from sr_quant_cli.networks.base import Depth, Network
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig, ResidualBlock


class QuantSRCConfig(EDSRConfig):
    """The released network by default: 32 blocks, 64 features."""

    depths: ClassVar[tuple[Depth, ...]] = ("full", "half", "quarter")
    base: ClassVar[str] = "edsr"

    name: Literal["quantsr_c"] = "quantsr_c"  # type: ignore[assignment]
    """network"""
    n_blocks: Annotated[int, Field(ge=1)] = 32
    """residual blocks at full depth"""
    variant: Literal["corrected", "code"] = "corrected"
    """corrected: n // 2 and n // 4 blocks at lower depths; code: one more, as released"""

    def executed(self, depth: Depth) -> int:
        """Blocks that a depth executes.

        >>> [QuantSRCConfig(variant="code").executed(d) for d in QuantSRCConfig.depths]
        [32, 17, 9]
        """
        divisor = {"full": 1, "half": 2, "quarter": 4}[depth]
        extra = self.variant == "code" and depth != "full"
        return min(max(self.n_blocks // divisor + extra, 1), self.n_blocks)


class SkippableBlock(ResidualBlock):
    """``shortcut_scale * x + res_scale * conv(relu(conv(x)))``, or the first term alone [1]_.

    Attributes
    ----------
    shortcut_scale
        Trainable, ``[]``; starts at 1.
    skipped
        The block is left out.
    """

    def __init__(self, n_feats: int, res_scale: float) -> None:
        super().__init__(n_feats, res_scale)
        self.shortcut_scale = nn.Parameter(torch.ones(()))
        self.skipped = False

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        return self.shortcut_scale * x if self.skipped else super().forward(x)

    def shortcut(self, x: Tensor) -> Tensor:
        """The input times its factor."""
        return self.shortcut_scale * super().shortcut(x)


class QuantSRC(EDSR):
    """EDSR of blocks that can be left out [1]_.

    >>> QuantSRC(QuantSRCConfig(scale=4)).parameter_count()
    2699299
    """

    ranks: Tensor
    """``[n_blocks]``, int64: 1 is the block whose absence changes the output most; 0: not known."""

    def __init__(self, config: QuantSRCConfig) -> None:
        super().__init__(config)
        self.config: QuantSRCConfig = config
        self.body = nn.Sequential(
            *(SkippableBlock(config.n_feats, config.res_scale) for _ in range(config.n_blocks))
        )
        self.register_buffer("ranks", torch.zeros(config.n_blocks, dtype=torch.int64))

    @property
    def blocks(self) -> list[SkippableBlock]:
        """Blocks of the body, in their order."""
        return [block for block in self.body if isinstance(block, SkippableBlock)]

    @property
    def depths(self) -> tuple[Depth, ...]:
        """All three where blocks are ranked, else the full one."""
        return self.config.depths if self.ranks.any() else ("full",)

    def set_depth(self, depth: Depth) -> None:
        """Execute the blocks of highest rank, as many as the depth has.

        Raises
        ------
        ValueError
            The blocks are not ranked, and some would have to be left out.
        """
        if depth not in self.depths:
            raise ValueError("its blocks have no ranks yet: train it at several depths")
        super().set_depth(depth)
        executed = self.config.executed(depth)
        for block, rank in zip(self.blocks, self.ranks.tolist(), strict=True):
            block.skipped = rank > executed

    @torch.no_grad()
    def rank_blocks(self, batches: Iterable[Tensor]) -> None:
        """Rank blocks by the change of the output when each alone is left out, if none is ranked.

        The change is the summed squared difference of the outputs at full depth, with and without
        the block, over LR batches ``[N, 3, h, w]`` (0..1), computed in evaluation mode. It needs
        ``n_blocks + 1`` forward passes a batch, and sees no effects of two absent blocks on each
        other. Equal changes are ranked in the order of the blocks.
        """
        if self.ranks.any():
            return
        was_training = self.training
        self.eval()
        changes = torch.zeros(self.config.n_blocks, dtype=torch.float64)
        for batch in batches:
            whole = self(batch)
            for index, block in enumerate(self.blocks):
                block.skipped = True
                changes[index] += (self(batch) - whole).double().square().sum().cpu()
                block.skipped = False
        order = changes.argsort(descending=True, stable=True)
        self.ranks.copy_(order.argsort() + 1)
        self.train(was_training)

    @property
    def receptive_radius(self) -> int:
        """EDSR's, less two for each block that is left out."""
        skipped = self.config.n_blocks - self.config.executed(self.depth)
        return super().receptive_radius - 2 * skipped

    def twin(self) -> Self:
        """It leaves out the same blocks."""
        twin = super().twin()
        twin.ranks = self.ranks
        twin.set_depth(self.depth)
        return twin

    def start_from(self, other: Network) -> None:
        """Take over the weights of another QuantSR-C, or of an EDSR, which may have fewer blocks.

        Blocks that an EDSR lacks start with a branch of zero: outputs are those of the EDSR.

        Raises
        ------
        ValueError
            A scale-independent tensor has another shape, or a QuantSR-C has other blocks.
        """
        super().start_from(other)
        if type(other) is EDSR:
            for block in self.blocks[other.config.n_blocks :]:
                for parameter in block.conv2.parameters():
                    nn.init.zeros_(parameter)

    def may_stay_fresh(self, key: str, other: Network) -> bool:
        """Of an EDSR also all that it lacks: factors of shortcuts, ranks, further blocks."""
        lacking = type(other) is EDSR and key not in other.state_dict()
        return lacking or super().may_stay_fresh(key, other)
