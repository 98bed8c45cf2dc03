"""``srq upscale``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import (
    Depth,
    Device,
    Json,
    Patch,
    Patchwise,
    Precision,
    Runtime,
    Step,
    Threads,
)


def _name(text: str) -> str:
    """Refuse the empty name that a shell variable without a value becomes."""
    if not text:
        raise typer.BadParameter("the name is empty")
    return text


def upscale(
    image: Annotated[
        str,
        typer.Argument(metavar="IMAGE|FOLDER", parser=_name, help="Picture, or folder."),
    ],
    scale: Annotated[
        int | None, typer.Option(help="Enlargement factor: 2, 3 or 4; default 4.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|fast",
            help="srq file, checkpoint, .onnx, .xml, or the smaller embedded one (fast); default: "
            "the embedded.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            parser=_name,
            help="File, or folder (also OUT/); default: IMAGE_x4.png beside it.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Pixels per side of a tile; default: by memory.")
    ] = None,
    patchwise: Patchwise = False,
    patch: Patch = None,
    step: Step = None,
    bit_map: Annotated[
        bool,
        typer.Option(
            "--bit-map",
            help="Draw the bits that every patch took, as IMAGE_x4_bits.png beside the output.",
        ),
    ] = False,
    depth: Depth = "full",
    runtime: Runtime = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Enlarge a picture, or all pictures of a folder.

    Of a folder, hidden files, enlargements (NAME_x4.png of a NAME that is there) and subfolders are
    left out. Beside photo.jpg, photo.png becomes photo.png_x4.png.

    \b
    Examples:
      srq upscale photo.jpg
      srq upscale photo.jpg --scale 2 -o large.webp
      srq upscale holiday/ -o enlarged/
      srq upscale photo.jpg --model fast
      srq upscale photo.png --model runs/edsr-x4/model.safetensors
      srq upscale photo.png --model dynamic.safetensors --patchwise --bit-map
      torchrun --nproc-per-node 2 -m sr_quant_cli upscale holiday/
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.jobs import check_places, plan_jobs
    from sr_quant_cli.commands.upscale import (
        check_bit_maps,
        raise_failures,
        say_left_out,
        summarize,
        upscale_all,
    )
    from sr_quant_cli.errors import UsageError
    from sr_quant_cli.imaging.tiling import patches_of
    from sr_quant_cli.inference.opening import open_model
    from sr_quant_cli.modelfiles.named import named_model
    from sr_quant_cli.system.files import check_outputs, write_json
    from sr_quant_cli.system.processes import process_group

    source = Path(image)
    file = check_places(source, output)
    check_outputs({"output": file, "json": json}, [source, model])
    patches = patches_of(patchwise, patch, step)
    if bit_map and patches is None:
        raise UsageError("--bit-map: only with --patchwise")
    upscaler = open_model(
        named_model(model, scale),
        scale=scale,
        runtime=runtime,
        device=device,
        precision=precision,
        threads=threads,
        depth=depth,
        tile=tile,
        patches=patches,
    )
    if bit_map:
        check_bit_maps(upscaler)
    plan = plan_jobs(source, upscaler.scale, output)
    with process_group() as here:
        if not here.rank:
            say_left_out(plan)
        results = upscale_all(upscaler, plan.jobs, overwrite=overwrite, bit_maps=bit_map)
    if here.rank:
        return
    if json is not None:
        write_json(json, summarize(results, upscaler.name, upscaler.scale, plan.left_out))
    raise_failures(results)
