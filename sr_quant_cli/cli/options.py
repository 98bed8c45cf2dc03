"""Options that several commands share, declared once."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from sr_quant_cli.errors import UsageError


def _check_report(path: Path | None) -> Path | None:
    """Refuse, before any work, a report in the place of a file that is none."""
    if path is not None:
        from sr_quant_cli.errors import UsageError
        from sr_quant_cli.system.files import REPORT, check_own

        try:
            check_own(path, REPORT)
        except UsageError as error:
            raise UsageError(f"--json: {error}") from error
    return path


Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=_check_report, help="Write the report as JSON too."
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option(help="Arithmetic of the network; auto: bf16 where the hardware has it."),
]


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise UsageError(f"--device {name}: must be auto, cpu, cuda or cuda:N, as cuda:1")
    return name


Device = Annotated[
    str,
    typer.Option(callback=_device, help="auto, cpu, cuda or cuda:N; auto: CUDA where it is."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=512,
        help="CPU threads; default: as many as cores, for each process of torchrun an equal part.",
    ),
]
Depth = Annotated[
    Literal["full", "half", "quarter"],
    typer.Option(help="Blocks that a network of several depths executes."),
]
Runtime = Annotated[
    Literal["auto", "torch", "onnxruntime", "openvino"],
    typer.Option(
        help="What runs the network; auto: CUDA, or the fastest here that agrees with the model."
    ),
]
Patchwise = Annotated[
    bool,
    typer.Option(
        "--patchwise",
        help="Enlarge patches as pictures of their own, as papers on dynamic bits do.",
    ),
]
Patch = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="LR pixels per side of a patch; default 96.")
]
Step = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="LR pixels from patch to patch; half of the overlap is discarded; default 90.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the data sets; else SRQ_DATA, else ./datasets."),
]

# Of the commands that train.
Photographs = Annotated[
    str | None,
    typer.Option(metavar="DIR|NAME", help="Folder of photographs, DIV2K, Flickr2K or sample."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe field; may be repeated."),
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run",
        "--run-dir",  # torchrun takes --run for the beginning of an option of its own
        metavar="DIR",
        help="Run folder; default: below runs/, by what is made.",
    ),
]
Resume = Annotated[
    str, typer.Option(help="auto: continue what the run folder holds; no: refuse to.")
]
MaxTime = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop and save after this long: 90s, 30m, 2h.")
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's files, too.")]
Iters = Annotated[
    int | None,
    typer.Option(help="Training steps; the schedule is scaled to them."),
]
