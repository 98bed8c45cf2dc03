"""``srq compare``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sr_quant_cli.cli.options import (
    Device,
    Json,
    Range,
    Runtime,
    Threads,
    complete_model,
    rectangle,
)


def _complete_last(incomplete: str) -> list[str]:
    """Complete the last of several models, which commas separate."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in complete_model(last)]


def _crop(text: str) -> tuple[int, int, int, int]:
    return rectangle(text, "crop")


def compare(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="LR picture; see --downscale.")],
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            autocompletion=_complete_last,
            help="Names or files of models; default: the embedded one.",
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="Scale of the models; default: their own, else 4.")
    ] = None,
    hr: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HR picture: PSNR and SSIM are measured.")
    ] = None,
    downscale: Annotated[
        bool,
        typer.Option("--downscale", help="IMAGE is HR: reduce it first, by MATLAB's bicubic."),
    ] = False,
    crop: Annotated[
        Any,
        typer.Option(
            metavar="X,Y,W,H",
            parser=_crop,
            help="Part to show, in pixels of the results; default: where they differ most.",
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="matlab, basicsr, rgb, div2k, daq or cadyq: see docs/measuring.md.")
    ] = "matlab",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="PNG, SVG or PDF; default: IMAGE_x4_compare.png beside IMAGE.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    range_: Range = None,
    runtime: Runtime = "auto",
    device: Device = "auto",
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Draw crops of results side by side, as in papers.

    The whole picture is at the left, with a box around the part that is shown. Bicubic
    interpolation comes first and HR last. Crops are enlarged by nearest neighbour.

    \b
    Examples:
      srq compare photo.png
      srq compare photo.png --downscale --models fast,edsr-baseline-x4 -o sheet.pdf
      srq compare baby_x4.png --hr baby.png --models edsr-baseline-x4,mine --json scores.json
      srq compare photo.png --models edsr-baseline-x2 --crop 40,30,64,48
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import compare as core
    from sr_quant_cli.imaging.tiling import Region
    from sr_quant_cli.inference.options import RunOptions
    from sr_quant_cli.report.compare import print_comparison
    from sr_quant_cli.system.files import check_outputs, write_json

    named = tuple(models.split(",")) if models is not None else ()
    check_outputs({"output": output, "json": json}, [image, hr, *named])
    found = core.compare(
        core.CompareRequest(
            image=image,
            models=named,
            scale=scale,
            hr=hr,
            downscale=downscale,
            crop=crop and Region(crop[1], crop[0], crop[3], crop[2]),
            protocol=protocol,
            output=output,
            overwrite=overwrite,
            options=RunOptions(
                runtime=runtime,
                device=device,
                threads=threads,
                range=None if range_ is None else int(range_),
            ),
        )
    )
    print_comparison(found)
    if json is not None:
        write_json(json, found.to_json())
