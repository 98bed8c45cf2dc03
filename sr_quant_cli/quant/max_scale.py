"""PAMS's trainable symmetric bound, and functions that change it from outside."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, sym_narrow
from sr_quant_cli.quant.quantizers import Quantizer, quantizers
from sr_quant_cli.system.processes import average_processes

BEYOND = 2**16
"""Factor on a range, so that nothing is clipped; a power of two keeps the bound's gradient."""


class MaxScale(Quantizer):
    """Trainable symmetric bound ``alpha`` (PAMS).

    While the quantizer follows the data, ``alpha`` is the mean over a batch of the samples' largest
    absolute values. Nothing is clipped then: codes extend beyond ``q``.

    Examples
    --------
    >>> quantizer = MaxScale(3)
    >>> quantizer.alpha.data.fill_(6.0).item()
    6.0
    >>> x = torch.tensor([[-1.0, 0.9, 5.0], [1.1, -7.0, 3.2]])
    >>> quantizer(x).tolist()
    [[0.0, 0.0, 4.0], [2.0, -6.0, 4.0]]

    The largest values of the two samples are 5 and 7, their mean is 6 and the step 2:

    >>> quantizer.follows = True
    >>> quantizer(x).tolist()
    [[0.0, 0.0, 4.0], [2.0, -8.0, 4.0]]
    """

    alpha: nn.Parameter

    def __init__(self, bits: int, shape: tuple[int, ...] = ()) -> None:
        super().__init__(bits, "half")
        self.alpha = nn.Parameter(torch.full(shape, 10.0))
        self.follows = False

    @property
    def following(self) -> bool:
        """True if alpha follows the data in this forward pass."""
        return self.follows and self.training and self.mode == "quantize"

    def observe(self, x: Tensor) -> None:
        """Take the mean over the samples of the largest absolute value."""
        self.alpha.data.copy_(x.abs().amax(tuple(range(1, x.ndim))).mean())

    def reach(self, grid: Grid) -> Grid:
        """Extend a grid beyond its bounds while alpha follows the data."""
        if not self.following:
            return grid
        wide = {name: BEYOND * getattr(grid, name) for name in ("lower", "upper", "first", "last")}
        return replace(grid, **wide)

    def grid(self, x: Tensor) -> Grid:
        """Symmetric grid up to ``alpha``."""
        return self.reach(sym_narrow(self.alpha, self.bits))

    def static_grid(self) -> Grid | None:
        """Symmetric grid up to ``alpha``."""
        return sym_narrow(self.alpha, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32."""
        if self.following:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self.observe(x.float())
                average_processes(self.alpha)
        return self.quantized(x)

    def quantized(self, x: Tensor) -> Tensor:
        """Quantize on the current grid."""
        return super().forward(x)

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep alpha positive."""
        self.alpha.clamp_(min=MIN_WIDTH)


def follow(network: nn.Module, *, follows: bool) -> None:
    """Make all ``MaxScale`` quantizers of a network follow the data, or not."""
    for quantizer in quantizers(network):
        if isinstance(quantizer, MaxScale):
            quantizer.follows = follows


def inherit_scales(network: nn.Module, before: nn.Module) -> None:
    """Copy the bounds of ``MaxScale`` quantizers from a network quantized at the same sites.

    A single bound is copied to all candidate bit widths.

    Raises
    ------
    ValueError
        The network ``before`` has no bound at one of the sites.
    """
    plan = getattr(before, "quantization", None)
    given = {entry.site.path: entry.source for entry in plan.sites if entry.given} if plan else {}
    modules = dict(before.named_modules())
    for path, quantizer in network.named_modules():
        if not isinstance(quantizer, MaxScale):
            continue
        site, _, operand = path.rpartition(".")
        # The bound of an input that was quantized before is that of the tensor site in front.
        source = modules.get(f"{given.get(site, site)}.{operand}")
        grid = source.static_grid() if isinstance(source, Quantizer) else None
        if isinstance(source, MaxScale):
            quantizer.alpha.data.copy_(source.alpha.data)
        elif grid is not None:
            quantizer.alpha.data.copy_(grid.upper)
        else:
            raise ValueError(f"the model to start from is not quantized at {site}")
