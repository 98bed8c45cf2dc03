"""From what a user names (a file, or a scale alone) to something that upscales.

torch is imported only where it is needed: a prepared graph does without.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.inference.choice import choose
from sr_quant_cli.inference.graph_cache import open_graph, prepare
from sr_quant_cli.inference.upscaler import TiledUpscaler, Upscaler, WholeUpscaler
from sr_quant_cli.modelfiles.named import (
    load_at_depth,
    name_of,
)
from sr_quant_cli.runtimes.base import GraphRuntime, ModelTraits, RuntimeName
from sr_quant_cli.runtimes.opening import Precision, check_precision, open_file
from sr_quant_cli.scales import check_enlargement, check_scale
from sr_quant_cli.system.reporting import warn

if TYPE_CHECKING:
    from sr_quant_cli.inference.bits import BitMeter
    from sr_quant_cli.networks.base import Depth
    from sr_quant_cli.runtimes.torch import TorchRuntime

RuntimeChoice = Literal["auto", "torch", "onnxruntime", "openvino"]
GRAPHS: dict[str, RuntimeName] = {".onnx": "onnxruntime", ".xml": "openvino"}
"""Suffixes of graph files, and the runtime of each."""


def open_model(
    path: Path,
    *,
    scale: int | None = None,
    runtime: RuntimeChoice = "torch",
    device: str = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
    depth: "Depth" = "full",
    tile: int | None = None,
    patches: Patches | None = None,
) -> Upscaler:
    """Open a model of srq, a checkpoint of another project, ``.onnx`` or OpenVINO's ``.xml``.

    Parameters
    ----------
    scale
        That it must enlarge by; None: by any.
    runtime
        auto: CUDA by torch where it is there; else the fastest runtime that agrees with the model.
    tile
        LR pixels that a tile keeps per side; None: by memory.
    patches
        Enlarge patch by patch, each as a picture of its own; None: in tiles that join seamlessly.

    Raises
    ------
    UsageError
        The file is not usable, or something of what is asked for cannot be had of it.
    """
    if scale is not None:
        check_scale(scale)
    if runtime == "onnxruntime":
        check_precision(precision)
    if patches is not None:
        if path.suffix.lower() in GRAPHS:
            raise UsageError(f"--patchwise: {path} is a graph, name the model that it was made of")
        if tile is not None:
            raise UsageError(f"--tile {tile}: patches (--patchwise) are no tiles")
        from sr_quant_cli.inference.patchwise import PatchwiseUpscaler
        from sr_quant_cli.quant.dynamic import ListedProvider
        from sr_quant_cli.runtimes.rows import RowRuntime

        model, traits, meter = _load_in_torch(path, scale, device, precision, threads, depth)
        if runtime == "auto" or runtime == "torch":
            return PatchwiseUpscaler(model, traits, meter, patches)
        chosen = runtime

        def open_row(row: int | None) -> GraphRuntime:
            return open_graph(chosen, prepare(path, depth, scale, row), threads, precision)

        provider = model.network.bit_provider
        listed = provider if isinstance(provider, ListedProvider) else None
        return PatchwiseUpscaler(RowRuntime(listed, open_row, chosen), traits, meter, patches)
    if path.suffix.lower() in GRAPHS:
        return _open_graph_file(path, scale, runtime, device, precision, threads, depth, tile)

    def in_torch() -> TiledUpscaler:
        runtime, traits, meter = _load_in_torch(path, scale, device, precision, threads, depth)
        return TiledUpscaler(runtime, traits, tile, meter=meter)

    if runtime == "torch" or (runtime == "auto" and _means_cuda(device)):
        return in_torch()
    if device not in ("auto", "cpu"):
        raise UsageError(
            f"--device {device}: {runtime} runs on the CPU; --runtime torch does on it"
        )
    try:
        prepared = prepare(path, depth, scale)
    except FailedError as error:
        if runtime != "auto":
            raise
        warn(f"{error}; torch runs it")
        return in_torch()
    name = choose(prepared, precision) if runtime == "auto" else runtime
    if name == "torch":
        return in_torch()
    graph = open_graph(name, prepared, threads, precision)
    return TiledUpscaler(graph, prepared.traits, tile, lambda: in_torch().runtime)


def common_scale(upscalers: Sequence[Upscaler], scale: int | None) -> int:
    """The scale that the models share and the user asked for; 4 where neither says.

    Raises
    ------
    UsageError
        The scales differ, or ``scale`` is none of 2, 3, 4.
    """
    if scale is not None:
        check_scale(scale)
    scale = scale or (upscalers[0].scale if upscalers else 4)
    for upscaler in upscalers:
        check_enlargement(upscaler.name, upscaler.scale, scale)
    return scale


def _load_in_torch(
    path: Path,
    scale: int | None,
    device: str,
    precision: Precision,
    threads: int | None,
    depth: "Depth",
) -> "tuple[TorchRuntime, ModelTraits, BitMeter]":
    """A float network is folded, exactly; its bit operations are those of the unfolded one."""
    from sr_quant_cli.inference.bits import BitMeter
    from sr_quant_cli.networks.folding import fold_exactly
    from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
    from sr_quant_cli.system.device import pick_device, pick_precision, set_threads

    where = pick_device(device)
    set_threads(threads)
    network, header = load_at_depth(path, depth, scale)
    meter = BitMeter(network)
    if network.quantization is None:
        network = fold_exactly(network)
    traits = traits_of_network(network, name_of(path, header, depth))
    return TorchRuntime(network, where, pick_precision(precision, where)), traits, meter


def _open_graph_file(
    path: Path,
    scale: int | None,
    runtime: RuntimeChoice,
    device: str,
    precision: Precision,
    threads: int | None,
    depth: "Depth",
    tile: int | None,
) -> Upscaler:
    from sr_quant_cli.lowering.graph import traits_of

    if depth != "full":
        raise UsageError(f"--depth {depth}: {path} is a graph, whose depth is fixed")
    if runtime == "torch":
        raise UsageError(f"--runtime torch: {path} is a graph; it runs by onnxruntime or openvino")
    if device not in ("auto", "cpu"):
        raise UsageError(f"--device {device}: {path} is a graph, which runs on the CPU")
    name = GRAPHS[path.suffix.lower()] if runtime == "auto" else runtime
    traits = traits_of(path)
    if traits is None and tile is not None:
        raise UsageError(
            f"--tile {tile}: {path} does not say by how much its tiles must overlap; "
            "it runs on whole pictures"
        )
    graph = open_file(name, path, threads, precision)
    if traits is not None:
        check_enlargement(traits.name, traits.scale, scale)
        return TiledUpscaler(graph, traits, tile)
    whole = WholeUpscaler(graph, path.name)
    check_enlargement(whole.name, whole.scale, scale)
    return whole


def _means_cuda(device: str) -> bool:
    """Whether a device of torch is meant that is no CPU; asks without torch where none can be."""
    if device != "auto":
        return device.startswith("cuda")
    try:
        ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()
