"""``srq export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sr_quant_cli.cli.options import DataRoot, Depth, Json, Threads


def export(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="srq model, or fast; default: an embedded one."),
    ] = None,
    format_: Annotated[
        Literal["onnx", "openvino"], typer.Option("--format", help="onnx, or OpenVINO's IR.")
    ] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help=".onnx, or .xml with a .bin; default: by MODEL."
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="Of the model; default: its own, else 4.")
    ] = None,
    io: Annotated[
        Literal["float", "uint8"],
        typer.Option(help="float: RGB 0..1 [1, 3, h, w]; uint8: pixels [1, h, w, 3]."),
    ] = "float",
    offsets: Annotated[
        Literal["exact", "snap"],
        typer.Option(help="Ranges that start at a real number: as they are, or at a multiple."),
    ] = "exact",
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME",
            help="Photographs to fix ranges or bits by that follow from the picture.",
        ),
    ] = None,
    full_range: Annotated[
        bool,
        typer.Option("--full-range", help="Keep 8-bit weights that processors without VNNI clip."),
    ] = False,
    row: Annotated[
        int | None,
        typer.Option(
            min=0, help="Fix bits that follow the picture at a row (cabm, adabm, granular_dq)."
        ),
    ] = None,
    depth: Depth = "full",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    threads: Threads = None,
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Write a model as a graph for ONNX Runtime or OpenVINO.

    Height and width of its pictures are free. A quantized model comes down to integers wherever it
    can. The graph is compared with the model on three pictures first: where it loses more than
    0.01 dB besides what was changed on purpose, which is told, or a layer that should be on
    integers is not, nothing is written. Where bits follow the picture, the graph gives these, too.

    \b
    Examples:
      srq export -o edsr-x4.onnx
      srq export runs/edsr-x4-daq/model.safetensors --format openvino -o edsr.xml
      srq export model.safetensors --offsets snap --io uint8 --json export.json
      srq export runs/edsr-x4-daq/model.safetensors --calibrate photos/ -o daq.onnx
      srq export runs/edsr-x4-cabm/model.safetensors --row 3 -o cabm-3.onnx
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.export import ExportRequest, run_export
    from sr_quant_cli.modelfiles.named import named_model
    from sr_quant_cli.report.export import print_export
    from sr_quant_cli.system.files import check_outputs, write_json

    check_outputs({"output": output, "json": json}, [model])
    exported = run_export(
        ExportRequest(
            model=named_model(model, scale),
            scale=scale,
            format=format_,
            output=output,
            io=io,
            offsets=offsets,
            full_range=full_range,
            calibrate=calibrate,
            data_root=data_root,
            row=row,
            depth=depth,
            threads=threads,
            overwrite=overwrite,
        ),
        print_export,
    )
    if json is not None:
        write_json(json, exported.report())
