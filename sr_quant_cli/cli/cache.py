"""``srq cache show|clear``."""

import sys
from typing import Annotated

import typer

from sr_quant_cli.cli.options import Json
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.report.terminal import say

app = typer.Typer(
    help="What srq keeps to be faster the next time: show, clear.", rich_markup_mode=None
)


@app.command()
def show(json: Json = None) -> None:
    """Show the place and the size of the cache.

    The folder is SRQ_CACHE if that is set.

    \b
    Example:
      srq cache show
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.cache import show_cache
    from sr_quant_cli.report.doctor import print_cache
    from sr_quant_cli.system.files import write_json

    cache = show_cache()
    print_cache(cache)
    if json is not None:
        write_json(json, cache.to_json())


@app.command()
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove what the cache holds; srq makes it anew when it is needed.

    Your own models are elsewhere, and stay.

    \b
    Example:
      srq cache clear --yes
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.cache import clear_cache, show_cache

    cache = show_cache()
    told = f"{cache.files:,} files, {cache.bytes:,} bytes in {cache.folder}"
    if cache.files and not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{told}: add `yes` to remove them without being asked")
        print(f"remove {told}? [y/N]", end=" ", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise FailedError("nothing was removed")
    clear_cache()
    say(f"removed {told}")
