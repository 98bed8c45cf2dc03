"""``srq app``."""

import os
import sys
import threading
import webbrowser
from typing import Annotated

import typer

from sr_quant_cli.cli.options import Device, MaxPixels, Runtime, Threads
from sr_quant_cli.errors import UsageError
from sr_quant_cli.report.terminal import say


def app_page(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on; default: a free one.")
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address only; open no browser.")
    ] = False,
    max_pixels: MaxPixels = "1G",
    runtime: Runtime = "auto",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Enlarge pictures on a page in the browser.

    Drop pictures onto the page, choose the size, the model and the format, compare before and
    after, and save the results. The page is on this computer only, at an address with a secret
    token. Ctrl-C stops it, and removes all that was not saved.

    \b
    Examples:
      srq app
      srq app --port 8080 --no-browser
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.inference.options import RunOptions

    try:
        from sr_quant_cli.web.pictures import Limits
        from sr_quant_cli.web.server import serve
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UsageError(
            "the page needs starlette and uvicorn: pip install 'sr-quant-cli[app]'"
        ) from error

    def opened(address: str) -> None:
        say(address)
        say("Ctrl-C stops the page and removes its pictures", sys.stderr)
        if not no_browser and _has_screen():
            # Some browsers do not return before they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    serve(
        opened,
        port=port,
        options=RunOptions(runtime=runtime, device=device, threads=threads),
        limits=Limits(pixels=max_pixels),
    )


def _has_screen() -> bool:
    """Tell if a browser would open a window; elsewhere it would take over the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
