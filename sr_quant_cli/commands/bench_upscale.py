"""``srq bench``: one picture enlarged by every runtime, timed in turns."""

import math
from collections.abc import Callable, Generator, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from skimage import data

from sr_quant_cli.errors import UsageError
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import save_graph
from sr_quant_cli.metrics import rgb_psnr
from sr_quant_cli.modelfiles.named import load_at_depth, name_of
from sr_quant_cli.networks.base import Depth, Network
from sr_quant_cli.networks.folding import fold_exactly, linear_chain
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.quant.cost import bitops
from sr_quant_cli.runtimes.base import Kernels, Pixels, Runtime, RuntimeName
from sr_quant_cli.runtimes.opening import open_file
from sr_quant_cli.runtimes.torch import TorchRuntime
from sr_quant_cli.system.device import Precision, PrecisionChoice, has_fast_bf16, set_threads
from sr_quant_cli.system.processor import has_vnni
from sr_quant_cli.system.reporting import warn
from sr_quant_cli.system.timing import Variant, compare, machine, time_in_turns

_CPU = torch.device("cpu")
_GRAPHS: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class BenchRequest:
    """What ``srq bench`` was asked for.

    Parameters
    ----------
    models
        srq model files; the first is the reference of times and of PSNR.
    size
        Width and height of the LR picture.
    runs
        Timed runs of each variant.
    scale
        That the models must enlarge by; None: by any.
    """

    models: tuple[Path, ...]
    size: tuple[int, int]
    runs: int
    threads: int | None
    depth: Depth
    scale: int | None = None


@dataclass(frozen=True)
class Way:
    """One way to run a model: how it is called, and what makes it ready."""

    model: str
    label: str
    open: Callable[[], Runtime]
    bitops: int


def bench_upscale(request: BenchRequest) -> dict[str, Any]:
    """Enlarge a picture in every way there is, and time it.

    The first row is the first model in torch, in float32 and NCHW, as the papers' code runs it.

    Returns
    -------
    The report that ``--json`` writes: ``rows``, ``work`` and ``machine``.

    Raises
    ------
    UsageError
        A model is not usable.
    """
    set_threads(request.threads)
    lr = bench_picture(*request.size)
    with TemporaryDirectory() as folder:
        ways, runtimes, outputs = [], [], []
        for way in (way for path in request.models for way in _ways(path, request, Path(folder))):
            try:
                runtime = way.open()
                outputs.append(runtime(lr))
            except UsageError as error:
                warn(f"{way.label} is left out here: {error}")
                continue
            ways.append(way)
            runtimes.append(runtime)
        kernels = [runtime.kernels() for runtime in runtimes]
        variants = [
            # Not by name: two models may have the same.
            Variant(str(index), _forever(runtime, lr))
            for index, runtime in enumerate(runtimes)
        ]
        times = time_in_turns(variants, request.runs, _CPU, warm_up=1)
    rows = [
        _row(way, timed, rgb_psnr(outputs[0], output), counted)
        for way, timed, output, counted in zip(ways, compare(times), outputs, kernels, strict=True)
    ]
    width, height = request.size
    work = {"width": width, "height": height, "scale": outputs[0].shape[1] // width}
    return {"rows": rows, "work": work, "machine": machine(_CPU)}


def bench_picture(width: int, height: int) -> Pixels:
    """A real picture of any size, mirrored at its edges where it is too small."""
    whole = data.coffee()
    below, beside = max(0, height - len(whole)), max(0, width - whole.shape[1])
    padded = np.pad(whole, ((0, below), (0, beside), (0, 0)), "symmetric")
    return np.ascontiguousarray(padded[:height, :width])


def _row(way: Way, timed: Any, psnr: float, kernels: Kernels) -> dict[str, Any]:
    return {
        **asdict(timed),
        "variant": way.label,
        "model": way.model,
        "psnr": None if math.isinf(psnr) else psnr,
        "integer_kernels": kernels.integer,
        "float_kernels": kernels.floating,
        "bitops_counted": way.bitops,
    }


def _ways(path: Path, request: BenchRequest, folder: Path) -> Iterator[Way]:
    network, header = load_at_depth(path, request.depth, request.scale)
    name = name_of(path, header, request.depth)
    width, height = request.size
    counted = bitops(count_operations(network, height, width))
    bf16: list[Precision] = ["bf16"] if has_fast_bf16(_CPU) else []

    def way(label: str, open_: Callable[[], Runtime]) -> Way:
        return Way(name, label, open_, counted)

    def graph(runtime: RuntimeName, precision: PrecisionChoice, *, folded: bool) -> Runtime:
        file = folder / f"{abs(hash(path))}-{folded}.onnx"
        if not file.exists():
            made = deploy(network, name, "uint8", folded=folded, full_range=has_vnni())
            save_graph(made.model, file)
        return open_file(runtime, file, request.threads, precision)

    if network.quantization is not None:
        yield way("torch fp32, simulated", partial(TorchRuntime, network, _CPU))
        for runtime in _GRAPHS:
            yield way(f"{runtime} int8", partial(graph, runtime, "auto", folded=True))
        return
    yield way("torch fp32, NCHW", partial(_torch, network, "fp32", folded=False, layout=_NCHW))
    precisions: list[Precision] = ["fp32", *bf16]
    yield from (way(f"torch {p}", partial(_torch, network, p, folded=False)) for p in precisions)
    if linear_chain(network):
        yield from (
            way(f"torch {p}, folded", partial(_torch, network, p, folded=True)) for p in precisions
        )
    for folded in (False, True) if linear_chain(network) else (False,):
        suffix = ", folded" if folded else ""
        yield way(f"onnxruntime fp32{suffix}", partial(graph, "onnxruntime", "fp32", folded=folded))
        for p in precisions:
            yield way(f"openvino {p}{suffix}", partial(graph, "openvino", p, folded=folded))


_NCHW = torch.contiguous_format


def _torch(
    network: Network,
    precision: Precision,
    *,
    folded: bool,
    layout: torch.memory_format = torch.channels_last,
) -> Runtime:
    own = fold_exactly(network) if folded else deepcopy(network)
    return TorchRuntime(own, _CPU, precision, layout)


def _forever(runtime: Runtime, lr: Pixels) -> Callable[[], Generator[None, None, None]]:
    def steps() -> Generator[None, None, None]:
        while True:
            runtime(lr)
            yield

    return steps
