"""From a model that a user named to an upscaler.

torch, and what prepares graphs, are imported only where they are needed: a program in a model file
does without both.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.inference.options import DEFAULTS, RunOptions
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.inference.upscaler import Upscaler, WholeUpscaler
from sr_quant_cli.kernels.checks import bytes_per_pixel
from sr_quant_cli.modelfiles.named import Source, full_precision_model
from sr_quant_cli.modelfiles.programs import ShippedProgram, read_program
from sr_quant_cli.runtimes.base import GraphRuntime, ModelTraits
from sr_quant_cli.runtimes.program import KERNELS, ProgramRuntime, fast_here
from sr_quant_cli.runtimes.registry import AUTO, TORCH, get_runtime, graph_runtimes, runtime_of
from sr_quant_cli.scales import check_enlargement
from sr_quant_cli.system.choices import PrecisionChoice
from sr_quant_cli.system.processes import cores, thread_limit
from sr_quant_cli.system.reporting import note, warn

if TYPE_CHECKING:
    from sr_quant_cli.inference.bits import BitMeter
    from sr_quant_cli.lowering.onnx import Io
    from sr_quant_cli.networks.base import Network
    from sr_quant_cli.runtimes.torch import TorchRuntime


def open_model(source: Source, options: RunOptions = DEFAULTS, bits: int = 8) -> Upscaler:
    """Open a model for enlarging pictures.

    Parameters
    ----------
    bits
        Bits a sample of the pictures that come first. With 16, the default model is not even
        prepared: the full-precision one takes its place.

    Raises
    ------
    UsageError
        The file is not usable, or does not offer what the options ask for.
    FailedError
        The runtime cannot be prepared, and no other one may be taken.
    """
    if source.kind == "graph":
        return _open_graph_file(source, options)
    if options.range is not None:
        raise UsageError(f"{source.path} is no graph", field="range", value=options.range)
    if options.patches is not None:
        return _open_patchwise(source, options, options.patches)
    if bits == 16 and source.default:
        return _open_full(source, options)
    return _open_network(source, options, "unrounded" if options.self_ensemble else "uint8")


def open_network(network: "Network", name: str, options: RunOptions) -> TiledUpscaler:
    """Open a network in memory: on srq's own kernels if they run all of it, else in torch.

    Parameters
    ----------
    network
        It is copied.
    name
        Name in messages.
    """
    from copy import deepcopy

    from sr_quant_cli.lowering.kernel_program import kernel_program

    def in_torch() -> TiledUpscaler:
        return _in_torch(*_place(deepcopy(network), name, options), options)

    on_cuda = options.runtime == AUTO and _means_cuda(options.device)
    if on_cuda or options.self_ensemble or not _may_use_kernels(options):
        return in_torch()
    program = kernel_program(network, name)
    if program is None:
        return in_torch()
    return _open_program(program, name, options, in_torch, in_torch)


def _open_network(source: Source, options: RunOptions, io: "Io") -> TiledUpscaler:
    """Open a model file or checkpoint; ``io`` is that of its graph."""
    if options.runtime == TORCH or (options.runtime == AUTO and _means_cuda(options.device)):
        return _open_in_torch(source, options)
    if options.device not in ("auto", "cpu"):
        raise UsageError(
            f"{options.runtime} runs on the CPU alone; CUDA needs `runtime` {TORCH}",
            field="device",
            value=options.device,
        )
    if io == "uint8" and (shipped := _open_shipped(source, options)) is not None:
        return shipped
    from sr_quant_cli.inference.choice import choose, pixel_seconds
    from sr_quant_cli.inference.graph_cache import open_graph, prepare

    try:
        prepared = prepare(source, options.depth, io=io)
    except FailedError as error:
        if options.runtime != AUTO:
            raise
        warn(f"{error}; {TORCH} runs it")
        return _open_in_torch(source, options)
    name = options.runtime
    if name == AUTO:
        name = choose(prepared, options.precision)
    if name == TORCH:
        return _open_in_torch(source, options)
    graph = open_graph(name, prepared, options.threads, options.precision)
    for_deep = _open_full if source.default else _open_unrounded
    precise = io == "unrounded" and graph.precision == "fp32" and not source.default
    seconds = pixel_seconds(prepared, options.precision, name)
    threads = thread_limit(options.threads) or cores()
    return TiledUpscaler(
        graph,
        prepared.traits,
        options.tile,
        lambda: _open_in_torch(source, options).runtime,
        for_deep=None if precise else partial(for_deep, source, options),
        self_ensemble=options.self_ensemble,
        input_bits=prepared.input_bits,
        pixel_seconds=None if seconds is None else seconds / threads,
    )


def shipped_program(source: Source, options: RunOptions) -> ShippedProgram | None:
    """Program in a model file that serves 8-bit pictures.

    Returns
    -------
    None if the file has none, or the options or this machine ask for another runtime.

    Raises
    ------
    UsageError
        The program is damaged.
    """
    usable = source.is_model_file and _may_use_kernels(options)
    return read_program(source.path) if usable else None


def _may_use_kernels(options: RunOptions) -> bool:
    """Tell if the options and this machine leave a network to srq's own kernels."""
    entry = get_runtime(KERNELS)
    if options.runtime not in (AUTO, KERNELS) or not entry.offers(options.precision):
        return False
    if options.depth != "full" or not entry.installed:
        return False
    return options.runtime == KERNELS or fast_here()


