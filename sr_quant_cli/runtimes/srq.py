"""ONNX files with integer convolutions on srq's own kernels."""

from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Self

from sr_quant_cli.errors import FailedError, UnsupportedGraphError
from sr_quant_cli.kernels.build import FOLDER
from sr_quant_cli.kernels.program import Program
from sr_quant_cli.kernels.program_file import load_program, save_program
from sr_quant_cli.runtimes.program import ProgramRuntime
from sr_quant_cli.system.cached import claim, mark_used, prune, trusted
from sr_quant_cli.system.choices import PrecisionChoice
from sr_quant_cli.system.files import cache_dir


class KernelRuntime(ProgramRuntime):
    """An ONNX file that is on integers throughout, from 8-bit pictures to 8-bit pictures.

    Parameters
    ----------
    threads
        None: one for each core.
    kept
        Folder for the program that is made of the graph; None: one in the cache of srq. A folder
        that cannot be written is only read.

    Raises
    ------
    UsageError
        The file is missing or damaged.
    UnsupportedGraphError
        It has operations that the kernels do not have.
    """

    @classmethod
    def open(
        cls, path: Path, threads: int | None, precision: PrecisionChoice, cache: Path | None
    ) -> Self:
        """Load a graph file."""
        return cls(path, threads, cache)

    def __init__(self, path: Path, threads: int | None = None, kept: Path | None = None) -> None:
        self._kept = cache_dir() / "programs" if kept is None else kept
        super().__init__(path, self._find, threads)

    def _find(self) -> Program:
        """Take the program of the graph from the cache, or make it."""
        key = sha256(_compiler() + self.path.read_bytes()).hexdigest()[:20]
        file = self._kept / f"{key}.program"
        program = load_program(file) if trusted(file) and trusted(self._kept) else None
        if program is None:
            program = self._compile()
            with suppress(FailedError, OSError):
                if claim(self._kept):
                    save_program(file, program)
                    prune(self._kept)
        else:
            mark_used(file)
        return program

    def _compile(self) -> Program:
        import onnx  # slow to import

        from sr_quant_cli.kernels.from_graph import UnsupportedError, compile_graph

        try:
            model = onnx.load(self.path)
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
            return compile_graph(model)
        except UnsupportedError as error:
            message = f"{self.path} does not run on the kernels of srq: {error}"
            raise UnsupportedGraphError(message) from error


@cache
def _compiler() -> bytes:
    """Hash of the code that makes programs of graphs."""
    code = sha256()
    for file in sorted(FOLDER.glob("*.py")):
        code.update(file.read_bytes())
    return code.digest()
