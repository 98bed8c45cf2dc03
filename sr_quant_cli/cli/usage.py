"""Errors of the command line in plain words, in terms of options rather than types."""

import re
from collections.abc import Iterator
from typing import Any

from sr_quant_cli.strict import in_words


def in_flags(text: str, command: Any) -> str:
    """Replace parameters in backquotes by the options of that name.

    Parameters
    ----------
    command
        Typer's top command; a parameter belongs to the same option in all of its subcommands.
    """
    flags = dict(_flags(command))
    return re.sub(r"`(\w+)`", lambda name: flags.get(name[1], name[1]), text)


def _flags(command: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of parameters in Python, each with the name of its option."""
    for parameter in command.params:
        if parameter.param_type_name == "option":
            # A trailing underscore keeps a parameter from shadowing a builtin.
            name = parameter.name.rstrip("_")
            yield name, next(n for n in parameter.opts if n.startswith("--"))
    for inner in getattr(command, "commands", {}).values():
        yield from _flags(inner)


def usage_error(error: Any) -> str:
    """Put an error of Typer into one line: the option or argument, and what is allowed.

    Parameters
    ----------
    error
        Error with ``format_message``; its other attributes depend on its kind.
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
