"""``srq upscale``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import (
    GRAPHS,
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
    """Refuse an empty name, which an empty shell variable leaves."""
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
            help=f"srq file, checkpoint, {GRAPHS}, run folder, or fast, the smaller embedded "
            "model; default: the embedded one.",
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
            help="Draw a map of the chosen bits, as IMAGE_x4_bits.png beside the output.",
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

    In a folder, hidden files, subfolders and enlargements (NAME_x4.png beside NAME) are skipped. If
    photo.jpg and photo.png are both there, the second becomes photo.png_x4.png.

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
    from sr_quant_cli.commands import upscale as core
    from sr_quant_cli.commands.jobs import check_places
    from sr_quant_cli.imaging.tiling import patches_of
    from sr_quant_cli.inference.options import RunOptions
    from sr_quant_cli.system.files import check_outputs, write_json
    from sr_quant_cli.system.processes import world

    source = Path(image)
    check_outputs({"output": check_places(source, output), "json": json}, [source, model])
    options = RunOptions(
        runtime=runtime,
        device=device,
        precision=precision,
        threads=threads,
        depth=depth,
        tile=tile,
        patches=patches_of(patchwise, patch, step),
    )
    done = core.upscale(
        core.UpscaleRequest(
            image=source,
            output=output,
            model=model,
            scale=scale,
            overwrite=overwrite,
            bit_map=bit_map,
            options=options,
        )
    )
    if world().rank:
        return
    if json is not None:
        write_json(json, done.to_json())
    done.raise_failures()
