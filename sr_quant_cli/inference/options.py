"""Options of running a model, in one value."""

import re
from typing import get_args

from sr_quant_cli.errors import UsageError, check_one_of
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.registry import AUTO, TORCH, check_choice, get_runtime
from sr_quant_cli.system.choices import DEVICES, Depth, PrecisionChoice
from sr_quant_cli.system.processes import check_threads


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
        An option has a value that it cannot have, or the options exclude each other.
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
        for field, values in _CHOICES.items():
            check_one_of(field, getattr(self, field), values)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(self.device)):
            raise UsageError(DEVICES, field="device", value=self.device)
        check_threads(self.threads)
        if self.tile is not None and not (type(self.tile) is int and self.tile >= 1):
            raise UsageError("must be a whole number from 1", field="tile", value=self.tile)
        if self.runtime != AUTO:
            get_runtime(self.runtime).check_precision(self.precision)
        if self.patches is not None and self.tile is not None:
            raise UsageError("patches (`patchwise`) are no tiles", field="tile", value=self.tile)
        if self.patches is not None and self.self_ensemble:
            raise UsageError("not with patches (`patchwise`)", field="self_ensemble")
        if self.range not in (None, 1, 255):
            raise UsageError("must be 1 or 255", field="range", value=self.range)


_CHOICES = {"precision": get_args(PrecisionChoice), "depth": get_args(Depth)}

DEFAULTS = RunOptions()
"""The model in torch, the reference."""
