"""ONNX files in ONNX Runtime, on the CPU."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from sr_quant_cli.runtimes.base import PROBE, GraphRuntime, Kernels, Pixels
from sr_quant_cli.system.choices import Precision

_INTEGER = {
    "QLinearConv",
    "ConvInteger",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
}
_FLOAT = {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
}


@dataclass(frozen=True)
class NodeTime:
    """Executed node: its operator, its name and seconds."""

    kind: str
    name: str
    seconds: float


class OnnxRuntime(GraphRuntime):
    """An ONNX file in ONNX Runtime, with one picture as its input.

    Parameters
    ----------
    threads
        None: one for each core.

    Raises
    ------
    UsageError
        The file is missing or damaged, or its input is not one picture.
    """

    runtime = "onnxruntime"
    precision: Precision = "fp32"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(path, threads)
        self._session = self._open(onnxruntime.SessionOptions())
        inputs = self._session.get_inputs()
        self.check(
            [
                (
                    _TYPES.get(i.type, i.type),
                    [size if isinstance(size, int) else None for size in i.shape],
                )
                for i in inputs
            ],
            [output.name for output in self._session.get_outputs()],
        )
        self._input = inputs[0].name

    def run(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the graph on an input of its form, and return all its outputs."""
        return self._run(self._session, batch)

    def kernels(self) -> Kernels:
        """Count the kernels in the profile of a small picture."""
        executed = self.profile(PROBE)
        floats = tuple(node.name for node in executed if node.kind in _FLOAT)
        integers = sum(node.kind in _INTEGER for node in executed)
        return Kernels(integers, len(floats), floats)

    def profile(self, lr: Pixels, runs: int = 1) -> list[NodeTime]:
        """Time the nodes of the graph as it is executed, in their order.

        Parameters
        ----------
        lr
            uint8 ``[h, w, 3]``.
        runs
            Number of runs, of which the fastest counts for each node; the first one allocates
            memory.
        """
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._open(options)
            for _ in range(runs):
                self._run(session, self.to_batch(lr))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        executed: dict[str, NodeTime] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                seconds = event["dur"] / 1e6
                if name in executed:
                    seconds = min(seconds, executed[name].seconds)
                executed[name] = NodeTime(event["args"]["op_name"], name, seconds)
        return list(executed.values())

    def _open(self, options: Any) -> Any:
        options.intra_op_num_threads = self._threads or 0
        options.log_severity_level = 4  # errors that it logs are raised, too
        # Otherwise its idle threads keep spinning at full load beside whatever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers = ["CPUExecutionProvider"]
        try:
            return onnxruntime.InferenceSession(self.path, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise self.unreadable(error) from error

    def _run(self, session: Any, batch: NDArray[Any]) -> list[NDArray[Any]]:
        try:
            outputs: list[NDArray[Any]] = session.run(None, {self._input: batch})
        except Exception as error:  # as above
            raise self.refused(batch, error) from error
        return outputs
