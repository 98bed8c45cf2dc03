"""``srq info`` and ``srq pack``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import DataRoot, Depth, Json, complete_model


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
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Also each layer: time, and bounds, clipping and noise of quantized operands.",
        ),
    ] = False,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Also the loss if only that layer is quantized; minutes."
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR|NAME", help="Photographs to measure layers on; default: sample."),
    ] = None,
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Show the contents of a model file.

    Network, scale, size, counted operations, training history and scores. With --layers, a table of
    what each layer does with 96x96 pixels of up to 16 photographs.

    \b
    Examples:
      srq info runs/edsr-x4/model.safetensors
      srq info model.safetensors --size 3840x2160 --json info.json
      srq info edsr-baseline-x4-w29a6 --layers
      srq info runs/w4a4/trainable.safetensors --layers --sensitivity --data photos/
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import info as core
    from sr_quant_cli.report.info import print_info
    from sr_quant_cli.system.files import write_json

    found = core.info(core.InfoRequest(model=model, size=size, scale=scale, depth=depth))
    report = found.to_json()
    measured = None
    if layers or sensitivity or data is not None:
        from sr_quant_cli.commands.layers import LayersRequest
        from sr_quant_cli.commands.layers import layers as measure

        measured = measure(
            LayersRequest(
                model=model,
                data=data or LayersRequest.data,
                sensitivity=sensitivity,
                scale=scale,
                depth=depth,
                data_root=data_root,
            )
        )
        report["measured"] = measured.to_json()
    print_info(found)
    if measured is not None:
        from sr_quant_cli.report.layers import print_layers

        print_layers(measured)
    if json is not None:
        write_json(json, report)


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
