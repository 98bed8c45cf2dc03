"""Quantizers with constant grids: those of model files, and of networks that become graphs."""

import torch
from torch import Tensor

from sr_quant_cli.quant.grids import Grid
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.ranges import range_shape
from sr_quant_cli.quant.widths import level_count


class FrozenWeight(Quantizer):
    """Quantizer of a weight that already lies on its grid: it changes nothing, and knows the codes.

    Parameters
    ----------
    levels
        First code, origin and step, float32, concatenated. The step, or origin and step, may have
        a value for each output channel of the weight.
    weight
        ``[C, ...]``
    """

    levels: Tensor

    def __init__(self, bits: int, levels: Tensor, weight: Tensor) -> None:
        super().__init__(bits, "ste")
        self.register_buffer("levels", levels)
        self._shape = range_shape(weight, dim=0)

    @staticmethod
    def of(grid: Grid, weight: Tensor) -> "FrozenWeight":
        """Keep the grid of a weight."""
        origin = grid.origin.flatten()
        if (origin == origin[0]).all():
            origin = origin[:1]
        first = torch.full_like(origin[:1], grid.first)
        return FrozenWeight(grid.bits, torch.cat([first, origin, grid.step.flatten()]), weight)

    def grid(self, x: Tensor) -> Grid:
        """Grid that the weight lies on; independent of ``x``."""
        first, last = int(self.levels[0]), int(self.levels[0]) + level_count(self.bits) - 1
        values = self.levels[1:]
        steps = self._shape[0] if len(values) > 2 else 1
        origin, step = values[:-steps], values[-steps:]
        origin, step = (v.view(self._shape if len(v) > 1 else ()) for v in (origin, step))
        return Grid(
            step, origin, step * first + origin, step * last + origin, first, last, self.bits
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` itself."""
        return x


class FrozenInput(Quantizer):
    """Quantizer of an activation with a constant range.

    Parameters
    ----------
    levels
        First code, lower and upper bound, origin and step, float32 ``[SIZE]``.
    """

    SIZE = 5
    levels: Tensor

    def __init__(self, bits: int, levels: Tensor) -> None:
        super().__init__(bits, "clip")
        self.register_buffer("levels", levels)

    @staticmethod
    def of(grid: Grid) -> "FrozenInput":
        """Keep a grid with a single range."""
        first = torch.full_like(grid.step, grid.first)
        values = torch.stack([first, grid.lower, grid.upper, grid.origin, grid.step])
        return FrozenInput(grid.bits, values)

    def grid(self, x: Tensor) -> Grid:
        """Constant grid; independent of ``x``."""
        _, lower, upper, origin, step = self.levels
        first = int(self.levels[0])
        last = first + level_count(self.bits) - 1
        return Grid(step, origin, lower, upper, first, last, self.bits)

    def static_grid(self) -> Grid:
        """Constant grid."""
        return self.grid(self.levels)
