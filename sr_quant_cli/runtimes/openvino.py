"""ONNX files, and OpenVINO's own, in OpenVINO on the CPU."""

from pathlib import Path
from typing import ClassVar, Literal

import openvino

from sr_quant_cli.runtimes.base import PROBE, GraphRuntime, Kernels, Pixels, RuntimeName

_PRODUCTS = {
    "Convolution",
    "GroupConvolution",
    "Deconvolution",
    "GroupDeconvolution",
    "MatMul",
    "FullyConnected",
}
_INTEGER = ("_I8", "_U8", "_i8", "_u8")
_TYPES = {"f32": "float32", "u8": "uint8"}
_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime(GraphRuntime):
    """A graph with one picture as its input.

    Parameters
    ----------
    path
        ``.onnx``, or ``.xml`` with its ``.bin`` beside it.
    threads
        None: one for each core.
    precision
        Of what is not on integers; auto: OpenVINO's own choice, bf16 where the processor has it.
    cache
        Folder of compiled graphs; None: compile anew.

    Raises
    ------
    UsageError
        The file is missing, damaged, or no such network.
    """

    runtime: ClassVar[RuntimeName] = "openvino"

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        cache: Path | None = None,
    ) -> None:
        super().__init__(path)
        self._options = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = str(threads)
        if precision != "auto":
            self._options["INFERENCE_PRECISION_HINT"] = _HINTS[precision]
        self._core = openvino.Core()
        if cache is not None:
            self._core.set_property({"CACHE_DIR": str(cache)})
        try:
            self._model = self._core.read_model(path)
            inputs = self._model.inputs
            types = [source.get_element_type().get_type_name() for source in inputs]
            self.check(
                [_TYPES.get(name, name) for name in types],
                [len(source.get_partial_shape()) for source in inputs],
                ["bits" if "bits" in target.names else "" for target in self._model.outputs],
            )
            self._compiled = self._core.compile_model(self._model, "CPU", self._options)
        except (RuntimeError, ValueError) as error:
            raise self.unreadable(error) from error
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = "bf16" if used == "bf16" else "fp32"

    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        try:
            outputs = [*self._compiled([self.to_batch(lr)]).values()]
        except RuntimeError as error:
            raise self.refused(lr, error) from error
        if not outputs[0].size:  # where it could make no kernel of bf16, and says nothing
            raise self.refused(
                lr, RuntimeError(f"OpenVINO computes nothing in {self.precision}, maybe in fp32")
            )
        return self.to_pixels(outputs)

    def kernels(self) -> Kernels:
        """Read off the counters of a picture which kernels it took."""
        options = {**self._options, "PERF_COUNT": "YES"}
        request = self._core.compile_model(self._model, "CPU", options).create_infer_request()
        request.infer([self.to_batch(PROBE)])
        executed = [
            (info.exec_type, info.node_name)
            for info in request.profiling_info
            if info.node_type in _PRODUCTS and info.status == openvino.ProfilingInfo.Status.EXECUTED
        ]
        floats = tuple(name for kind, name in executed if not kind.endswith(_INTEGER))
        return Kernels(len(executed) - len(floats), len(floats), floats)
