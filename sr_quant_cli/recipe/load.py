"""Reading recipes: files and built-in names, changes of fields, and all errors at once."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, overload

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sr_quant_cli.errors import UsageError, first_line, together, unknown
from sr_quant_cli.methods import config_class as method_config_class
from sr_quant_cli.recipe.schema import (
    DistillRecipe,
    PretrainRecipe,
    QuantizeRecipe,
    TrainingRecipe,
    network_class,
)
from sr_quant_cli.recipe.texts import has_recipe, recipe_names, recipe_text
from sr_quant_cli.strict import in_words
from sr_quant_cli.system.reporting import warn

_KINDS: dict[str, type[TrainingRecipe]] = {
    "pretrain": PretrainRecipe,
    "quantize": QuantizeRecipe,
    "distill": DistillRecipe,
}
_BY_NAME: dict[str, Callable[[str], type[BaseModel]]] = {
    "network": network_class,
    "method": method_config_class,
}
"""Tables whose fields depend on their name: functions for the class."""

_LARGEST = 2**20
"""Largest size of a recipe file, in bytes."""
_DOTS = 1000
"""Most dots in a line: TOML's reader takes minutes for a key of 100,000 parts."""
_PARTS = 3
"""Parts of the longest key: table, field, operand of a site."""
_SHOWN = 60
"""Characters of the user's text that errors show."""

R = TypeVar("R", bound=TrainingRecipe)


