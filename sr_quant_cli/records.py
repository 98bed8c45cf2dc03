"""Frozen dataclasses that are made without compiling source, which takes most of an import.

``dataclasses`` writes and compiles six methods for every frozen class, half a millisecond each. The
modules that ``srq upscale`` imports have seventy such classes, so they use ``record`` instead.
"""

from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Make a class a dataclass as ``dataclass(frozen=True)`` does.

    ``fields``, ``replace``, ``asdict`` and pattern matching work as usual. All fields belong to the
    parameters, the comparison and the text of a value.

    >>> @record
    ... class Size:
    ...     height: int
    ...     width: int = 1
    >>> Size(2), Size(height=2) == Size(2, 1), len({Size(2), Size(2)})
    (Size(height=2, width=1), True, 1)
    """
    return _made(cls, _COMPARED)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def unique_record(cls: type[T]) -> type[T]:
    """Make a class a dataclass as ``dataclass(frozen=True, eq=False)`` does."""
    return _made(cls, _METHODS)


def _made(cls: type[T], methods: dict[str, Any]) -> type[T]:
    made = dataclass(init=False, repr=False, eq=False)(cls)
    for name, method in methods.items():
        if name not in cls.__dict__:
            setattr(made, name, method)
    return made


def _init(self: Any, *values: Any, **named: Any) -> None:
    """Set the fields by their order and by their names."""
    cls = type(self)
    places = fields(cls)
    given = dict(zip((place.name for place in places), values, strict=False))
    if len(values) > len(places) or given.keys() & named.keys():
        raise TypeError(f"{cls.__name__}: a field is given twice, or there are too many values")
    given |= named
    for place in places:
        if place.name not in given:
            if place.default_factory is not MISSING:
                given[place.name] = place.default_factory()
            elif place.default is MISSING:
                raise TypeError(f"{cls.__name__}: {place.name} is missing")
            else:
                given[place.name] = place.default
    if len(given) > len(places):
        unknown = given.keys() - {place.name for place in places}
        raise TypeError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    self.__dict__.update(given)
    if hasattr(cls, "__post_init__"):
        self.__post_init__()


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, place.name) for place in fields(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{place.name}={getattr(self, place.name)!r}" for place in fields(self))
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse(self: Any, name: str, *_: Any) -> NoReturn:
    raise FrozenInstanceError(f"{type(self).__name__} is frozen: cannot change {name}")


_METHODS: dict[str, Any] = {
    "__init__": _init,
    "__repr__": _repr,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
}
_COMPARED = {**_METHODS, "__eq__": _eq, "__hash__": _hash}
