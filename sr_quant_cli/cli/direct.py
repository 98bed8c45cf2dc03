"""Values of options that are converted directly, without pydantic.

Typer makes a validator of pydantic for every option of a command, given or not. With the import of
pydantic this takes as long as enlarging a small picture. What is not converted here, or is wrong,
is left to Typer.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.core import TyperGroup

_MOST = 2**63 - 1


class DirectGroup(TyperGroup):
    """A group of commands whose own options are converted directly."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Convert the options of the group, and return what is left of the arguments."""
        convert_directly(self.get_params(ctx), self.callback)
        return super().parse_args(ctx, args)


def convert_directly(parameters: Iterable[Any], callback: Callable[..., Any] | None) -> None:
    """Have the parameters of a command converted by their types in its ``callback``."""
    hints = {} if callback is None else get_type_hints(callback, include_extras=True)
    for parameter in parameters:
        kind, info = _split(hints.get(parameter.name, Any))
        by_typer = parameter.process_value
        parameter.process_value = partial(_process, parameter, by_typer, kind, info)


def _split(hint: Any) -> tuple[Any, Any]:
    """Type of a parameter without None, and what Typer is told of it."""
    info = None
    if hasattr(hint, "__metadata__"):
        hint, (info, *_) = hint.__origin__, hint.__metadata__
    options = [option for option in get_args(hint) if option is not type(None)]
    return (options[0] if type(None) in get_args(hint) else hint), info


def _process(
    parameter: Any,
    by_typer: Callable[[Any, Any], Any],
    kind: Any,
    info: Any,
    context: Any,
    value: Any,
) -> Any:
    """Convert the value of a parameter, as ``process_value`` of Typer's parameters does."""
    try:
        converted = _converted(parameter, kind, info, value)
    except ValueError:
        return by_typer(context, value)
    if parameter.callback is not None:
        converted = parameter.callback(context, parameter, converted)
    return converted


def _converted(parameter: Any, kind: Any, info: Any, value: Any) -> Any:
    """Convert a value; one that Typer is to convert, or to refuse, is a ``ValueError``."""
    if value in (None, (), []) and not parameter.required:
        return None if value is None else []
    if value not in (None, (), []) and getattr(info, "parser", None) is not None:
        several = get_origin(kind) is list
        return [info.parser(text) for text in value] if several else info.parser(value)
    if isinstance(value, str) and _is_plain(kind, info, value):
        return kind(value) if kind is int else value
    raise ValueError(value)


def _is_plain(kind: Any, info: Any, text: str) -> bool:
    """Tell if a text is right for its type as it is, or is a number in plain digits."""
    if kind is int and text.isascii() and text.isdigit():
        least = 0 if info.min is None else info.min
        return bool(least <= int(text) <= (_MOST if info.max is None else info.max))
    return kind is str or (get_origin(kind) is Literal and text in get_args(kind))
