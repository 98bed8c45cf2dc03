"""Strict base class of validated values, and validation errors in plain words."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MOST = 65_536
"""Upper limit of sizes and counts in a network, far above any published one."""

Size = Annotated[int, Field(ge=1, le=MOST)]
"""A size or a count in a network."""


class Strict(BaseModel):
    """Immutable base of recipes, configurations and headers.

    Unknown keys, wrong types, and numbers that are not finite are errors.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


_FIXED = {
    "extra_forbidden": "unknown key",
    "missing": "is missing",
    "finite_number": "must be a finite number",
    "json_invalid": "is not JSON",
}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
    "dataclass": "a table",
}


def in_words(error: Mapping[str, Any], limits: Iterable[Any] = ()) -> str:
    """Put an entry of ``ValidationError.errors()`` into words, as the end of a sentence.

    Parameters
    ----------
    limits
        Metadata of the field, from which both of its bounds are taken.

    Examples
    --------
    >>> in_words({"type": "int_type", "msg": "Input should be a valid integer"})
    'must be a whole number'
    >>> in_words({"type": "less_than_equal", "msg": "...", "ctx": {"le": 8}}, [Field(ge=2, le=8)])
    'must be 2 to 8'
    """
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        bounds = dict(context)
        for limit in _flat(limits):
            names = (name for name in ("gt", "ge", "le", "lt") if hasattr(limit, name))
            bounds |= {name: getattr(limit, name) for name in names}
        return f"must be {_range(bounds)}"
    if kind in ("literal_error", "enum"):
        return f"must be {context['expected']}"
    if kind in ("too_short", "too_long"):
        least = context.get("min_length", context.get("max_length"))
        return f"must have {'at least' if kind == 'too_short' else 'at most'} {least} entries"
    if kind == "multiple_of":
        return f"must be a multiple of {context['multiple_of']}"
    if kind in _FIXED:
        return _FIXED[kind]
    wanted = _TYPES.get(kind.partition("_")[0])
    if wanted is not None:
        return f"must be {wanted}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _flat(limits: Iterable[Any]) -> Iterable[Any]:
    """Yield single constraints; ``Field(ge=2, le=8)`` holds several."""
    for limit in limits:
        yield from getattr(limit, "metadata", [limit])


def _range(bounds: Mapping[str, Any]) -> str:
    """Put the bounds ``gt``, ``ge``, ``le``, ``lt`` into words.

    >>> _range({"ge": 1}), _range({"gt": 0, "le": 1}), _range({"le": 8})
    ('1 or more', 'above 0 and at most 1', 'at most 8')
    """
    if bounds.keys() == {"ge", "le"}:
        return f"{bounds['ge']:.10g} to {bounds['le']:.10g}"
    if bounds.keys() == {"ge"}:
        return f"{bounds['ge']:.10g} or more"
    words = {"gt": "above", "ge": "at least", "le": "at most", "lt": "below"}
    return " and ".join(
        f"{word} {bounds[name]:.10g}" for name, word in words.items() if name in bounds
    )