def _open_shipped(source: Source, options: RunOptions) -> TiledUpscaler | None:
    """Open the program that comes with a model file: nothing is traced, and nothing raced."""
    shipped = shipped_program(source, options)
    if shipped is None:
        return None
    check_enlargement(shipped.traits.name, shipped.traits.scale, source.scale)
    for_deep = partial(_open_full if source.default else _open_unrounded, source, options)
    in_torch = partial(_open_in_torch, source, options)
    return _open_program(shipped, source.path, options, in_torch, for_deep)


def _open_program(
    shipped: ShippedProgram,
    path: Path | str,
    options: RunOptions,
    in_torch: Callable[[], TiledUpscaler],
    for_deep: Callable[[], TiledUpscaler],
) -> TiledUpscaler:
    """Open a program; the two functions open what serves small pictures, and those of 16 bits."""
    runtime = ProgramRuntime(path, lambda: shipped.program, thread_limit(options.threads))
    memory = max(shipped.traits.bytes_per_pixel, bytes_per_pixel(shipped.program))
    return TiledUpscaler(
        runtime,
        replace(shipped.traits, bytes_per_pixel=memory),
        options.tile,
        lambda: in_torch().runtime,
        for_deep=for_deep,
        input_bits=shipped.input_bits,
        measure=partial(_measure, runtime),
    )


def _measure(runtime: GraphRuntime) -> float:
    from sr_quant_cli.inference.choice import seconds_per_pixel

    return seconds_per_pixel(runtime)


def _open_full(source: Source, options: RunOptions) -> TiledUpscaler:
    """Open the full-precision model, which enlarges pictures of 16 bits instead of the default."""
    path = full_precision_model(source.scale or 4)
    upscaler = _open_unrounded(Source(path, "embedded", source.scale), options)
    note(f"16 bits: {upscaler.name}, the model in full precision, enlarges them")
    return upscaler


def _open_unrounded(source: Source, options: RunOptions) -> TiledUpscaler:
    """Open a model for pictures of 16 bits: with floats in and out, and in fp32."""
    return _open_network(source, replace(options, precision="fp32"), "unrounded")


def common_scale(upscalers: Sequence[Upscaler], scale: int | None) -> int:
    """Scale that all models share and the user asked for; 4 if there is neither.

    Raises
    ------
    UsageError
        The scales differ.
    """
    scale = scale or (upscalers[0].scale if upscalers else 4)
    for upscaler in upscalers:
        check_enlargement(upscaler.name, upscaler.scale, scale)
    return scale


def _load_in_torch(
    source: Source, options: RunOptions
) -> "tuple[TorchRuntime, ModelTraits, BitMeter]":
    """Load a network in torch."""
    from sr_quant_cli.modelfiles.loading import load, name_of

    network, header = load(source, options.depth)
    return _place(network, name_of(source, header, options.depth), options)


def _place(
    network: "Network", name: str, options: RunOptions
) -> "tuple[TorchRuntime, ModelTraits, BitMeter]":
    """Put a network on a device; a float one is folded, its bit operations are the unfolded one's.

    The network may be changed.
    """
    from sr_quant_cli.inference.bits import BitMeter
    from sr_quant_cli.networks.folding import fold_exactly
    from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
    from sr_quant_cli.system.device import pick_device, pick_precision, set_threads

    device = pick_device(options.device)
    set_threads(options.threads)
    meter = BitMeter(network)
    if network.quantization is None:
        network = fold_exactly(network)
    traits = traits_of_network(network, name)
    precision = pick_precision(options.precision, device)
    return TorchRuntime(network, device, precision), traits, meter


