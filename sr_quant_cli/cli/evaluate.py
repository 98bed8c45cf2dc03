"""``srq eval``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sr_quant_cli.cli.options import (
    DataRoot,
    Depth,
    Device,
    Json,
    Patch,
    Patchwise,
    Step,
    Threads,
)

_ASK_GRAPH = "does it take and give RGB 0..1? Put what BGR or 0..255 needs into the graph"
_ASK_CHECKPOINT = (
    "was its residual factor or range another one? srq import has --res-scale, --range"
)


def evaluate(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL",
            help="srq, .onnx, .xml files, checkpoints, or fast; default: the embedded.",
        ),
    ] = None,
    bench: Annotated[
        str,
        typer.Option(
            help="Sets, joined by +: Set5, Set14, B100, Urban100, Manga109, Test2K, Test4K, Test8K."
        ),
    ] = "Set5+Set14+B100+Urban100",
    scale: Annotated[
        int | None, typer.Option(help="2, 3 or 4; default: the models' own, else 4.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="matlab or basicsr.")] = "matlab",
    sr_dir: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Pictures upscaled already: a row more; may be repeated."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Store the scores in the card of each srq model file.")
    ] = False,
    patchwise: Patchwise = False,
    patch: Patch = None,
    step: Step = None,
    bit_maps: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw the bits that every patch took, a map a picture."),
    ] = None,
    depth: Depth = "full",
    runtime: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino"] | None,
        typer.Option(
            help="What runs the models; default: torch, the reference; a graph file's own."
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Measure models on benchmark sets.

    PSNR and SSIM on luma under a named protocol, bicubic in the first row. Patch-wise, and of
    models whose bits follow the picture, the feature average bits (FAB) and bit operations, too.

    \b
    Examples:
      srq eval --bench Set5+Urban100
      srq eval runs/edsr-x2/model.safetensors --bench Set5+Set14 --json scores.json
      srq eval runs/quantsr_c-x4/model.safetensors --depth half --bench Set5
      srq eval network.onnx --scale 4 --protocol basicsr
      srq eval dynamic.safetensors --patchwise --bench Urban100+Test2K --bit-maps maps/
      srq eval --sr-dir results/ --bench Set5 --scale 4
      torchrun --nproc-per-node 2 -m sr_quant_cli eval --bench Urban100
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import evaluate as core
    from sr_quant_cli.data.benchmark import data_root as root_of
    from sr_quant_cli.data.benchmark import find_set, parse_sets
    from sr_quant_cli.errors import UsageError
    from sr_quant_cli.imaging.tiling import patches_of
    from sr_quant_cli.inference.opening import GRAPHS, common_scale, open_model
    from sr_quant_cli.inference.upscaler import BicubicUpscaler
    from sr_quant_cli.metrics import get_protocol
    from sr_quant_cli.modelfiles.modelfile import record_scores
    from sr_quant_cli.modelfiles.named import is_model_file, named_model
    from sr_quant_cli.report.table import print_scores
    from sr_quant_cli.system.files import DRAWING, check_own, write_json
    from sr_quant_cli.system.processes import process_group
    from sr_quant_cli.system.reporting import warn

    paths = [named_model(model, scale) for model in models or ()]
    if not paths and not sr_dir:
        paths = [named_model(None, scale)]
    foreign = [str(path) for path in paths if record and not is_model_file(path)]
    if foreign:
        raise UsageError(f"--record: only srq model files store scores, not {', '.join(foreign)}")
    if record and runtime not in (None, "torch"):
        raise UsageError(f"--record: stores scores of the model itself, not by {runtime}")
    if depth != "full" and record:
        raise UsageError(f"--depth {depth}: --record stores scores of full depth only")
    if depth != "full" and not models:
        raise UsageError(f"--depth {depth}: name a model that runs at several depths")
    patches = patches_of(patchwise, patch, step)
    if patches is None and bit_maps is not None:
        raise UsageError("--bit-maps: only with --patchwise")
    if patches is not None and record:
        raise UsageError("--record: stores scores of whole pictures, not of patches (--patchwise)")
    for path in bit_maps.rglob("*_bits.png") if bit_maps is not None else ():
        check_own(path, DRAWING)
    chosen = get_protocol(protocol)
    names = parse_sets(bench)
    upscalers = [
        open_model(
            path,
            scale=scale,
            runtime=runtime or ("auto" if path.suffix.lower() in GRAPHS else "torch"),
            device=device,
            precision="fp32",
            threads=threads,
            depth=depth,
            patches=patches,
        )
        for path in paths
    ]
    scale = common_scale(upscalers, scale)
    meters = [upscaler.meter for upscaler in upscalers]
    dynamic = any(meter is not None and meter.dynamic for meter in meters)
    if bit_maps is not None and not dynamic:
        raise UsageError("--bit-maps: the bits of no model here follow the picture")
    sets = [find_set(name, scale, root_of(data_root)) for name in names]
    candidates = core.distinct(
        [
            core.model_candidate(BicubicUpscaler(scale)),
            *(core.model_candidate(upscaler, bit_maps) for upscaler in upscalers),
            *(core.folder_candidate(folder) for folder in sr_dir or ()),
        ]
    )
    with process_group() as here:
        results = core.evaluate(candidates, sets, chosen)
    if here.rank:
        return
    print_scores(results, sets, chosen, patches, costs=dynamic or patches is not None)
    for path, candidate in zip(paths, candidates[1:], strict=False):
        if not is_model_file(path) and core.is_below(candidate.label, "bicubic", results):
            graph = path.suffix.lower() in GRAPHS
            warn(f"{candidate.label} is below bicubic: {_ASK_GRAPH if graph else _ASK_CHECKPOINT}")
    if json is not None:
        write_json(json, core.report(results, sets, chosen, patches))
    if record:
        for path, candidate in zip(paths, candidates[1:], strict=False):
            record_scores(path, core.set_scores(candidate.label, results, sets, chosen))
