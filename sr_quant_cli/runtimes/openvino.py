"""ONNX files, and OpenVINO's own, in OpenVINO on the CPU."""

from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import openvino

from sr_quant_cli.errors import FailedError
from sr_quant_cli.runtimes.base import PROBE, GraphRuntime, Kernels, Pixels, RuntimeName
from sr_quant_cli.system.files import replacing

_PRODUCTS = {
    "Convolution",
    "GroupConvolution",
    "Deconvolution",
    "GroupDeconvolution",
    "MatMul",
    "FullyConnected",
}
_INTEGER = ("_I8", "_U8", "_i8", "_u8")
_TYPES = {"f32": "float32", "f16": "float16", "u8": "uint8"}
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
        Folder to keep what was compiled of an ``.onnx`` file; None: compile anew. One that cannot
        be written is only read.

    Raises
    ------
    UsageError
        The file is missing, damaged, or no such network.
    FailedError
        There is not enough memory.
    """

    runtime: RuntimeName = "openvino"

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
        try:
            kept = cache and cache / f"{threads or 'all'}-{precision}.openvino"
            self._compiled = self._compile() if kept is None else self._compile_once(kept)
            self.check(
                [
                    (
                        _TYPES.get(kind, kind),
                        [n.get_length() if n.is_static else None for n in shape],
                    )
                    for kind, shape in (
                        (source.get_element_type().get_type_name(), source.get_partial_shape())
                        for source in self._compiled.inputs
                    )
                ],
                ["bits" if "bits" in target.names else "" for target in self._compiled.outputs],
            )
        except (RuntimeError, ValueError, MemoryError) as error:
            raise self.unreadable(error) from error
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = "bf16" if used == "bf16" else "fp32"

    def __call__(self, lr: Pixels) -> Pixels:
        """Uint8 ``[h, w, 3]`` -> uint8 ``[sh, sw, 3]``."""
        try:
            outputs = [*self._compiled([self.to_batch(lr)]).values()]
        except RuntimeError as error:
            raise self.refused(lr, error) from error
        if not outputs[0].size:  # it does not say why
            if self.precision == "bf16":
                reason = RuntimeError("OpenVINO computes nothing in bf16, maybe in fp32")
                raise self.refused(lr, reason)
            raise FailedError(
                f"{self.path}: OpenVINO computes nothing of {lr.shape[1]}x{lr.shape[0]} pixels: "
                "they do not fit the network, or the memory"
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

    @cached_property
    def _model(self) -> Any:
        return self._core.read_model(self.path)

    def _compile(self) -> Any:
        return self._core.compile_model(self._model, "CPU", self._options)

    def _compile_once(self, kept: Path) -> Any:
        """Take what was compiled before, if it is whole and of this very graph.

        OpenVINO checks neither: a damaged file would give other pixels.
        """
        graph = self.path.read_bytes()
        with suppress(OSError, RuntimeError):  # absent, or OpenVINO is another one
            content = kept.read_bytes()
            seal, compiled = content[:_SEAL], content[_SEAL:]
            if seal == sha256(graph + compiled).digest():
                return self._core.import_model(compiled, "CPU", self._options)
        model = self._compile()
        compiled = model.export_model().getvalue()
        with suppress(FailedError), replacing(kept) as temporary:
            temporary.write_bytes(sha256(graph + compiled).digest() + compiled)
        return model


_SEAL = sha256().digest_size
