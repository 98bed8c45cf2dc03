"""``srq import``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_RANGES: dict[str, Literal[1, 255]] = {"1": 1, "255": 255}


def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Checkpoint (.pt, .pth, .safetensors), or .onnx."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Model file; default: FILE's name, here."
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            min=2, max=8, help="Scale, if FILE holds several or does not say it; default: 4."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Method, for daq: its checkpoints do not show that they are quantized."),
    ] = None,
    w: Annotated[
        int | None, typer.Option(min=2, max=8, help="Weight bits of a quantized FILE.")
    ] = None,
    a: Annotated[
        int | None, typer.Option(min=2, max=8, help="Activation bits of a quantized FILE.")
    ] = None,
    res_scale: Annotated[
        float | None,
        typer.Option(
            "--res-scale",
            help="Residual scaling of an EDSR; default: 0.1 with 256 features, else 1.",
        ),
    ] = None,
    range_: Annotated[
        Literal["1", "255"] | None,
        typer.Option("--range", help="Largest pixel value in training; default: 255."),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(help="Project of FILE, if files of several have the same tensors."),
    ] = None,
    input_range: Annotated[
        Literal["0..1", "0..255", "-1..1"] | None,
        typer.Option(
            "--input-range", help="Values that an ONNX file takes; default: found by flat pictures."
        ),
    ] = None,
    colours: Annotated[
        Literal["rgb", "bgr", "luma", "full_luma"] | None,
        typer.Option(
            help="Channels that an ONNX file takes; luma is 16..235, full_luma 0..255; default: "
            "rgb or luma."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name shown in tables.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Turn a checkpoint or an ONNX file into a model file of srq.

    An ONNX file may hold any network of one picture in and one out. Its operations are listed in
    the model file, its weights can be trained and quantized like those of the built-in networks,
    and the result is compared with ONNX Runtime's. Scale, value range, smallest picture and
    receptive field are found by running it.

    Reads EDSR-PyTorch, BasicSR (EDSR, MSRResNet), CARN-pytorch, IDN, SwinIR, DAQ, PAMS, DDTB,
    CADyQ, AdaBM, 2DQuant and QuantSR. Network, scale and sizes follow from names and shapes of the
    tensors; none may be missing or left over, and no code in the file is run. What a file does not
    say is assumed, and listed. A sample picture shows if the network is better than bicubic.

    \b
    Examples:
      srq import span.onnx
      srq import rlfn.onnx --input-range 0..255 -o rlfn-x4.safetensors
      srq import edsr_baseline_x4.pt -o edsr-x4.safetensors
      srq import carn_m.pth --scale 3 -o carn_m-x3.safetensors
      srq import pams_edsr.pth --w 4 --a 4 -o edsr-x4-pams.safetensors
      srq import daq_edsr.pt --method daq --w 2 --a 2
      srq import edsr_x4_pams_w8a8.pt --project CADyQ
      srq import my_edsr.pth --res-scale 0.1 --range 1
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.importing import ImportRequest, import_model
    from sr_quant_cli.modelfiles.checkpoints import UserHints
    from sr_quant_cli.modelfiles.onnx_networks import OnnxHints

    trained_on = None if range_ is None else _RANGES[range_]
    hints = UserHints(scale, method, w, a, res_scale, trained_on, project)
    import_model(
        ImportRequest(
            checkpoint=checkpoint,
            output=output,
            hints=hints,
            onnx_hints=OnnxHints(input_range=input_range, colours=colours),
            name=name or "",
            licence=licence,
            overwrite=overwrite,
        )
    )
