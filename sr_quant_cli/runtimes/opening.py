"""Opening graph files in the runtime of one's choice."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sr_quant_cli.errors import UsageError
from sr_quant_cli.runtimes.base import GraphRuntime, RuntimeName
from sr_quant_cli.system.processes import thread_limit

Precision = Literal["auto", "fp32", "bf16"]


def open_file(
    name: RuntimeName,
    path: Path,
    threads: int | None,
    precision: Precision,
    cache: Path | None = None,
) -> GraphRuntime:
    """Load a graph file in a runtime.

    Raises
    ------
    UsageError
        The file is not usable, or the runtime is not installed or has no such precision.
    """
    if not find_spec(name):
        raise UsageError(f"--runtime {name}: it is not installed; 'pip install {name}' does")
    if name == "onnxruntime":
        from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime

        check_precision(precision)
        if path.suffix.lower() != ".onnx":
            raise UsageError(f"--runtime onnxruntime: takes .onnx files, not {path}")
        return OnnxRuntime(path, thread_limit(threads))
    from sr_quant_cli.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(path, thread_limit(threads), precision, cache)


def check_precision(precision: Precision) -> None:
    """Refuse what ONNX Runtime does not have.

    Raises
    ------
    UsageError
        With what it has.
    """
    if precision == "bf16":
        raise UsageError("--precision bf16: onnxruntime has none; allowed are auto and fp32")
