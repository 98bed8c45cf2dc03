"""``srq info`` and ``srq pack``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import Depth, Json
from sr_quant_cli.report.terminal import say


def info(
    model: Annotated[Path, typer.Argument(metavar="FILE", help="srq model, checkpoint, or fast.")],
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Output size that operations are counted for.")
    ] = "1280x720",
    scale: Annotated[
        int | None, typer.Option(help="Of a checkpoint that does not say it, or holds several.")
    ] = None,
    depth: Depth = "full",
    json: Json = None,
) -> None:
    """Show what a model file holds.

    Network, scale, size, counted operations, training history, scores.

    \b
    Examples:
      srq info runs/edsr-x4/model.safetensors
      srq info model.safetensors --size 3840x2160 --json info.json
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.info import describe
    from sr_quant_cli.modelfiles.named import named_model
    from sr_quant_cli.report.info import print_description
    from sr_quant_cli.system.files import write_json

    description = describe(named_model(model, scale), size, depth, scale)
    print_description(description)
    if json is not None:
        write_json(json, description)


def pack(
    model: Annotated[Path, typer.Argument(metavar="FILE", help="srq model file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Copy to write.")],
    half: Annotated[bool, typer.Option("--half", help="Store weights as float16.")] = False,
    name: Annotated[str | None, typer.Option(help="Name shown in tables.")] = None,
    data: Annotated[str | None, typer.Option(help="What it was trained on.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the copy.")] = False,
) -> None:
    """Copy a model file for release.

    Weights at half the size with --half; entries of its card filled in.

    \b
    Example:
      srq pack runs/edsr-x4/model.safetensors -o edsr.safetensors --half --licence MIT
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.errors import UsageError
    from sr_quant_cli.modelfiles.modelfile import pack_model
    from sr_quant_cli.modelfiles.named import model_file
    from sr_quant_cli.system.files import check_outputs

    model = model_file(model)
    check_outputs({"output": output}, [model])
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists; use --overwrite to replace it")
    given = {"name": name, "data": data, "licence": licence}
    changes = {key: value for key, value in given.items() if value is not None}
    pack_model(model, output, changes, half=half)
    say(f"{model} -> {output}  {output.stat().st_size:,} bytes")
