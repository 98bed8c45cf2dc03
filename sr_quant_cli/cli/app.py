"""The entry point: one Typer app, one thin file per subcommand."""

import signal
import sys
from types import FrameType

import typer

from sr_quant_cli import __version__
from sr_quant_cli.cli import data, evaluate, info, pretrain, recipes, upscale
from sr_quant_cli.errors import SrqError

app = typer.Typer(
    name="srq",
    epilog="Example: srq upscale photo.jpg. Every command shows its own with --help.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(upscale.upscale)
app.command("eval")(evaluate.evaluate)
app.command()(pretrain.pretrain)
app.command()(info.info)
app.command()(info.pack)
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipes")


@app.callback(invoke_without_command=True)
def _srq(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    """Image super-resolution: train networks, measure them, enlarge pictures."""
    if version:
        print(f"srq {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run ``srq``: exit code 0 done, 1 failed, 2 wrong usage or input, 130 or 143 interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
    except SrqError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        # Typer's own errors (a missing argument, a value of the wrong type) have no public base.
        if not hasattr(error, "format_message"):
            raise
        _fail(f"{error.format_message().rstrip('.')} (see --help)", 2)
    else:
        sys.exit(code or 0)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """Unwind as an interrupt does, so that temporary files go and training is saved."""
    sys.exit(143)


def _fail(message: str, code: int) -> None:
    for line in message.splitlines():
        print(f"srq: error: {line}", file=sys.stderr)
    sys.exit(code)