def _open_in_torch(source: Source, options: RunOptions) -> TiledUpscaler:
    for_deep = partial(_open_full, source, options) if source.default else None
    return _in_torch(*_load_in_torch(source, options), options, for_deep)


def _in_torch(
    runtime: "TorchRuntime",
    traits: ModelTraits,
    meter: "BitMeter",
    options: RunOptions,
    for_deep: Callable[[], TiledUpscaler] | None = None,
) -> TiledUpscaler:
    from sr_quant_cli.inference.bits import input_bits

    return TiledUpscaler(
        runtime,
        traits,
        options.tile,
        meter=meter,
        for_deep=for_deep,
        self_ensemble=options.self_ensemble,
        input_bits=input_bits(runtime.network),
    )


def _open_patchwise(source: Source, options: RunOptions, patches: Patches) -> Upscaler:
    from sr_quant_cli.inference.graph_cache import open_graph, prepare
    from sr_quant_cli.inference.patchwise import PatchwiseUpscaler
    from sr_quant_cli.quant.dynamic import ListedProvider
    from sr_quant_cli.runtimes.rows import RowRuntime

    model, traits, meter = _load_in_torch(source, options)
    if options.runtime in (AUTO, TORCH):
        return PatchwiseUpscaler(model, traits, meter, patches)

    def open_row(row: int | None) -> GraphRuntime:
        prepared = prepare(source, options.depth, row)
        return open_graph(options.runtime, prepared, options.threads, options.precision)

    provider = model.network.bit_provider
    listed = provider if isinstance(provider, ListedProvider) else None
    rows = RowRuntime(listed, open_row, options.runtime)
    return PatchwiseUpscaler(rows, traits, meter, patches, for_deep=model)


def _open_graph_file(source: Source, options: RunOptions) -> Upscaler:
    from sr_quant_cli.inference.constants import check_constants
    from sr_quant_cli.lowering.graph import traits_of

    path, tile = source.path, options.tile
    if options.patches is not None:
        raise UsageError(
            f"{path} is a graph, name the model that it was made of", field="patchwise"
        )
    if options.depth != "full":
        raise UsageError(
            f"{path} is a graph, whose depth is fixed", field="depth", value=options.depth
        )
    if options.runtime == TORCH:
        names = " or ".join(entry.name for entry in graph_runtimes())
        raise UsageError(
            f"{path} is a graph; it runs by {names}", field="runtime", value=options.runtime
        )
    if options.device not in ("auto", "cpu"):
        raise UsageError(
            f"{path} is a graph, which runs on the CPU", field="device", value=options.device
        )
    entry = runtime_of(path) if options.runtime == AUTO else get_runtime(options.runtime)
    traits = traits_of(path)
    if traits is None and tile is not None:
        raise UsageError(
            f"{path} does not say by how much its tiles must overlap; it runs on whole pictures",
            field="tile",
            value=tile,
        )
    if traits is not None and options.range is not None:
        raise UsageError(f"{path} is srq's own", field="range", value=options.range)

    def opened(precision: PrecisionChoice) -> GraphRuntime:
        graph = entry.open(path, options.threads, precision)
        if options.range is not None and not graph.on_floats:
            raise UsageError(f"{path} takes 8-bit pixels", field="range", value=options.range)
        graph.white = options.range or 1
        if traits is None and not graph.on_floats and path.suffix.lower() == ".onnx":
            check_constants(path)
        return graph

    def tiled(precision: PrecisionChoice) -> TiledUpscaler:
        assert traits is not None
        graph = opened(precision)
        again = partial(tiled, "fp32") if graph.on_floats and graph.precision != "fp32" else None
        ensemble = options.self_ensemble
        return TiledUpscaler(graph, traits, tile, for_deep=again, self_ensemble=ensemble)

    if traits is not None:
        check_enlargement(traits.name, traits.scale, source.scale)
        return tiled(options.precision)
    graph = opened(options.precision)
    precise = not graph.on_floats or graph.precision == "fp32"
    whole = WholeUpscaler(
        graph,
        path.name,
        for_deep=None if precise else partial(opened, "fp32"),
        self_ensemble=options.self_ensemble,
    )
    check_enlargement(whole.name, whole.scale, source.scale)
    return whole


def _means_cuda(device: str) -> bool:
    """True if a CUDA device is meant; torch is asked only where CUDA's driver is there."""
    if device != "auto":
        return device.startswith("cuda")
    try:
        ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()
