"""``srq bench``: one picture, enlarged in every runtime and precision, timed in turns."""

import math
import re
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
from sr_quant_cli.modelfiles.loading import load, name_of
from sr_quant_cli.modelfiles.named import (
    Named,
    Source,
    embedded_model,
    full_precision_model,
    identify,
)
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import fold_exactly, linear_chain
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.quant.cost import bitops
from sr_quant_cli.runtimes.base import Kernels, Pixels, Runtime
from sr_quant_cli.runtimes.registry import RuntimeEntry, graph_runtimes
from sr_quant_cli.runtimes.torch import TorchRuntime
from sr_quant_cli.system.choices import Depth, Precision, PrecisionChoice
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
    size
        ``WIDTHxHEIGHT`` of the LR picture.
    runs
        Timed runs of each variant.
    scale
        Scale that the models must have; None: any, of the embedded ones 4.
    """

    models: tuple[Named, ...] = ()
    size: str = "320x180"
    runs: int = 7
    threads: int | None = None
    depth: Depth = "full"
    scale: int | None = None

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height.

        Raises
        ------
        UsageError
            ``size`` is no size, or too large.
        """
        sides = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", self.size)
        if sides is None:
            problem = "must be WIDTHxHEIGHT in LR pixels, as 320x180"
            raise UsageError(problem, field="size", value=self.size)
        width, height = map(int, sides.groups())
        if width * height > MOST_PIXELS:
            problem = f"must be at most {MOST_PIXELS:,} pixels"
            raise UsageError(problem, field="size", value=self.size)
        return width, height


@dataclass(frozen=True)
class BenchVariant:
    """One way to run a model: its name in tables, and the call that makes it ready."""

    model: str
    label: str
    open: Callable[[], Runtime]
    bitops: int
    macs: int


@dataclass(frozen=True)
class UpscaleTiming:
    """Times of one variant, and what it computes.

    Attributes
    ----------
    psnr
        dB against the output of the first variant, RGB; None: equal.
    integer_kernels, float_kernels
        Executed convolutions and matrix products.
    bitops_counted
        Bit operations of the picture.
    peak_share
        Multiply-accumulates of the picture in a second, of those that the processor can do on 8
        bits; above 1 where Winograd's algorithm needs fewer. None: not measured.
    """

    model: str
    variant: str
    times: Row
    psnr: float | None
    integer_kernels: int
    float_kernels: int
    bitops_counted: int
    peak_share: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, the times among them."""
        fields = asdict(self)
        return {**fields.pop("times"), **fields}


@dataclass(frozen=True)
class UpscaleTimings:
    """Times of all variants; the first one is the reference.

    Attributes
    ----------
    width, height
        LR pixels.
    machine
        Properties of the machine that times depend on.
    """

    rows: tuple[UpscaleTiming, ...]
    width: int
    height: int
    scale: int
    machine: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Report: ``rows``, ``work`` and ``machine``."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "work": {"width": self.width, "height": self.height, "scale": self.scale},
            "machine": self.machine,
        }


def bench_upscale(request: BenchRequest) -> UpscaleTimings:
    """Enlarge a picture in every runtime and precision, and time it.

    The first row is the first model in torch, in float32 and NCHW, as the papers' code runs it.

    Raises
    ------
    UsageError
        A model or the size is not usable.
    """
    width, height = request.sides
    scale = request.scale or 4
    models = request.models or (full_precision_model(scale), embedded_model(scale))
    sources = [identify(model, request.scale) for model in models]
    set_threads(request.threads)
    lr = bench_picture(width, height)
    with TemporaryDirectory() as folder:
        ready, runtimes, outputs = [], [], []
        for source in sources:
            for variant in _variants(source, request, Path(folder)):
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
            Variant(str(index), _forever(runtime, lr))
            for index, runtime in enumerate(runtimes)
        ]
        times = compare(time_in_turns(steps, request.runs, _CPU, warm_up=1))
    peaks = [runtime.peak() for runtime in runtimes]
    rows = [
        _row(variant, timed, rgb_psnr(outputs[0], output), counted, peak)
        for variant, timed, output, counted, peak in zip(
            ready, times, outputs, kernels, peaks, strict=True
        )
    ]
    return UpscaleTimings(tuple(rows), width, height, outputs[0].shape[1] // width, machine(_CPU))


def bench_picture(width: int, height: int) -> Pixels:
    """A real picture of any size, mirrored at its edges where it is too small."""
    whole = data.coffee()
    below, beside = max(0, height - len(whole)), max(0, width - whole.shape[1])
    padded = np.pad(whole, ((0, below), (0, beside), (0, 0)), "symmetric")
    return np.ascontiguousarray(padded[:height, :width])


def _row(
    variant: BenchVariant, times: Row, psnr: float, kernels: Kernels, peak: float | None
) -> UpscaleTiming:
    return UpscaleTiming(
        model=variant.model,
        variant=variant.label,
        times=times,
        psnr=None if math.isinf(psnr) else psnr,
        integer_kernels=kernels.integer,
        float_kernels=kernels.floating,
        bitops_counted=variant.bitops,
        peak_share=variant.macs / times.minimum / peak if peak else None,
    )


def _variants(source: Source, request: BenchRequest, folder: Path) -> Iterator[BenchVariant]:
    network, header = load(source, request.depth)
    name = name_of(source, header, request.depth)
    width, height = request.sides
    operations = count_operations(network, height, width)
    macs = sum(operation.macs for operation in operations)
    precisions: list[Precision] = ["fp32", "bf16"] if has_fast_bf16(_CPU) else ["fp32"]

    def variant(label: str, open_: Callable[[], Runtime]) -> BenchVariant:
        return BenchVariant(name, label, open_, bitops(operations), macs)

    def graph(runtime: RuntimeEntry, precision: PrecisionChoice, *, folded: bool) -> Runtime:
        file = folder / f"{abs(hash(source.path))}-{folded}.onnx"
        if not file.exists():
            made = deploy(network, name, "uint8", folded=folded, full_range=has_vnni())
            save_graph(made.model, file)
        return runtime.open(file, request.threads, precision)

    if network.quantization is not None:
        yield variant("torch fp32, simulated", partial(TorchRuntime, network, _CPU))
        for runtime in graph_runtimes():
            yield variant(f"{runtime.name} int8", partial(graph, runtime, "auto", folded=True))
        return
    yield variant("torch fp32, NCHW", partial(_torch, network, "fp32", folded=False, layout=_NCHW))
    forms = [(False, ""), (True, ", folded")] if linear_chain(network) else [(False, "")]
    for folded, suffix in forms:
        for p in precisions:
            yield variant(f"torch {p}{suffix}", partial(_torch, network, p, folded=folded))
    for folded, suffix in forms:
        for runtime in graph_runtimes():  # a partial one has integers alone
            for p in precisions:
                if runtime.offers(p) and not runtime.partial:
                    opened = partial(graph, runtime, p, folded=folded)
                    yield variant(f"{runtime.name} {p}{suffix}", opened)


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
