"""Runtimes that execute a network, behind one interface.

A runtime is a class derived from ``GraphRuntime`` (``base.py``) and one ``register`` below. Its
module is imported when the runtime is first used: ``srq --help`` imports none, and upscaling with a
prepared graph does without torch.

Importing this package turns off the telemetry of ONNX Runtime and OpenVINO, which would keep an
identifier and events in the home folder, and send them.
"""

import os
import sys

from sr_quant_cli.runtimes.registry import RuntimeEntry, register

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO does without the package where it is not installed, which None stands for.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# In order of preference.
register(
    RuntimeEntry(
        name="torch",
        factory="sr_quant_cli.runtimes.torch:TorchRuntime",
        package="torch",
        precisions=("fp32", "bf16"),
    )
)
register(
    RuntimeEntry(
        name="srq",
        factory="sr_quant_cli.runtimes.srq:KernelRuntime",
        package="onnx",
        condition="sr_quant_cli.kernels.library:missing",
        suffixes=(".onnx",),
        partial=True,
        races=True,
    )
)
register(
    RuntimeEntry(
        name="openvino",
        factory="sr_quant_cli.runtimes.openvino:OpenVinoRuntime",
        package="openvino",
        suffixes=(".xml", ".onnx"),
        beside=(".bin",),
        format="openvino",
        precisions=("fp32", "bf16"),
        races=True,
    )
)
register(
    RuntimeEntry(
        name="onnxruntime",
        factory="sr_quant_cli.runtimes.onnxruntime:OnnxRuntime",
        package="onnxruntime",
        suffixes=(".onnx",),
        format="onnx",
        races=True,
    )
)
