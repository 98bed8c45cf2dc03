"""Report on a quantized model for deployment: quality, size and speed, and what stays float."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from sr_quant_cli.commands.bench_upscale import bench_picture
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.errors import SrqError
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import save_graph
from sr_quant_cli.lowering.spec import freeze
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.layers import MatMul
from sr_quant_cli.quant.cost import FLOAT_BITS
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul
from sr_quant_cli.recipe.schema import QuantizeRecipe
from sr_quant_cli.recipe.sites import quoted
from sr_quant_cli.runtimes.base import Pixels, Runtime
from sr_quant_cli.runtimes.registry import RuntimeEntry, get_runtime, graph_runtimes
from sr_quant_cli.system.processor import has_vnni
from sr_quant_cli.system.timing import Variant, time_in_turns
from sr_quant_cli.training.loop import validation_psnr
from sr_quant_cli.training.run_folder import VALIDATION_PROTOCOL

_CPU = torch.device("cpu")
SIDE = 128
"""LR pixels per side of the picture that is timed."""
RUNS = 3
"""Timed runs in each runtime."""
BASELINE = "onnxruntime"
"""Runtime of the network in full precision that times are compared with."""


@dataclass(frozen=True)
class RuntimeTime:
    """Milliseconds of one picture in a runtime, or the reason why it does not run there."""

    runtime: str
    network: str
    """``float`` or ``quantized``"""
    ms: float | None
    problem: str = ""


@dataclass(frozen=True)
class DeploymentReport:
    """Quality, size and speed of a quantized model beside those of the one it was made from.

    Attributes
    ----------
    protocol
        Protocol of PSNR, on central crops of ``crop_hr`` pixels of held-out photographs; 0: whole.
    psnr_before, psnr_after
        Mean PSNR in full precision and quantized, dB.
    bytes_before, bytes_after
        Sizes of the two model files.
    times
        Times of a picture of ``side`` LR pixels per side; the first one is the baseline.
    layers
        Number of layers and products.
    float_layers
        Paths of those that stay float, with the reason.
    """

    protocol: str
    photographs: int
    crop_hr: int
    psnr_before: float
    psnr_after: float
    bytes_before: int
    bytes_after: int
    side: int
    times: tuple[RuntimeTime, ...]
    layers: int
    float_layers: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        layers = [{"path": path, "reason": reason} for path, reason in self.float_layers]
        return {**asdict(self), "float_layers": layers}


def report_deployment(
    before: Network,
    after: Network,
    recipe: QuantizeRecipe,
    held_out: PairStore,
    files: tuple[Path, Path],
    threads: int | None = None,
) -> DeploymentReport:
    """Measure a quantized network and the one in full precision that it was made from.

    Parameters
    ----------
    recipe
        Recipe of the quantization; its validation says where PSNR is measured.
    files
        Model files of the two.
    threads
        Threads of the runtimes; None: one for each core.
    """

    def psnr(network: Network) -> float:
        return validation_psnr(
            network, held_out, recipe.validation.crop_hr, _CPU, recipe.degradations
        )

    return DeploymentReport(
        protocol=VALIDATION_PROTOCOL,
        photographs=len(held_out),
        crop_hr=recipe.validation.crop_hr,
        psnr_before=psnr(before),
        psnr_after=psnr(after),
        bytes_before=files[0].stat().st_size,
        bytes_after=files[1].stat().st_size,
        side=SIDE,
        times=tuple(_times(before, after, threads)),
        layers=sum(isinstance(module, _LAYERS) for module in after.modules()),
        float_layers=tuple(float_layers(after, recipe)),
    )


_FLOAT = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, MatMul)
_LAYERS = (*_FLOAT, QuantConv2d, QuantLinear, QuantMatMul)


def float_layers(network: Network, recipe: QuantizeRecipe) -> Iterator[tuple[str, str]]:
    """Layers and products of a quantized network that stay float, each with the reason."""
    assert network.quantization is not None
    plan = {entry.site.path: entry for entry in network.quantization.sites}
    obstacles = dict(freeze(network).obstacles)
    changes, placement = recipe.sites.changes(), recipe.sites.placement
    for path, module in network.named_modules():
        if not isinstance(module, _LAYERS):
            continue
        if path not in plan:
            yield path, "srq does not quantize such a layer"
            continue
        entry = plan[path]
        if path in obstacles:
            yield path, obstacles[path]
        elif FLOAT_BITS in (entry.input_bits, entry.weight_bits):
            names = [name for name in (path, entry.site.kind) if name in changes]
            key = f"sites.{quoted(names[0])} of the recipe" if names else f"placement {placement}"
            yield path, key


def _times(before: Network, after: Network, threads: int | None) -> Iterator[RuntimeTime]:
    """Time a picture in full precision in the baseline, and quantized in every runtime."""
    graphs = [(before, "float", [get_runtime(BASELINE)]), (after, "quantized", graph_runtimes())]
    return time_graphs(graphs, bench_picture(SIDE, SIDE), RUNS, threads)


def time_graphs(
    networks: Sequence[tuple[Network, str, Sequence[RuntimeEntry]]],
    lr: Pixels,
    runs: int,
    threads: int | None,
) -> Iterator[RuntimeTime]:
    """Time the graphs of networks on a picture, in turns.

    Parameters
    ----------
    networks
        Each with its name in the result and the runtimes to time it in.
    lr
        uint8 ``[h, w, 3]``.
    runs
        Timed runs of each, of which the median counts.
    threads
        Threads of the runtimes; None: one for each core.
    """
    with TemporaryDirectory() as folder:
        rows = [
            row
            for network, kind, entries in networks
            for row in _opened(network, kind, entries, Path(folder), lr, threads)
        ]
        steps = [
            Variant.of_calls(f"{name} {network}", partial(runtime, lr))
            for name, network, runtime in rows
            if isinstance(runtime, Runtime)
        ]
        times = time_in_turns(steps, runs, _CPU, warm_up=1)
    for name, network, runtime in rows:
        if isinstance(runtime, Runtime):
            ms = 1000 * median(times[f"{name} {network}"])
            yield RuntimeTime(name, network, ms)
        else:
            yield RuntimeTime(name, network, None, runtime)


def _opened(
    network: Network,
    kind: str,
    entries: Sequence[RuntimeEntry],
    folder: Path,
    lr: Pixels,
    threads: int | None,
) -> Iterator[tuple[str, str, Runtime | str]]:
    """Make the graph of a network, and run it in runtimes once; errors take the place of these."""
    path = folder / f"{kind}.onnx"
    try:
        save_graph(deploy(network, kind, "uint8", full_range=has_vnni()).model, path)
    except SrqError as error:
        yield from ((entry.name, kind, str(error)) for entry in entries)
        return
    for entry in entries:
        try:
            runtime = entry.open(path, threads, "auto")
            runtime(lr)
        except SrqError as error:
            # The file is gone when the user reads this.
            yield entry.name, kind, re.sub(rf"^{re.escape(str(path))}:? ", "", str(error))
        else:
            yield entry.name, kind, runtime
