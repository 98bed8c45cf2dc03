"""A runtime that is registered from outside: ONNX Runtime by another name."""

from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime
from sr_quant_cli.runtimes.registry import RuntimeEntry


class ToyRuntime(OnnxRuntime):
    """ONNX Runtime, called toy."""

    runtime = "toy"


ENTRY = RuntimeEntry(
    name="toy",
    factory="tests.runtimes.toy:ToyRuntime",
    package="onnxruntime",
    suffixes=(".toy", ".onnx"),
    races=True,
)
