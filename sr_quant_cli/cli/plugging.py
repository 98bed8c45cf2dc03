"""Plugins of the command line: the option ``--plugin``, and those that help texts list."""

from collections.abc import Sequence
from pathlib import Path

from sr_quant_cli.errors import UsageError

OPTION = "--plugin"


def take_plugins(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Separate the option ``--plugin``, which may stand anywhere, from all other arguments.

    >>> take_plugins(["--plugin", "a.py", "upscale", "b.png", "--plugin=c.py"])
    ([PosixPath('a.py'), PosixPath('c.py')], ['upscale', 'b.png'])

    Raises
    ------
    UsageError
        The option has no value.
    """
    files, others = [], []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            others += [word, *words]
        elif name != OPTION:
            others.append(word)
        else:
            file = value if equals else next(words, "")
            if not file:
                raise UsageError("needs a value", field="plugin")
            files.append(Path(file))
    return files, others


def plug_in(files: Sequence[Path], arguments: Sequence[str]) -> None:
    """Run the files of plugins; for help texts, also load the runtimes that packages add.

    Raises
    ------
    UsageError
        A file is not usable.
    """
    if files:
        from sr_quant_cli.plugins import run_file

        for file in files:
            run_file(file)
    if {"-h", "--help"} & set(arguments):
        from sr_quant_cli.runtimes.registry import load_plugins

        load_plugins()
