"""Functions of srq that no command line reaches without a server."""

import sys
from pathlib import Path

from sr_quant_cli.data.catalog import Archive, Part
from sr_quant_cli.data.fetch import unpack
from sr_quant_cli.errors import FailedError
from sr_quant_cli.report.terminal import say


def unpack_given() -> None:
    """Unpack ``given/a`` below ``made``, as ``srq data get`` does."""
    try:
        unpack(Path("given/a"), Archive("a", "0" * 32, ".", (Part("Toy/HR", 2),)), Path("made"))
    except FailedError as error:
        say(f"srq: error: {error}", sys.stderr)
        sys.exit(1)
