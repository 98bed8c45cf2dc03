"""Reading recipes: file or built-in name, overrides, and every error at once."""

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, overload

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.methods import config_class as method_config_class
from sr_quant_cli.methods import method_names
from sr_quant_cli.networks import config_class, network_names
from sr_quant_cli.recipe.schema import DistillRecipe, PretrainRecipe, QuantizeRecipe, TrainingRecipe
from sr_quant_cli.resources import recipes_dir

_KINDS: dict[str, type[TrainingRecipe]] = {
    "pretrain": PretrainRecipe,
    "quantize": QuantizeRecipe,
    "distill": DistillRecipe,
}
_BY_NAME = (
    ("network", config_class, network_names()),
    ("method", method_config_class, method_names()),
)
"""Sections whose fields depend on their name."""

R = TypeVar("R", bound=TrainingRecipe)


def recipe_names() -> list[str]:
    """Names of the built-in recipes, sorted."""
    return sorted(path.stem for path in recipes_dir().glob("*.toml"))


def recipe_path(name_or_file: str) -> Path:
    """Find a recipe: a path (with a slash or ``.toml``) or the name of a built-in one.

    Raises
    ------
    UsageError
        There is no such file, or no recipe of that name.
    """
    path = Path(name_or_file)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise UsageError(f"no such recipe file: {path}")
        return path
    if name_or_file not in recipe_names():
        raise unknown("recipe", name_or_file, recipe_names())
    return recipes_dir() / f"{name_or_file}.toml"


@overload
def load_recipe(name_or_file: str, overrides: Iterable[str] = ()) -> TrainingRecipe: ...
@overload
def load_recipe(name_or_file: str, overrides: Iterable[str], kind: type[R]) -> R: ...
def load_recipe(
    name_or_file: str, overrides: Iterable[str] = (), kind: type[TrainingRecipe] = TrainingRecipe
) -> TrainingRecipe:
    """Read, override and validate a recipe.

    Parameters
    ----------
    overrides
        ``section.key=value`` with a TOML value; a value that is none is taken as text.
    kind
        Kind of recipe that is needed.

    Raises
    ------
    UsageError
        With a line for every error: file, key path, value, what is allowed, nearest name; or the
        recipe is for another command.
    """
    path = recipe_path(name_or_file)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}") from error
    if not issubclass(_kind_of(values), kind):
        raise UsageError(f"{path}: is for 'srq {values['recipe']['task']}'")
    for override in overrides:
        _apply(values, override)
    return validate_recipe(values, str(path))


def validate_recipe(values: dict[str, Any], origin: str) -> TrainingRecipe:
    """Turn plain values into a recipe of the kind that its task says; errors name ``origin``."""
    model = _kind_of(values)
    problems = []
    for section, find, names in _BY_NAME:
        table = values.get(section)
        if section in model.model_fields and isinstance(table, dict) and table.get("name") in names:
            # Validated here as well as inside the recipe, to report all errors together.
            cls = find(table["name"])
            try:
                cls.model_validate(table)
            except ValidationError as error:
                problems += [_line(e, cls, section) for e in error.errors()]
    told = {problem.replace(":", ".").partition(".")[0] for problem in problems}
    try:
        recipe = model.model_validate(values)
    except ValidationError as error:
        problems += [
            _line(e, model) for e in error.errors() if not (e["loc"] and e["loc"][0] in told)
        ]
    except UsageError as error:
        problems.append(str(error))
    if problems:
        raise UsageError("\n".join(f"{origin}: {problem}" for problem in problems))
    return recipe


def _kind_of(values: dict[str, Any]) -> type[TrainingRecipe]:
    """Class of a recipe by its task; that of pretraining where it names none."""
    info = values.get("recipe")
    task = info.get("task") if isinstance(info, dict) else None
    return _KINDS.get(task, PretrainRecipe) if isinstance(task, str) else PretrainRecipe


def dump_recipe(recipe: TrainingRecipe) -> str:
    """Write a recipe with every field as TOML that ``load_recipe`` reads back."""
    return tomli_w.dumps(recipe.model_dump(by_alias=True))


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set {override}: must be section.key=value, as train.iters=1000")
    table = values
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {override}: {part} is no section")
    try:
        table[parts[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[parts[-1]] = text


def _line(error: ErrorDetails, model: type[BaseModel], prefix: str = "") -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join([*([prefix] if prefix else []), *path])
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        near = get_close_matches(path[-1], known, n=1)
        hint = f", did you mean '{near[0]}'?" if near else ","
        return f"{where}: unknown key{hint} allowed here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{where}: is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    return f"{where}{shown}: {message}" if where else message


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(field.alias or name for name, field in model.model_fields.items())
