"""ONNX files with integer convolutions on srq's own kernels."""

from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from sr_quant_cli.errors import UnsupportedGraphError
from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.from_graph import UnsupportedError, compile_graph
from sr_quant_cli.kernels.program import Convolution
from sr_quant_cli.runtimes.base import GraphRuntime, Kernels
from sr_quant_cli.system.choices import Precision
from sr_quant_cli.system.processes import cores


class KernelRuntime(GraphRuntime):
    """An ONNX file that is on integers throughout, from 8-bit pictures to 8-bit pictures.

    Parameters
    ----------
    threads
        None: one for each core.

    Raises
    ------
    UsageError
        The file is missing or damaged.
    UnsupportedGraphError
        It has operations that the kernels do not have.
    """

    runtime = "srq"
    precision: Precision = "fp32"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(path, threads)
        try:
            model = onnx.load(path)
        except Exception as error:  # protobuf's errors are of several kinds
            raise self.unreadable(error) from error
        tensor = onnx.helper.tensor_dtype_to_np_dtype
        self.check(
            [
                (
                    tensor(given.type.tensor_type.elem_type).name,
                    [size.dim_value or None for size in given.type.tensor_type.shape.dim],
                )
                for given in model.graph.input
            ],
            [output.name for output in model.graph.output],
        )
        try:
            self._program = compile_graph(model)
        except UnsupportedError as error:
            message = f"{path} does not run on the kernels of srq: {error}"
            raise UnsupportedGraphError(message) from error
        self._executor = Executor(self._program, threads or cores())

    def run(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the program on a picture, uint8 ``[1, h, w, 3]``."""
        try:
            return [self._executor(batch[0])[None]]
        except MemoryError as error:
            raise self.refused(batch, error) from error

    def kernels(self) -> Kernels:
        """Count the convolutions, all of which run on integers."""
        return Kernels(sum(isinstance(step, Convolution) for step in self._program.steps), 0)
