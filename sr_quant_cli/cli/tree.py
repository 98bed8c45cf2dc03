"""All subcommands of ``srq`` as one Typer app."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import typer

from sr_quant_cli import __version__
from sr_quant_cli.cli import (
    app_page,
    bench,
    cache,
    compare,
    data,
    distill,
    doctor,
    evaluate,
    export,
    importing,
    info,
    models,
    pretrain,
    quantize,
    recipes,
    report,
    runs,
    study,
    upscale,
)
from sr_quant_cli.cli.direct import DirectGroup
from sr_quant_cli.cli.grouped import grouped
from sr_quant_cli.cli.plugging import OPTION

app = typer.Typer(
    name="srq",
    cls=DirectGroup,
    epilog="Example: srq upscale photo.jpg. Every command shows its own with --help.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=grouped(upscale.GROUPS))(upscale.upscale)
app.command("eval")(evaluate.evaluate)
app.command()(compare.compare)
app.command("app")(app_page.app_page)
app.command()(pretrain.pretrain)
app.command()(quantize.quantize)
app.command()(distill.distill)
app.command()(study.study)
app.command("import")(importing.import_)
app.command()(export.export)
app.command()(info.info)
app.command()(info.pack)
app.command()(report.report)
app.command()(report.plot)
app.add_typer(models.app, name="models")
app.add_typer(runs.app, name="runs")
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipes")
app.command()(doctor.doctor)
app.add_typer(cache.app, name="cache")


@app.callback(invoke_without_command=True)
def _srq(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
    plugin: list[Path] = typer.Option(
        [],
        OPTION,
        metavar="FILE",
        help="Run a Python file that adds methods, networks, runtimes or recipes; repeatable, and "
        "anywhere on the line.",
    ),
) -> None:
    """Image super-resolution: train networks, measure them, enlarge pictures."""
    if version:
        print(f"srq {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def needed(arguments: Sequence[str]) -> typer.Typer:
    """Reduce the app to the command that the first argument names; making all takes time."""
    if not arguments:
        return app
    needed, first = copy(app), arguments[0]
    needed.registered_commands = [
        command
        for command in app.registered_commands
        if first == (command.name or getattr(command.callback, "__name__", ""))
    ]
    needed.registered_groups = [group for group in app.registered_groups if first == group.name]
    return needed if needed.registered_commands or needed.registered_groups else app
