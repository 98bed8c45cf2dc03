"""What runs a network: torch, ONNX Runtime or OpenVINO, behind one interface.

Each is imported only when it is used: upscaling with a prepared graph does without torch. Importing
this package keeps ONNX Runtime and OpenVINO from counting their users: they would keep an
identifier and events in the home folder, and send them.
"""

import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO does without the package where it is not installed, which None stands for.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
