"""Programs on srq's own kernels; nothing here imports the package of another runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.library import PORTABLE, kernels, missing, peak
from sr_quant_cli.kernels.program import Convolution, Program
from sr_quant_cli.runtimes.base import GraphRuntime, Kernels, Pixels
from sr_quant_cli.system.choices import Precision
from sr_quant_cli.system.processes import cores

KERNELS = "srq"
"""registered name of the runtime of srq's own kernels"""


class ProgramRuntime(GraphRuntime):
    """A network on integers throughout, from 8-bit pictures to 8-bit pictures.

    Parameters
    ----------
    path
        File that it comes from; or a name in messages, for a program in memory.
    find
        Gives the program, once the file is known to be there.
    threads
        None: one for each core.

    Raises
    ------
    UsageError
        The kernels are not there, or not those that were asked for.
    """

    runtime = KERNELS
    precision: Precision = "fp32"

    def __init__(
        self, path: Path | str, find: Callable[[], Program], threads: int | None = None
    ) -> None:
        super().__init__(path, threads)
        self.check([("uint8", (1, None, None, 3))], ["sr"])
        self._program = find()
        self._executor = Executor(self._program, threads or cores())

    def run(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the program on a picture, uint8 ``[1, h, w, 3]``."""
        try:
            return [self._executor(batch[0])[None]]
        except MemoryError as error:
            raise self.refused(batch, error) from error

    def part(self, lr: Pixels, rows: slice, columns: slice) -> Pixels:
        """Enlarge a part of a picture, and compute no more than it needs."""
        try:
            return self._executor(lr, rows, columns)
        except MemoryError as error:
            raise self.refused(lr[None], error) from error

    def kernels(self) -> Kernels:
        """Count the convolutions, all of which run on integers."""
        return Kernels(sum(isinstance(step, Convolution) for step in self._program.steps), 0)

    def peak(self) -> float | None:
        """Measure one thread, and multiply by the threads; None: plain C."""
        if self._executor.isa == PORTABLE:
            return None
        return peak() * self._executor.threads


def fast_here() -> bool:
    """Tell if the kernels run on vectors here, so that no other runtime need be tried."""
    return not missing() and kernels()[0].name != PORTABLE