@dataclass(frozen=True)
class Change:
    """A field of a recipe that an option or another part of srq sets.

    Parameters
    ----------
    key
        Path of the field as TOML has it: ``train.batch`` or ``sites."body.3.conv2".weight``; or a
        section, whose table is replaced.
    value
        Value of the field.
    given
        Start of the errors in it: the parameter and the value that the user gave.
    """

    key: str
    value: Any
    given: str

    @classmethod
    def of(cls, key: str, value: Any, parameter: str, given: object = None) -> Self:
        """Change that a parameter asks for.

        Parameters
        ----------
        given
            Value of the parameter, where it is not that of the field.

        Examples
        --------
        >>> Change.of("bits.w", 9, "w").given
        '`w` 9'
        """
        return cls(key, value, f"`{parameter}` {value if given is None else given}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``key=value``, an entry of the parameter ``overrides``, with a TOML value.

        A value that is no TOML is taken as text.

        >>> Change.parse("train.batch=8").value, Change.parse("data.train=my photos").value
        (8, 'my photos')

        Raises
        ------
        UsageError
            The text is no ``key=value``, or has a value that no recipe has.
        """
        key, equals, value = (part.strip() for part in text.partition("="))
        change = cls.of(key, value, "overrides", _cut(text))
        if not equals or not 1 <= len(change.parts) <= _PARTS:
            raise UsageError(
                f"{change.given}: must be section.key=value, as train.iters=1000 or "
                f"'sites.\"body.3.conv2\".weight=5'"
            )
        try:
            return replace(change, value=tomllib.loads(f"value = {value}")["value"])
        except tomllib.TOMLDecodeError:
            return change
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{change.given}: is no value of a recipe") from error

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Names of the tables and the field; none where the key is no TOML key.

        >>> Change.of('sites."body.3.conv2".weight', 5, "overrides").parts
        ('sites', 'body.3.conv2', 'weight')
        """
        if self.key.count(".") > _DOTS:
            return ()
        try:
            table: Any = tomllib.loads(f"{self.key} = 0")
        except (ValueError, RecursionError):
            return ()
        parts: list[str] = []
        while isinstance(table, dict):
            ((part, table),) = table.items()
            parts.append(part)
        return tuple(parts)

    def put(self, values: dict[str, Any]) -> None:
        """Change the tables of a recipe.

        Raises
        ------
        UsageError
            The field would be inside something that is no table.
        """
        *sections, last = self.parts
        table = values
        for part in sections:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{self.given}: {part} is no section")
            table = inner
        table[last] = deepcopy(self.value)

    def concerns(self, place: str) -> bool:
        """Tell if a path is that of the field, of a part of it, or of a table around it."""
        own = ".".join(self.parts)
        return f"{place}.".startswith(f"{own}.") or f"{own}.".startswith(f"{place}.")


Changes = Iterable[Change | str]
"""Changes, or texts ``key=value`` as of the parameter ``overrides``."""


def parse_changes(changes: Changes) -> tuple[Change, ...]:
    """Read the texts among changes.

    Raises
    ------
    UsageError
        One is no ``key=value``.
    """
    return tuple(Change.parse(each) if isinstance(each, str) else each for each in changes)


def options_as_changes(options: Mapping[str, tuple[str, Any]]) -> list[Change]:
    """Turn parameters of a command that were given into changes.

    Parameters
    ----------
    options
        By the key of the field: the parameter's name and its value; None: it was not given.
    """
    return [
        Change.of(key, value, parameter)
        for key, (parameter, value) in options.items()
        if value is not None
    ]


def named_recipes() -> dict[str, TrainingRecipe]:
    """Read the recipes that have names; those of plugins with errors are left out and warned of."""
    recipes = {}
    for name in recipe_names():
        try:
            recipes[name] = load_recipe(name)
        except UsageError as error:
            warn(first_line(error))
    return recipes


def origin_of(name_or_file: str) -> str:
    """Start of the errors in a recipe: its file, or its name.

    >>> origin_of("my.toml"), origin_of("daq-edsr")
    ('my.toml', 'recipe daq-edsr')
    """
    return name_or_file if _is_file_name(name_or_file) else f"recipe {name_or_file}"


@overload
def load_recipe(name_or_file: str, changes: Changes = ()) -> TrainingRecipe: ...
@overload
def load_recipe(name_or_file: str, changes: Changes, kind: type[R]) -> R: ...
def load_recipe(
    name_or_file: str, changes: Changes = (), kind: type[TrainingRecipe] = TrainingRecipe
) -> TrainingRecipe:
    """Read, change and validate a recipe.

    Parameters
    ----------
    changes
        Changes to apply, in order.
    kind
        Required kind of recipe.

    Raises
    ------
    UsageError
        The recipe has errors (one line each: the user's text, or file and key path; what is
        allowed, nearest name), or is for another command.
    """
    origin = origin_of(name_or_file)
    values = parse_toml(_content(name_or_file), origin)
    own = _kind_of(values)
    task = next(task for task, each in _KINDS.items() if each is own)
    if not issubclass(own, kind):
        raise UsageError(f"{origin}: is for 'srq {task}'")
    changes = parse_changes(changes)
    for change in changes:
        change.put(values)
        if _kind_of(values) is not own:
            raise UsageError(f"{change.given}: {origin} is for 'srq {task}'")
    return validate_recipe(values, origin, changes)


def validate_recipe(
    values: dict[str, Any], origin: str, changes: Iterable[Change] = ()
) -> TrainingRecipe:
    """Validate plain values as a recipe of the kind that the task names.

    Parameters
    ----------
    origin
        Source of the values, which errors begin with.
    changes
        Changes that were applied; errors in them begin with the user's text.

    Raises
    ------
    UsageError
        The values have errors, one line each.
    """
    model = _kind_of(values)
    sections = _sections(model, values)
    problems: list[_Problem] = []
    for name in _BY_NAME.keys() & sections.keys():
        # Also validated inside the recipe; here, so that all errors are reported together.
        try:
            sections[name].model_validate(values[name])
        except ValidationError as error:
            problems += [_problem(e, sections, name) for e in error.errors()]
    told = {problem.place.partition(".")[0] for problem in problems}
    try:
        recipe = model.model_validate(values)
    except ValidationError as error:
        problems += [
            _problem(e, sections) for e in error.errors() if not (e["loc"] and e["loc"][0] in told)
        ]
    if problems:
        last_first = tuple(changes)[::-1]
        raise UsageError(together(problem.line(origin, last_first) for problem in problems))
    return recipe


def dump_recipe(recipe: TrainingRecipe) -> str:
    """Write all fields of a recipe as TOML, for ``load_recipe``."""
    return tomli_w.dumps(recipe.model_dump(by_alias=True))


def _is_file_name(name_or_file: str) -> bool:
    path = Path(name_or_file)
    return path.suffix == ".toml" or len(path.parts) > 1


def _content(name_or_file: str) -> str:
    """Read a recipe by its path (with a slash or ``.toml``) or its name."""
    if _is_file_name(name_or_file):
        return read_text(Path(name_or_file), "recipe")
    if not has_recipe(name_or_file):
        raise unknown("recipe", name_or_file, recipe_names())
    return recipe_text(name_or_file)


def read_text(path: Path, what: str) -> str:
    """Read a TOML file as text, at most a little more than the largest that is parsed.

    Parameters
    ----------
    what
        Kind of the file, for messages.

    Raises
    ------
    UsageError
        The file cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"no such {what} file: {path}")
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST + 1).decode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a readable TOML file: no UTF-8 text") from error


def parse_toml(text: str, origin: str) -> dict[str, Any]:
    """Parse a TOML file of a user.

    Raises
    ------
    UsageError
        The text is no TOML, or too large; the error begins with ``origin``.
    """
    if len(text) > _LARGEST or any(line.count(".") > _DOTS for line in text.splitlines()):
        raise UsageError(f"{origin}: is too large for a recipe")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin}: not a readable TOML file: {first_line(error)}") from error
    except (ValueError, RecursionError) as error:
        what = "too deeply nested, or a number of thousands of digits"
        raise UsageError(f"{origin}: not a readable TOML file: {what}") from error


def _kind_of(values: Mapping[str, Any]) -> type[TrainingRecipe]:
    """Class of a recipe by its task; that of pretraining if it names none."""
    info = values.get("recipe")
    task = info.get("task") if isinstance(info, dict) else None
    return _KINDS.get(task, PretrainRecipe) if isinstance(task, str) else PretrainRecipe


def _sections(model: type[TrainingRecipe], values: Mapping[str, Any]) -> dict[str, type[BaseModel]]:
    """Types of a recipe's tables, without those that depend on an unknown name."""
    found = {}
    for name, field in model.model_fields.items():
        cls = field.annotation
        if name in _BY_NAME:
            table = values.get(name)
            if not isinstance(table, dict) or not isinstance(table.get("name"), str):
                continue
            try:
                cls = _BY_NAME[name](table["name"])
            except UsageError:
                continue
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            found[name] = cls
    return found


@dataclass(frozen=True)
class _Problem:
    """Error in a recipe: path and value of the field, if there is one, and what is wrong."""

    place: str
    value: str
    what: str

    def line(self, origin: str, changes: Iterable[Change]) -> str:
        """Format the error. The first change that concerns the field is blamed for it."""
        field = f"{_cut(self.place)}{self.value and f' = {self.value}'}: " if self.place else ""
        change = next((c for c in changes if self.place and c.concerns(self.place)), None)
        if change is None:
            return f"{origin}: {field}{self.what}"
        key = ".".join(change.parts)
        if change.key in change.given or change.given.endswith(f" {change.value}"):
            part = self.place.removeprefix(f"{key}.") if key in self.place else ""
            named = part and part != self.place and not part.isdecimal()
            field = f"{_cut(part)}: " if named else ""
        return f"{change.given}: {field}{self.what}"


def problem_lines(
    error: ValidationError, origin: str, sections: Mapping[str, type[BaseModel]]
) -> list[str]:
    """Put all errors of a TOML file into lines: file, key path, value, what is allowed.

    Parameters
    ----------
    sections
        Types of the tables by their names, for hints.
    """
    return [_problem(each, sections).line(origin, ()) for each in error.errors()]


def _problem(
    error: ErrorDetails, sections: Mapping[str, type[BaseModel]], prefix: str = ""
) -> _Problem:
    path = [prefix] * bool(prefix) + [str(part) for part in error["loc"]]
    place = ".".join(path)
    if error["type"] == "extra_forbidden":
        return _Problem(place, "", f"{in_words(error)}{_hint(path, sections)}")
    what = in_words(error, _limits(path, sections))
    # Messages of checks of several fields begin with the name of one of them.
    if match := re.fullmatch(r"([a-z]\w*(?:\.\w+)*)(?: = (\S+))?: (.+)", what):
        name, value, what = match.groups(default="")
        inside = not path or name.partition(".")[0] == path[0]
        return _Problem(name if inside else f"{place}.{name}", value, what)
    value = (
        ""
        if isinstance(error["input"], dict) or error["type"] == "missing"
        else _cut(repr(error["input"]))
    )
    return _Problem(place, value, what)


def _hint(path: list[str], sections: Mapping[str, type[BaseModel]]) -> str:
    """Nearest keys to an unknown one, else the keys of its table."""
    keys = {
        name: [field.alias or key for key, field in section.model_fields.items()]
        for name, section in sections.items()
    }
    *tables, last = path
    allowed = keys[tables[0]] if tables and tables[0] in keys else list(keys)
    near = [".".join([*tables, each]) for each in get_close_matches(last, allowed, n=1)]
    near = near or [f"{name}.{last}" for name, fields in keys.items() if last in fields]
    if near:
        return f", did you mean {' or '.join(near)}?"
    return f", allowed here: {', '.join(sorted(allowed))}"


def _limits(path: list[str], sections: Mapping[str, type[BaseModel]]) -> Iterable[Any]:
    """Constraints of a field, or of a list's entries."""
    if len(path) < 2 or path[0] not in sections:
        return ()
    field = sections[path[0]].model_fields.get(path[1])
    if field is None or len(path) == 2:
        return field.metadata if field else ()
    entries = get_args(field.annotation)
    return getattr(entries[0], "__metadata__", ()) if entries else ()


def _cut(text: str) -> str:
    """Shorten a text for a line on the terminal."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables into one with dotted keys.

    >>> flat({"train": {"iters": 3, "batch": 2}, "schema": 1})
    {'train.iters': 3, 'train.batch': 2, 'schema': 1}
    """
    values: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
