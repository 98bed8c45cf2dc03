"""``srq export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sr_quant_cli.cli.options import DataRoot, Depth, Json, Threads, complete_model
from sr_quant_cli.runtimes.registry import formats

_FORMATS = f"[{'|'.join(formats())}]"


def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Name, srq model or run folder; default: an embedded one.",
        ),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format", metavar=_FORMATS, help="Format of the graph file; openvino: OpenVINO's IR."
        ),
    ] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Graph file; default: named after MODEL."
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="Scale of the model; default: its own, else 4.")
    ] = None,
    io: Annotated[
        Literal["float", "uint8"],
        typer.Option(help="float: RGB 0..1 [1, 3, h, w]; uint8: pixels [1, h, w, 3]."),
    ] = "float",
    offsets: Annotated[
        Literal["exact", "snap"],
        typer.Option(help="Real-valued zero points: keep them exactly, or snap them to integers."),
    ] = "exact",
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME",
            help="Photographs to fix ranges or bits that follow the picture.",
        ),
    ] = None,
    full_range: Annotated[
        bool,
        typer.Option("--full-range", help="Keep 8-bit weights; they overflow without VNNI."),
    ] = False,
    row: Annotated[
        int | None,
        typer.Option(
            min=0, help="Fix bits that follow the picture to this row (cabm, adabm, granular_dq)."
        ),
    ] = None,
    depth: Depth = "full",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    threads: Threads = None,
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Write a model as a graph for ONNX Runtime or OpenVINO.

    Height and width of the pictures are free. A quantized model runs on integers wherever it can.
    The graph is first compared with the model on three pictures. If it loses more than 0.01 dB
    beyond intended changes, which are listed, or if a layer that should run on integers does not,
    nothing is written. If bits follow the picture, they are a second output of the graph.

    \b
    Examples:
      srq export -o edsr-x4.onnx
      srq export runs/edsr-x4-daq/model.safetensors --format openvino -o edsr.xml
      srq export model.safetensors --offsets snap --io uint8 --json export.json
      srq export runs/edsr-x4-daq/model.safetensors --calibrate photos/ -o daq.onnx
      srq export runs/edsr-x4-cabm/model.safetensors --row 3 -o cabm-3.onnx
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import export as core
    from sr_quant_cli.report.export import print_export
    from sr_quant_cli.system.files import check_outputs, write_json

    check_outputs({"output": output, "json": json}, [model])
    request = core.ExportRequest(
        model=model,
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
    )
    try:
        exported = core.export(request)
    except core.RefusedGraphError as refused:
        print_export(refused.exported)
        raise
    print_export(exported)
    if json is not None:
        write_json(json, exported.to_json())
