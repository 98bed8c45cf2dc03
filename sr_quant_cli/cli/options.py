"""Options that several commands share, declared once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class PrecisionChoice(StrEnum):
    """Values of ``--precision``."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON too.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto: CUDA where it is.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; default: as many as cores.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the data sets; else SRQ_DATA, else ./datasets."),
]
