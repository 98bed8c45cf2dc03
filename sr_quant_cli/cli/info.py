"""``srq info`` and ``srq pack``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import Depth, Json, complete_model


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Name, srq model, checkpoint or run folder.",
        ),
    ],
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Output size that operations are counted for.")
    ] = "1280x720",
    scale: Annotated[
        int | None,
        typer.Option(help="Scale of a checkpoint that holds several or none."),
    ] = None,
    depth: Depth = "full",
    json: Json = None,
) -> None:
    """Show the contents of a model file.

    Network, scale, size, counted operations, training history and scores.

    \b
    Examples:
      srq info runs/edsr-x4/model.safetensors
      srq info model.safetensors --size 3840x2160 --json info.json
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import info as core
    from sr_quant_cli.report.info import print_info
    from sr_quant_cli.system.files import write_json

    found = core.info(core.InfoRequest(model=model, size=size, scale=scale, depth=depth))
    print_info(found)
    if json is not None:
        write_json(json, found.to_json())


def pack(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", autocompletion=complete_model, help="Name or srq model file."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Copy to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store weights as float16.")] = False,
    name: Annotated[str | None, typer.Option(help="Name shown in tables.")] = None,
    data: Annotated[str | None, typer.Option(help="What it was trained on.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing copy.")
    ] = False,
) -> None:
    """Copy a model file for release.

    With --half, weights take half the space; the other options fill in its card. A quantized model
    whose layers all run on integers gets a program for srq's own kernels, which starts at once.

    \b
    Example:
      srq pack runs/edsr-x4/model.safetensors -o edsr.safetensors --half --licence MIT
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import pack as core

    core.pack(
        core.PackRequest(
            model=model,
            output=output,
            half=half,
            name=name,
            data=data,
            licence=licence,
            overwrite=overwrite,
        )
    )
