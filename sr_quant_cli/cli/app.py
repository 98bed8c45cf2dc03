"""The entry point: one Typer app, one thin file per subcommand."""

import sys

import typer

from sr_quant_cli import __version__
from sr_quant_cli.cli import pretrain
from sr_quant_cli.errors import SrqError

app = typer.Typer(
    name="srq",
    help="Low-bit image super-resolution: train, quantize, measure, upscale.",
    epilog="Example: srq upscale photo.jpg",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(pretrain.pretrain)


def _print_version(value: bool) -> None:
    if value:
        print(f"srq {__version__}")
        raise typer.Exit


@app.callback()
def _srq(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run ``srq``: exit code 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."""
    try:
        app()
    except SrqError as error:
        for line in str(error).splitlines():
            print(f"srq: error: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
