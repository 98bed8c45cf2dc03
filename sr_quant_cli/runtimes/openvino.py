"""ONNX files and OpenVINO's own IR in OpenVINO, on the CPU."""

from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import openvino
from numpy.typing import NDArray

from sr_quant_cli.errors import FailedError, OutOfMemoryError, UsageError
from sr_quant_cli.runtimes.base import PROBE, GraphRuntime, Kernels
from sr_quant_cli.system.choices import PrecisionChoice
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
    """A graph in OpenVINO, with one picture as its input.

    Parameters
    ----------
    path
        ``.onnx``, or ``.xml`` with its ``.bin`` beside it.
    threads
        None: one for each core.
    precision
        Arithmetic of everything that does not run on integers; auto: OpenVINO's own choice, bf16
        where the processor has it.
    cache
        Folder for the compiled graph; None: compile every time. A folder that cannot be written is
        only read.

    Raises
    ------
    UsageError
        The file is missing or damaged, or its input is not one picture.
    FailedError
        There is not enough memory.
    """

    runtime = "openvino"

    @classmethod
    def open(
        cls, path: Path, threads: int | None, precision: PrecisionChoice, cache: Path | None
    ) -> Self:
        """Load a graph file."""
        return cls(path, threads, precision, cache)

    @classmethod
    def write(cls, graph: bytes, path: Path, metadata: str | None) -> None:
        """Convert an ONNX graph to an ``.xml`` with its ``.bin`` beside it."""
        network = openvino.Core().read_model(graph)
        if metadata is not None:
            network.set_rt_info(metadata, "srq")
        # The weights first: an .xml never names weights that are not there.
        with replacing(path.with_suffix(".bin")) as weights, replacing(path) as xml:
            openvino.serialize(network, xml, weights)

    @classmethod
    def metadata(cls, path: Path) -> str | None:
        """Text of the entry ``srq`` of an ``.xml``; None: it has none."""
        try:
            network = openvino.Core().read_model(path)
        except RuntimeError as error:
            raise UsageError(f"{path} is no readable OpenVINO network") from error
        return str(network.get_rt_info("srq").astype(str)) if network.has_rt_info("srq") else None

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        precision: PrecisionChoice = "auto",
        cache: Path | None = None,
    ) -> None:
        super().__init__(path, threads)
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

    def run(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the graph on an input of its form, and return all its outputs."""
        try:
            outputs = [*self._compiled([batch]).values()]
        except (RuntimeError, MemoryError) as error:
            raise self.refused(batch, error) from error
        if not outputs[0].size:  # OpenVINO does not say why
            if self.precision == "bf16":
                reason = RuntimeError("OpenVINO computes nothing in bf16, maybe in fp32")
                raise self.refused(batch, reason)
            raise OutOfMemoryError(
                f"{self.path}: OpenVINO computes nothing of {self.size(batch)} pixels: "
                "they do not fit the network, or the memory"
            )
        return outputs

    def kernels(self) -> Kernels:
        """Count the kernels by the performance counters of a small picture."""
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
        """Load the compiled graph if it is intact and belongs to this very graph, else compile.

        OpenVINO checks neither: a damaged file would give other pixels.
        """
        graph = self.path.read_bytes()
        with suppress(OSError, RuntimeError):  # absent, or of another version of OpenVINO
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
