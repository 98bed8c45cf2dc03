"""``srq eval``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import (
    GRAPHS,
    RUNTIMES,
    DataRoot,
    Depth,
    Device,
    Json,
    Patch,
    Patchwise,
    Range,
    SelfEnsemble,
    Step,
    Threads,
    check_runtime,
    complete_model,
    own_file,
)


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help=f"Names, srq or {GRAPHS} files, checkpoints, run folders; default: embedded.",
        ),
    ] = None,
    bench: Annotated[
        str,
        typer.Option(
            help="Sets, joined by +: Set5, Set14, B100, Urban100, Manga109, Test2K, Test4K, "
            "Test8K, DIV2K (0801 to 0900), or own folders."
        ),
    ] = "Set5+Set14+B100+Urban100",
    scale: Annotated[
        int | None, typer.Option(help="2, 3, 4 or 8; default: the models' own, else 4.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="matlab, basicsr, rgb, div2k, daq or cadyq: see docs/measuring.md.")
    ] = "matlab",
    degrade: Annotated[
        str,
        typer.Option(
            metavar="KIND:STRENGTH",
            help="Degrade LR before: jpeg:75 (quality), noise:10, shot:10 (deviation in levels, at "
            "white), blur:0.8 (LR pixels); several joined by commas, applied as blur, noise, JPEG.",
        ),
    ] = "",
    sr_dir: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Pictures upscaled elsewhere: one more row; repeatable."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Store the scores in the card of each srq model file.")
    ] = False,
    per_image: Annotated[
        bool, typer.Option("--per-image", help="Also a table of the pictures of each set.")
    ] = False,
    patchwise: Patchwise = False,
    patch: Patch = None,
    step: Step = None,
    bit_maps: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw a map of the chosen bits of each picture."),
    ] = None,
    depth: Depth = "full",
    self_ensemble: SelfEnsemble = False,
    range_: Range = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar=RUNTIMES,
            callback=check_runtime,
            help="Runtime of the models; default: torch, the reference; a graph file's own.",
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    data_root: DataRoot = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=own_file("csv"),
            help="Also write a table of all pictures as CSV.",
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Measure models on benchmark sets.

    PSNR and SSIM under a named protocol, on luma by default, with bicubic in the first row. With
    several models, the difference from the first one is in parentheses. With --patchwise, and for
    models whose bits follow the picture, also feature average bits (FAB) and bit operations. The
    name of a row with --self-ensemble ends with +.

    \b
    Examples:
      srq eval --bench Set5+Urban100
      srq eval fast edsr-baseline-x4 --bench Set5
      srq eval runs/edsr-x2/model.safetensors --bench Set5+Set14 --json scores.json
      srq eval edsr-baseline-x4 mine.safetensors --per-image --csv scores.csv
      srq eval runs/quantsr_c-x4/model.safetensors --depth half --bench Set5
      srq eval network.onnx --scale 4 --protocol basicsr
      srq eval edsr-baseline-x4 --bench Set5 --self-ensemble
      srq eval edsr-baseline-x4 --bench Set14 --degrade noise:5,jpeg:75
      srq eval dynamic.safetensors --patchwise --bench Urban100+Test2K --bit-maps maps/
      srq eval --sr-dir results/ --bench Set5 --scale 4
      torchrun --nproc-per-node 2 -m sr_quant_cli eval --bench Urban100
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import evaluate as core
    from sr_quant_cli.imaging.tiling import patches_of
    from sr_quant_cli.report.table import print_pictures, print_scores
    from sr_quant_cli.system.files import check_outputs, write_csv, write_json
    from sr_quant_cli.system.processes import world

    request = core.EvalRequest(
        models=tuple(models or ()),
        bench=bench,
        scale=scale,
        protocol=protocol,
        sr_dirs=tuple(sr_dir or ()),
        record=record,
        bit_maps=bit_maps,
        runtime=runtime,
        device=device,
        threads=threads,
        depth=depth,
        self_ensemble=self_ensemble,
        range=None if range_ is None else int(range_),
        patches=patches_of(patchwise, patch, step),
        degrade=degrade,
        data_root=data_root,
    )
    check_outputs({"json": json, "csv": csv}, models or ())
    evaluation = core.evaluate(request)
    if world().rank:
        return
    print_scores(evaluation)
    if per_image:
        print_pictures(evaluation)
    if csv is not None:
        write_csv(csv, *evaluation.to_csv())
    if json is not None:
        write_json(json, evaluation.to_json())
    if record:
        core.record(evaluation)
