"""``srq bench``: pictures enlarged in every runtime and precision, timed in turns."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from skimage import data

from sr_quant_cli.commands.bench_memory import GraphOpener, TorchOpener, loaded, peak_memory
from sr_quant_cli.errors import UsageError
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import save_graph
from sr_quant_cli.metrics import rgb_psnr
from sr_quant_cli.modelfiles.loading import name_of
from sr_quant_cli.modelfiles.named import (
    Named,
    Source,
    embedded_model,
    full_precision_model,
    identify,
)
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import linear_chain
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.quant.cost import Operation, bitops
from sr_quant_cli.runtimes.base import Pixels, Runtime
from sr_quant_cli.runtimes.registry import RuntimeEntry, graph_runtimes
from sr_quant_cli.system.choices import Depth, Precision
from sr_quant_cli.system.device import has_fast_bf16, set_threads
from sr_quant_cli.system.processor import has_vnni
from sr_quant_cli.system.reporting import warn
from sr_quant_cli.system.timing import Row, Variant, compare, machine, time_in_turns

_CPU = torch.device("cpu")

MOST_PIXELS = 2048 * 2048
"""LR pixels of the largest picture, which is enlarged whole"""


@dataclass(frozen=True)
class BenchRequest:
    """Request for ``bench_upscale``.

    Attributes
    ----------
    models
        What ``identify`` finds models by; the first is the reference of times and of PSNR. Empty:
        the embedded models, in full precision and quantized.
    sizes
        ``WIDTHxHEIGHT`` of LR pictures.
    runs
        Timed runs of each variant.
    threads
        Numbers of CPU threads; empty: one for each core.
    memory
        Measure the memory of each variant, too.
    scale
        Scale that the models must have; None: any, of the embedded ones 4.
    """

    models: tuple[Named, ...] = ()
    sizes: tuple[str, ...] = ("320x180",)
    runs: int = 7
    threads: tuple[int, ...] = ()
    memory: bool = False
    depth: Depth = "full"
    scale: int | None = None


def parse_size(size: str) -> tuple[int, int]:
    """Read ``WIDTHxHEIGHT``.

    Raises
    ------
    UsageError
        It is no size, or too large.
    """
    sides = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", size)
    if sides is None:
        problem = "must be WIDTHxHEIGHT in LR pixels, as 320x180"
        raise UsageError(problem, field="size", value=size)
    width, height = map(int, sides.groups())
    if width * height > MOST_PIXELS:
        raise UsageError(f"must be at most {MOST_PIXELS:,} pixels", field="size", value=size)
    return width, height


@dataclass(frozen=True)
class BenchVariant:
    """One way to run a model: its name in tables, and the call that makes it ready.

    ``open`` is given to other processes, so it must be possible to pickle it.
    """

    model: str
    label: str
    open: Callable[[], Runtime]
    network: Network

    def operations(self, width: int, height: int) -> list[Operation]:
        """Count the operations on an LR picture."""
        return count_operations(self.network, height, width)


@dataclass(frozen=True)
class UpscaleTiming:
    """Times of one variant on one picture, and what it computes.

    Attributes
    ----------
    width, height
        LR pixels.
    psnr
        dB against the output of the first variant, RGB; None: equal.
    integer_kernels, float_kernels
        Executed convolutions and matrix products.
    bitops_counted
        Bit operations of the picture.
    peak_share
        Multiply-accumulates of the picture in a second, of those that the processor can do on 8
        bits; above 1 where Winograd's algorithm needs fewer. None: not measured.
    memory
        Largest memory in bytes of a process that opens the model and enlarges the picture; None:
        not measured.
    """

    model: str
    variant: str
    width: int
    height: int
    threads: int
    times: Row
    psnr: float | None
    integer_kernels: int
    float_kernels: int
    bitops_counted: int
    peak_share: float | None
    memory: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, the times among them."""
        fields = asdict(self)
        return {**fields.pop("times"), "p95": self.times.p95, **fields}


@dataclass(frozen=True)
class UpscaleTimings:
    """Times of all variants. The first one on each picture and number of threads is its reference.

    Attributes
    ----------
    machine
        Properties of the machine that times depend on.
    """

    rows: tuple[UpscaleTiming, ...]
    scale: int
    machine: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Report: ``rows``, ``scale`` and ``machine``."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "scale": self.scale,
            "machine": self.machine,
        }

    def to_csv(self) -> tuple[list[str], list[list[object]]]:
        """Headings and rows; times are in milliseconds."""
        headings = [
            *("model", "variant", "width", "height", "threads", "median_ms", "minimum_ms"),
            *("p95_ms", "speedup", "psnr", "integer_kernels", "float_kernels", "bitops_counted"),
            *("peak_share", "memory_bytes"),
        ]
        rows: list[list[object]] = [
            [
                *(row.model, row.variant, row.width, row.height, row.threads),
                *(round(1000 * t, 2) for t in (row.times.median, row.times.minimum, row.times.p95)),
                *(round(row.times.speedup, 3), row.psnr, row.integer_kernels, row.float_kernels),
                *(row.bitops_counted, row.peak_share, row.memory),
            ]
            for row in self.rows
        ]
        return headings, rows


