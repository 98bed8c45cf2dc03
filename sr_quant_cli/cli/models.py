"""``srq models list|show|add|remove``."""

from typing import Annotated

import typer

from sr_quant_cli.cli.options import Json, complete_model
from sr_quant_cli.report.terminal import say

app = typer.Typer(
    help="Models that have names: list, show, add your own, remove.", rich_markup_mode=None
)


@app.command("list")
def list_models(
    time: Annotated[
        bool, typer.Option("--time", help="Measure the models that have no time yet.")
    ] = False,
    json: Json = None,
) -> None:
    """List the embedded models and your own.

    PSNR is the one in the model's file, with its set and protocol. The times are those by which srq
    chose a runtime when the model first ran here. No model is loaded unless --time is given.

    \b
    Examples:
      srq models list
      srq models list --time --json models.json
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import models as core
    from sr_quant_cli.modelfiles.named import FAMILIES, has_embedded_model, identify
    from sr_quant_cli.report.models import print_models
    from sr_quant_cli.system.files import write_json

    found = core.list_models(measure=time)
    print_models(found)
    there = [family for family in FAMILIES if has_embedded_model(4, family)]
    say("; ".join(f"{family} is {identify(family).path.stem}" for family in there))
    if any(model.milliseconds is None and not model.problem for model in found.models):
        say("--time measures the models that have not run here")
    if json is not None:
        write_json(json, found.to_json())


@app.command()
def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=complete_model, help="Name, or file of a model."
        ),
    ],
    json: Json = None,
) -> None:
    """Show what the file of a model says: card, licence, and the bits of every site.

    'srq info' loads the model, and counts its operations, too.

    \b
    Example:
      srq models show edsr-baseline-x4-w8a8
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import models as core
    from sr_quant_cli.report.models import print_model
    from sr_quant_cli.system.files import write_json

    shown = core.show_model(model)
    print_model(shown)
    if json is not None:
        write_json(json, shown.to_json())


@app.command()
def add(
    model: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="srq model, run folder, checkpoint, ONNX or OpenVINO graph."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the model; default: that of FILE.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace your model of that name.")
    ] = False,
    json: Json = None,
) -> None:
    """Copy a model into your folder of models, so that every command takes it by its name.

    The model is opened first, to see that it works. The folder is SRQ_MODELS if that is set; 'srq
    models list' prints it.

    \b
    Examples:
      srq models add runs/edsr-x4 --name mine
      srq models add network.onnx
      srq upscale photo.jpg --model mine
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import models as core
    from sr_quant_cli.system.files import write_json

    added = core.add_model(core.AddRequest(model=model, name=name, overwrite=overwrite))
    say(f"{model} -> {added.path}  {added.bytes:,} bytes")
    if json is not None:
        write_json(json, added.to_json())


@app.command()
def remove(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=complete_model, help="One of your own models."
        ),
    ],
) -> None:
    """Remove a model from your folder of models.

    \b
    Example:
      srq models remove mine
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import models as core

    say(f"removed {core.remove_model(name)}")
