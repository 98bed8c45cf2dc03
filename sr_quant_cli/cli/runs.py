"""``srq runs list|show``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import Json
from sr_quant_cli.report.terminal import say

app = typer.Typer(help="Training runs: list, show with their curves.", rich_markup_mode=None)


@app.command("list")
def list_runs(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder that holds run folders.")
    ] = Path("runs"),
    json: Json = None,
) -> None:
    """List training runs with their progress, loss and PSNR.

    Run folders are found up to three levels below DIR. The stages that runs share come last.

    \b
    Examples:
      srq runs list
      srq runs list experiments/ --json runs.json
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.runs import read_runs
    from sr_quant_cli.report.runs import print_runs
    from sr_quant_cli.system.files import write_json

    runs = read_runs(folder)
    print_runs(runs)
    if json is not None:
        write_json(json, runs.to_json())


@app.command()
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Picture of the curves; default: RUN/curves.png."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    json: Json = None,
) -> None:
    """Show a training run and draw its curves, also as a picture.

    The curves are the loss and the validation PSNR; the run may still be going. Each call replaces
    RUN/curves.png, but another file only with --overwrite.

    \b
    Examples:
      srq runs show runs/edsr-x4
      srq runs show runs/edsr-x4 -o edsr-x4.png --json edsr-x4.json
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.runs import read_run
    from sr_quant_cli.errors import UsageError
    from sr_quant_cli.report.runs import CURVES, draw_curves, print_curves, print_run
    from sr_quant_cli.system.files import DRAWING, check_outputs, check_own, write_json

    if output is not None and output.suffix.lower() != ".png":
        raise UsageError(f"{output}: a picture of curves ends in .png")
    if output is not None and output.exists() and not overwrite:
        raise UsageError(f"{output} exists; use --overwrite to replace it")
    picture = output or run / CURVES
    check_outputs({"output": picture, "json": json}, [])
    if output is None:
        check_own(picture, DRAWING)
    shown = read_run(run)
    print_run(shown)
    if shown.curves:
        print_curves(shown)
        draw_curves(shown, picture)
        say(f"curves -> {picture}")
    else:
        say("no curves to draw: the log holds no values yet")
    if json is not None:
        write_json(json, shown.to_json())
