"""A trainable bound of both signs (PAMS), and what changes it from outside."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, sym_narrow
from sr_quant_cli.quant.quantizers import Quantizer, quantizers
from sr_quant_cli.system.processes import average_processes

BEYOND = 2**16
"""Factor on a range that clips nothing then. A power of two: a bound's gradient stays as it is."""


class MaxScale(Quantizer):
    """A trainable bound of both signs (PAMS).

    While it follows the data, ``alpha`` is the mean over the samples of a batch of their largest
    absolute values, and nothing is clipped: codes go on beyond ``q``.

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
        """Whether alpha follows the data in the present forward pass."""
        return self.follows and self.training and self.mode == "quantize"

    def observe(self, x: Tensor) -> None:
        """Take the mean over the samples of the largest absolute value."""
        self.alpha.data.copy_(x.abs().amax(tuple(range(1, x.ndim))).mean())

    def reach(self, grid: Grid) -> Grid:
        """The grid, which goes on beyond its bounds while alpha follows the data."""
        if not self.following:
            return grid
        wide = {name: BEYOND * getattr(grid, name) for name in ("lower", "upper", "first", "last")}
        return replace(grid, **wide)

    def grid(self, x: Tensor) -> Grid:
        """The symmetric grid up to ``alpha``."""
        return self.reach(sym_narrow(self.alpha, self.bits))

    def static_grid(self) -> Grid | None:
        """The grid up to ``alpha``."""
        return sym_narrow(self.alpha, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32."""
        if self.following:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self.observe(x.float())
                average_processes(self.alpha)
        return self.quantized(x)

    def quantized(self, x: Tensor) -> Tensor:
        """Values on the present grid."""
        return super().forward(x)

    @torch.no_grad()
    def clamp_range(self) -> None:
        """Keep alpha positive."""
        self.alpha.clamp_(min=MIN_WIDTH)


def follow(network: nn.Module, *, follows: bool) -> None:
    """Let all maximum scales follow the data, or not."""
    for quantizer in quantizers(network):
        if isinstance(quantizer, MaxScale):
            quantizer.follows = follows


def inherit_scales(network: nn.Module, before: nn.Module) -> None:
    """Copy the bounds of maximum scales from a network that has them at the same sites.

    A single bound goes to all candidates.

    Raises
    ------
    ValueError
        It has none at one of the sites.
    """
    plan = getattr(before, "quantization", None)
    given = {entry.site.path: entry.source for entry in plan.sites if entry.given} if plan else {}
    modules = dict(before.named_modules())
    for path, quantizer in network.named_modules():
        if not isinstance(quantizer, MaxScale):
            continue
        site, _, operand = path.rpartition(".")
        # Where the input came quantized, the tensor site in front has the bound.
        source = modules.get(f"{given.get(site, site)}.{operand}")
        grid = source.static_grid() if isinstance(source, Quantizer) else None
        if isinstance(source, MaxScale):
            quantizer.alpha.data.copy_(source.alpha.data)
        elif grid is not None:
            quantizer.alpha.data.copy_(grid.upper)
        else:
            raise ValueError(f"the model to start from is not quantized at {site}")
