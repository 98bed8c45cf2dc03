"""``srq import``."""

from pathlib import Path
from typing import Annotated

import typer


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="Checkpoint: .pt, .pth, .safetensors.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Model file; default: FILE's name here."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name shown in tables.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model file.")] = False,
) -> None:
    """Turn a checkpoint of another project into an srq model file.

    Network, scale and sizes are found from names and shapes; no code in the file is run.

    \b
    Example:
      srq import edsr_baseline_x4.pt -o edsr-x4.safetensors
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.errors import UsageError
    from sr_quant_cli.networks.importing import import_checkpoint
    from sr_quant_cli.networks.modelfile import Card, save_model

    target = output or Path(f"{checkpoint.stem}.safetensors")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; use --overwrite to replace it")
    network, source = import_checkpoint(checkpoint)
    save_model(target, network, Card(name=name or checkpoint.stem, licence=licence, data=source))
    print(f"{checkpoint} ({source}) -> {target}  {network.config.name} x{network.scale}")
