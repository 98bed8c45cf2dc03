"""Common part of networks that can leave out blocks, and so run at several depths.

The depth-dynamic part (DQA) of QuantSR [1]_. A block is ``s x + branch(x)`` with a learned factor
``s`` on its shortcut, or ``s x`` alone where it is left out: its branch is then neither computed
nor quantized. Of n blocks, n // 2 and n // 4 run at half and quarter depth, but at least one.

References
----------
.. [1] H. Qin, Y. Zhang, Y. Ding, Y. Liu, X. Liu, M. Danelljan, F. Yu, "QuantSR: Accurate Low-bit
       Quantization for Efficient Image Super-Resolution", NeurIPS 2023.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.system.choices import Depth

DEPTHS: tuple[Depth, ...] = ("full", "half", "quarter")
"""All depths, deepest first."""


def executed_blocks(blocks: int, depth: Depth, extra: int = 0) -> int:
    """Count the blocks that a depth executes, with ``extra`` more below the full one.

    >>> [executed_blocks(32, depth) for depth in DEPTHS]
    [32, 16, 8]
    """
    divisor = {"full": 1, "half": 2, "quarter": 4}[depth]
    return min(max(blocks // divisor + (extra if depth != "full" else 0), 1), blocks)


class Skippable(nn.Module):
    """Mixin for a block ``shortcut(x) + branch(x)`` that can be left out [1]_.

    It comes first among the bases.

    Attributes
    ----------
    shortcut_scale
        Trainable, ``[]``; starts at 1.
    skipped
        The block is left out.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shortcut_scale = nn.Parameter(torch.ones(()))
        self.skipped = False

    last: ClassVar[str]
    """name of the layer that ends the branch"""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y: Tensor = self.shortcut_scale * x if self.skipped else super().forward(x)
        return y

    def shortcut(self, x: Tensor) -> Tensor:
        """Scale the input by its factor."""
        y: Tensor = self.shortcut_scale * super().shortcut(x)  # type: ignore[misc]
        return y


class DepthDynamic(Network):
    """Mixin for a network of skippable blocks that runs at several depths [1]_.

    It comes first among the bases.
    """

    ranks: Tensor
    """``[n_blocks]``, int64: 1 for the block that changes the output most; 0: not ranked."""

    @property
    @abstractmethod
    def blocks(self) -> list[Any]:
        """Skippable blocks of the body, in order."""

    @abstractmethod
    def executed(self, depth: Depth) -> int:
        """Count the blocks that a depth executes."""

    def forget_ranks(self) -> None:
        """Register ranks of zero, once the blocks are in place."""
        self.register_buffer("ranks", torch.zeros(len(self.blocks), dtype=torch.int64))

    @property
    def depths(self) -> tuple[Depth, ...]:
        """All three if the blocks are ranked, else only the full one."""
        return self.config.depths if self.ranks.any() else ("full",)

    def set_depth(self, depth: Depth) -> None:
        """Execute the blocks with the highest ranks, as many as the depth has.

        Raises
        ------
        ValueError
            The blocks are not ranked, and some would have to be left out.
        """
        if depth not in self.depths:
            raise ValueError("its blocks have no ranks yet: train it at several depths")
        super().set_depth(depth)
        executed = self.executed(depth)
        for block, rank in zip(self.blocks, self.ranks.tolist(), strict=True):
            block.skipped = rank > executed

    @torch.no_grad()
    def rank_blocks(self, batches: Iterable[Tensor]) -> None:
        """Rank the blocks by how much leaving each one out changes the output.

        The change is the summed squared difference of the outputs at full depth, with and without
        the block, over LR batches ``[N, 3, h, w]`` (0..1) in evaluation mode. Each batch takes one
        forward pass more than there are blocks. Interactions of two absent blocks are not seen.
        Equal changes are ranked in the order of the blocks. Ranks are found only once.
        """
        if self.ranks.any():
            return
        was_training = self.training
        self.eval()
        changes = torch.zeros(len(self.blocks), dtype=torch.float64)
        for batch in batches:
            whole = self(batch)
            for index, block in enumerate(self.blocks):
                block.skipped = True
                changes[index] += (self(batch) - whole).double().square().sum().cpu()
                block.skipped = False
        order = changes.argsort(descending=True, stable=True)
        self.ranks.copy_(order.argsort() + 1)
        self.train(was_training)

    def take_depth(self, other: Self) -> None:
        """Leave out the same blocks as another network with the same configuration."""
        self.ranks = other.ranks
        super().take_depth(other)

    def start_from(self, other: Network) -> None:
        """Copy the weights of a network of the same kind, or of the one it extends.

        Blocks that the other network lacks start with a branch of zero, so that outputs are the
        same.

        Raises
        ------
        ValueError
            A scale-independent tensor has another shape, or one of its kind has other blocks.
        """
        super().start_from(other)
        for path, block in self.named_modules():
            if isinstance(block, Skippable):
                for name, parameter in block.get_submodule(block.last).named_parameters():
                    if self._lacks(other, f"{path}.{block.last}.{name}"):
                        nn.init.zeros_(parameter)

    def may_stay_fresh(self, key: str, other: Network) -> bool:
        """Tell if a tensor may stay fresh; all that the extended network lacks may."""
        return self._lacks(other, key) or super().may_stay_fresh(key, other)

    def _lacks(self, other: Network, key: str) -> bool:
        return other.config.name == self.config.extends and key not in other.state_dict()
