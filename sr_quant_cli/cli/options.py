"""Options that several commands share, declared once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON too.")
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option(help="Arithmetic of the network; auto: bf16 where the hardware has it."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto: CUDA where it is.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads; default: as many as cores, for each process of torchrun an equal part.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the data sets; else SRQ_DATA, else ./datasets."),
]
