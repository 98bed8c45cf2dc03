"""Ways to open a model, and the memory that each needs in a process of its own.

The process that is measured imports this module, and beyond it only what the runtime needs.
"""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sr_quant_cli.errors import SrqError
from sr_quant_cli.runtimes.registry import get_runtime
from sr_quant_cli.system.choices import Depth, Precision, PrecisionChoice

if TYPE_CHECKING:
    from sr_quant_cli.modelfiles.modelfile import Header
    from sr_quant_cli.modelfiles.named import Source
    from sr_quant_cli.networks.base import Network
    from sr_quant_cli.runtimes.base import Pixels, Runtime

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class GraphOpener:
    """Opens a graph file."""

    runtime: str
    file: Path
    threads: int | None
    precision: PrecisionChoice

    def __call__(self) -> "Runtime":
        """Open it."""
        return get_runtime(self.runtime).open(self.file, self.threads, self.precision)


@cache
def loaded(source: "Source", depth: Depth) -> "tuple[Network, Header]":
    """Load a model once for all of its variants; none of them changes it."""
    from sr_quant_cli.modelfiles.loading import load

    return load(source, depth)


@dataclass(frozen=True)
class TorchOpener:
    """Opens a model in torch, in the given layout of memory."""

    source: "Source"
    depth: Depth
    threads: int | None
    precision: Precision = "fp32"
    folded: bool = False
    layout: Literal["NCHW", "NHWC"] = "NHWC"

    def __call__(self) -> "Runtime":
        """Load and open it."""
        import torch

        from sr_quant_cli.networks.folding import fold_exactly
        from sr_quant_cli.runtimes.torch import TorchRuntime
        from sr_quant_cli.system.device import set_threads

        set_threads(self.threads)
        network, _ = loaded(self.source, self.depth)
        network = fold_exactly(network) if self.folded else deepcopy(network)
        layout = torch.contiguous_format if self.layout == "NCHW" else torch.channels_last
        return TorchRuntime(network, torch.device("cpu"), self.precision, layout)


def peak_memory(open_: "Callable[[], Runtime]", lr: "Pixels") -> int | None:
    """Measure the largest memory of a new process that opens a model and enlarges a picture.

    It includes Python and all that the runtime loads.

    Parameters
    ----------
    open_
        Opens the model; it must be possible to pickle it.
    lr
        uint8 ``[h, w, 3]``.

    Returns
    -------
    int | None
        Bytes; None: the process failed, or the platform does not tell.
    """
    # A fresh interpreter: a forked one would begin with the memory of this one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, open_, lr).result()
        except (SrqError, BrokenProcessPool):
            return None


def _measure(open_: "Callable[[], Runtime]", lr: "Pixels") -> int | None:
    open_()(lr)
    if _STATUS.exists():  # Linux, whose getrusage includes the memory of the parent
        status = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return 1024 * int(status["VmHWM"].split()[0])
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None