def bench_upscale(request: BenchRequest) -> UpscaleTimings:
    """Enlarge pictures in every runtime and precision, and time it.

    The first row is the first model in torch, in float32 and NCHW, as the papers' code runs it.

    Raises
    ------
    UsageError
        A model or a size is not usable.
    """
    sizes = [parse_size(size) for size in request.sizes]
    loaded.cache_clear()  # a file may have changed since
    scale = request.scale or 4
    models = request.models or (full_precision_model(scale), embedded_model(scale))
    sources = [identify(model, request.scale) for model in models]
    rows: list[UpscaleTiming] = []
    with TemporaryDirectory() as folder:
        for threads in request.threads or (None,):
            set_threads(threads)
            variants = [
                variant
                for source in sources
                for variant in _variants(source, request.depth, threads, Path(folder))
            ]
            for width, height in sizes:
                rows += _time(variants, bench_picture(width, height), request)
    return UpscaleTimings(tuple(rows), variants[0].network.scale, machine(_CPU))


def _time(
    variants: Sequence[BenchVariant], lr: Pixels, request: BenchRequest
) -> list[UpscaleTiming]:
    """Time the enlargement of one picture by all variants that can be opened."""
    height, width = lr.shape[:2]
    ready, runtimes, outputs = [], [], []
    for variant in variants:
        try:
            runtime = variant.open()
            outputs.append(runtime(lr))
        except UsageError as error:
            warn(f"{variant.label} is left out here: {error}")
            continue
        ready.append(variant)
        runtimes.append(runtime)
    kernels = [runtime.kernels() for runtime in runtimes]
    steps = [
        # Not by name: two models may have the same.
        Variant.of_calls(str(index), partial(runtime, lr))
        for index, runtime in enumerate(runtimes)
    ]
    times = compare(time_in_turns(steps, request.runs, _CPU, warm_up=1))
    peaks = [runtime.peak() for runtime in runtimes]
    del runtimes
    rows = []
    for variant, timed, output, counted, peak in zip(
        ready, times, outputs, kernels, peaks, strict=True
    ):
        psnr = rgb_psnr(outputs[0], output)
        operations = variant.operations(width, height)
        macs = sum(operation.macs for operation in operations)
        rows.append(
            UpscaleTiming(
                model=variant.model,
                variant=variant.label,
                width=width,
                height=height,
                threads=torch.get_num_threads(),
                times=timed,
                psnr=None if math.isinf(psnr) else psnr,
                integer_kernels=counted.integer,
                float_kernels=counted.floating,
                bitops_counted=bitops(operations),
                peak_share=macs / timed.minimum / peak if peak else None,
                memory=peak_memory(variant.open, lr) if request.memory else None,
            )
        )
    return rows


def bench_picture(width: int, height: int) -> Pixels:
    """A real picture of any size, mirrored at its edges where it is too small."""
    whole = data.coffee()
    below, beside = max(0, height - len(whole)), max(0, width - whole.shape[1])
    padded = np.pad(whole, ((0, below), (0, beside), (0, 0)), "symmetric")
    return np.ascontiguousarray(padded[:height, :width])


def _variants(
    source: Source, depth: Depth, threads: int | None, folder: Path
) -> Iterator[BenchVariant]:
    network, header = loaded(source, depth)
    name = name_of(source, header, depth)
    precisions: list[Precision] = ["fp32", "bf16"] if has_fast_bf16(_CPU) else ["fp32"]
    in_torch = partial(TorchOpener, source, depth, threads)

    def variant(label: str, open_: Callable[[], Runtime]) -> BenchVariant:
        return BenchVariant(name, label, open_, network)

    def graphs(*, folded: bool) -> Iterator[tuple[RuntimeEntry, Path]]:
        """Make the graph, unless another number of threads has made it, for each runtime."""
        file = folder / f"{abs(hash(source.path))}-{folded}.onnx"
        if not file.exists():
            try:
                made = deploy(network, name, "uint8", folded=folded, full_range=has_vnni())
            except UsageError as error:
                warn(f"graphs of {name} are left out here: {error}")
                return
            save_graph(made.model, file)
        for runtime in graph_runtimes():
            yield runtime, file

    if network.quantization is not None:
        yield variant("torch fp32, simulated", in_torch())
        for runtime, file in graphs(folded=True):
            yield variant(f"{runtime.name} int8", GraphOpener(runtime.name, file, threads, "auto"))
        return
    yield variant("torch fp32, NCHW", in_torch(layout="NCHW"))
    forms = [(False, ""), (True, ", folded")] if linear_chain(network) else [(False, "")]
    for folded, suffix in forms:
        for p in precisions:
            yield variant(f"torch {p}{suffix}", in_torch(p, folded=folded))
    for folded, suffix in forms:
        for runtime, file in graphs(folded=folded):  # a partial one has integers alone
            for p in precisions:
                if runtime.offers(p) and not runtime.partial:
                    opened = GraphOpener(runtime.name, file, threads, p)
                    yield variant(f"{runtime.name} {p}{suffix}", opened)
