"""Options of running a model, in one value."""

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.registry import AUTO, TORCH, check_choice, get_runtime
from sr_quant_cli.system.choices import Depth, PrecisionChoice


@record
class RunOptions:
    """Options of running a model.

    Attributes
    ----------
    runtime
        A registered runtime, or auto: torch on CUDA where it is there, else the fastest runtime
        that agrees with the model.
    device
        auto, cpu, cuda or cuda:N; auto: CUDA where it is there.
    precision
        Arithmetic of everything that does not run on integers.
    threads
        CPU threads; None: one for each core, or this process's part of them.
    depth
        Depth of a network with several depths.
    tile
        LR pixels that a tile keeps per side; None: by memory.
    patches
        Enlarge each patch as a picture of its own; None: in tiles that join seamlessly.
    self_ensemble
        Take the mean of the float results of the eight rotations and reflections of a picture.
    range
        Value of white in a foreign graph with float input: 1 or 255; None: 1.

    Raises
    ------
    UsageError
        There is no such runtime, it does not have the precision, or the options exclude each other.
    """

    runtime: str = TORCH
    device: str = "auto"
    precision: PrecisionChoice = "auto"
    threads: int | None = None
    depth: Depth = "full"
    tile: int | None = None
    patches: Patches | None = None
    self_ensemble: bool = False
    range: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.runtime)
        if self.runtime != AUTO:
            get_runtime(self.runtime).check_precision(self.precision)
        if self.patches is not None and self.tile is not None:
            raise UsageError("patches (`patchwise`) are no tiles", field="tile", value=self.tile)
        if self.patches is not None and self.self_ensemble:
            raise UsageError("not with patches (`patchwise`)", field="self_ensemble")
        if self.range not in (None, 1, 255):
            raise UsageError("must be 1 or 255", field="range", value=self.range)


DEFAULTS = RunOptions()
"""The model in torch, the reference."""
