"""``srq info --layers``: every layer of a model, measured on photographs."""

import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from torch import Tensor

from sr_quant_cli.commands.bench_upscale import bench_picture
from sr_quant_cli.data.benchmark import central_crop
from sr_quant_cli.data.photographs import find_photographs
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import save_graph
from sr_quant_cli.modelfiles.loading import load
from sr_quant_cli.modelfiles.named import Named, identify
from sr_quant_cli.networks.base import Network
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.passes.sensitivity import quantized_sites, site_losses
from sr_quant_cli.passes.statistics import OperandStatistics, operand_statistics
from sr_quant_cli.quant.quantizers import set_mode
from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime
from sr_quant_cli.system.choices import Depth
from sr_quant_cli.system.processor import has_vnni
from sr_quant_cli.system.reporting import track, warn

_CPU = torch.device("cpu")
SIDE = 96
"""LR pixels per side of the crops to take statistics on, and of the picture that is timed."""
MOST_PHOTOGRAPHS = 16
RUNS = 5
"""Timed runs, of which the fastest counts."""


@dataclass(frozen=True)
class LayersRequest:
    """Request for ``layers``.

    Attributes
    ----------
    model
        What ``identify`` finds a model by.
    data
        Folder or name of the photographs.
    sensitivity
        Also measure what each site loses alone, which takes a pass over the photographs each.
    """

    model: Named
    data: str = "sample"
    sensitivity: bool = False
    scale: int | None = None
    depth: Depth = "full"
    data_root: Path | None = None


@dataclass(frozen=True)
class Layer:
    """A site of a network.

    Attributes
    ----------
    macs_counted
        Multiply-accumulates for an LR picture of ``SIDE`` x ``SIDE``.
    ms
        Milliseconds in ONNX Runtime, on integers where the model has them, on all cores; None: its
        graph has no node of that name.
    operands
        Statistics of quantized operands.
    drop
        Loss of PSNR against HR if nothing else is quantized, dB over all colours; None: not
        measured.
    """

    path: str
    kind: str
    macs_counted: int
    ms: float | None
    operands: tuple[OperandStatistics, ...]
    drop: float | None


@dataclass(frozen=True)
class Layers:
    """The sites of a model that compute or quantize, and where they were measured."""

    layers: tuple[Layer, ...]
    data: str
    photographs: int
    side: int = SIDE

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def layers(request: LayersRequest) -> Layers:
    """Measure the layers of a model.

    Raises
    ------
    UsageError
        The file is no model, or there are no photographs; losses are asked of a float model.
    """
    source = identify(request.model, request.scale)
    network, header = load(source, request.depth)
    quantized = network.quantization is not None
    if request.sensitivity and not quantized:
        raise UsageError("needs a quantized model", field="sensitivity")
    photographs = find_photographs(request.data, network.scale, root=request.data_root)
    pairs = (*photographs.validation, *photographs.train)[:MOST_PHOTOGRAPHS]
    crops = [
        central_crop(*pair.load(network.scale), network.scale, SIDE)
        for pair in track(pairs, len(pairs), "photo", "decoding")
    ]
    lr, hr = (
        [to_tensor(pixels[None], _CPU) for pixels in part] for part in zip(*crops, strict=True)
    )
    operands = operand_statistics(network, lr) if quantized else {}
    macs = {each.name: each.macs for each in count_operations(network, SIDE, SIDE)}
    sites = [site for site in network.sites() if site.path in operands or site.path in macs]
    drops = _drops(network, lr, hr) if request.sensitivity else {}
    times = _times(network, header.card.name or source.path.stem)
    return Layers(
        tuple(
            Layer(
                path=site.path,
                kind=site.kind,
                macs_counted=macs.get(site.path, 0),
                ms=times.get(site.path),
                operands=operands.get(site.path, ()),
                drop=drops.get(site.path),
            )
            for site in sites
        ),
        photographs.name,
        len(pairs),
    )


def _drops(network: Network, lr: Sequence[Tensor], hr: Sequence[Tensor]) -> dict[str, float]:
    """Losses of the sites alone, beside the same weights without quantizers."""
    unquantized = deepcopy(network)
    set_mode(unquantized, "off")
    count = len(quantized_sites(network))
    found = {}
    losses = site_losses(network, unquantized, lr, hr)
    for loss in track(losses, count, "site", "sensitivity"):
        assert loss.drop is not None
        found[loss.path] = loss.drop
    return found


def _times(network: Network, name: str) -> dict[str, float]:
    """Milliseconds by path, from ONNX Runtime's profile."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        try:
            graph = deploy(network, name, "uint8", full_range=has_vnni(), folded=False).model
            save_graph(graph, path)
            profile = OnnxRuntime(path).profile(bench_picture(SIDE, SIDE), RUNS)
        except (FailedError, UsageError) as error:
            warn(f"layers are not timed: {error}")
            return {}
    paths = _paths(graph.graph, {site.path for site in network.sites()})
    times: dict[str, float] = {}
    for node in profile:
        # ONNX Runtime names what it fused or laid out anew after the nodes and their outputs.
        path_ = paths.get(re.sub(r"(_token_\d+|_nchwc|_nhwc)+$", "", node.name))
        if path_ is not None:
            times[path_] = times.get(path_, 0.0) + 1000 * node.seconds
    return times


_LAYERS = ("Conv", "ConvTranspose", "ConvInteger", "MatMul", "Gemm")


def _paths(graph: onnx.GraphProto, sites: Collection[str]) -> Mapping[str, str]:
    """Paths of sites by the names of their nodes, of their outputs, and of what reads these."""
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {initializer.name for initializer in graph.initializer}
    paths: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in _LAYERS:
            continue
        named = [
            *node.input,
            *(i for name in node.input if name in makers for i in makers[name].input),
        ]
        owners = [name for name in named if name in constants and name.startswith("network.")]
        if not owners:
            continue
        path = owners[0].removeprefix("network.")
        while path and path not in sites:  # the layer may be wrapped
            path = path.rpartition(".")[0]
        after = readers.get(node.output[0], [])
        following = after[0].output[0] if len(after) == 1 else ""
        paths |= dict.fromkeys((node.name, node.output[0], following), path)
    return paths
