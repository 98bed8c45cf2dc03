"""Errors of the command line in plain words: those of the libraries that read it speak of types."""

import re
from collections.abc import Iterator
from typing import Any

from sr_quant_cli.strict import in_words


def in_flags(text: str, command: Any) -> str:
    """Put options in the place of parameters that stand in backquotes.

    Parameters
    ----------
    command
        Typer's, with all that are below it: a name is that of the same option in all of them.
    """
    flags = dict(_flags(command))
    return re.sub(r"`(\w+)`", lambda name: flags.get(name[1], name[1]), text)


def _flags(command: Any) -> Iterator[tuple[str, str]]:
    """Names of parameters in Python, and those of their options."""
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield parameter.name, next(n for n in parameter.opts if n.startswith("--"))
    for inner in getattr(command, "commands", {}).values():
        yield from _flags(inner)


def usage_error(error: Any) -> str:
    """One line for an error of Typer: the option or argument as it is typed, and what is allowed.

    Parameters
    ----------
    error
        With ``format_message``; what else it has depends on the kind of error.
    """
    option = getattr(error, "option_name", None)
    parameter = getattr(error, "param", None)
    if option is not None and hasattr(error, "possibilities"):
        near = f", did you mean {' or '.join(error.possibilities)}?" if error.possibilities else ""
        return f"{option}: no such option{near}"
    if option is not None:
        needs = "requires" in error.format_message()
        return f"{option}: {'needs a' if needs else 'takes no'} value"
    if parameter is None:
        message = str(error.format_message()).rstrip(".")
        return message[:1].lower() + message[1:]
    is_option = parameter.param_type_name == "option"
    name = max(parameter.opts, key=len) if is_option else parameter.metavar or parameter.name
    if hasattr(error, "param_type"):
        return f"{name} is missing"
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not details:
        return f"{name}: {error.message}"
    what = re.sub(r"^.* is not one of (.+?)\.?$", r"must be one of \1", in_words(details[0]))
    return f"{name} {details[0]['input']}: {what}"
