"""Frozen dataclasses that are made without compiling source, which takes most of an import.

``dataclasses`` writes and compiles six methods for every frozen class, half a millisecond each. The
modules that ``srq upscale`` imports have seventy such classes, so they use ``record`` instead.
"""

from dataclasses import MISSING, FrozenInstanceError, dataclass, field
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
    names = cls.__match_args__
    given = dict(zip(names, values, strict=False))
    if len(values) > len(names) or given.keys() & named.keys():
        raise TypeError(f"{cls.__name__}: a field is given twice, or there are too many values")
    given |= named
    for name in names:
        if name not in given:
            given[name] = _default(cls, name)
    if len(given) > len(names):
        raise TypeError(f"{cls.__name__} has no field {', '.join(sorted(given.keys() - names))}")
    self.__dict__.update(given)
    if hasattr(cls, "__post_init__"):
        self.__post_init__()


def _default(cls: Any, name: str) -> Any:
    place = cls.__dataclass_fields__[name]
    if place.default_factory is not MISSING:
        return place.default_factory()
    if place.default is MISSING:
        raise TypeError(f"{cls.__name__}: {name} is missing")
    return place.default


def _values(self: Any) -> tuple[Any, ...]:
    own = self.__dict__
    return tuple(own[name] for name in self.__match_args__)


def _repr(self: Any) -> str:
    named = zip(self.__match_args__, _values(self), strict=True)
    shown = ", ".join(f"{name}={value!r}" for name, value in named)
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: object) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return self is other or _values(self) == _values(other)


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
