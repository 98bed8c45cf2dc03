"""Functions of srq that no command line reaches without a server of data sets."""

import os
import sys
from pathlib import Path

from sr_quant_cli.cli.app import main
from sr_quant_cli.data.catalog import DATASETS, Archive, DataSet, Part
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


def get_toy() -> None:
    """Run a command line that knows a data set more, which a test's server offers."""
    part = Part("Toy/HR", 5)
    archive = Archive(os.environ["TOY_URL"], os.environ["TOY_MD5"], ".", (part,))
    DATASETS["toy"] = DataSet("Toy", "", (archive,), (part,))
    main()
