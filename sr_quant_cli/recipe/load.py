"""Reading recipes: file or built-in name, overrides, and every error at once."""

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.networks import config_class, network_names
from sr_quant_cli.recipe.schema import PretrainRecipe
from sr_quant_cli.resources import recipes_dir


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


def load_recipe(name_or_file: str, overrides: Iterable[str] = ()) -> PretrainRecipe:
    """Read, override and validate a recipe.

    Parameters
    ----------
    overrides
        ``section.key=value`` with a TOML value; a value that is none is taken as text.

    Raises
    ------
    UsageError
        With a line for every error: file, key path, value, what is allowed, nearest name.
    """
    path = recipe_path(name_or_file)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}") from error
    for override in overrides:
        _apply(values, override)
    return validate_recipe(values, str(path))


def validate_recipe(values: dict[str, Any], origin: str) -> PretrainRecipe:
    """Turn plain values into a recipe; ``origin`` names them in errors."""
    problems = []
    network = values.get("network")
    if isinstance(network, dict) and network.get("name") in network_names():
        # Validated here as well as inside the recipe, to report both sets of errors together.
        try:
            config_class(network["name"]).model_validate(network)
        except ValidationError as error:
            cls = config_class(network["name"])
            problems += [_line(e, cls, "network.") for e in error.errors()]
    try:
        recipe = PretrainRecipe.model_validate(values)
    except ValidationError as error:
        problems += [
            _line(e, PretrainRecipe)
            for e in error.errors()
            if not (problems and e["loc"][:1] == ("network",))
        ]
    except UsageError as error:
        problems.append(f"network.name: {error}")
    if problems:
        raise UsageError("\n".join(f"{origin}: {problem}" for problem in problems))
    return recipe


def dump_recipe(recipe: PretrainRecipe) -> str:
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
    where = prefix + ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        near = get_close_matches(path[-1], known, n=1)
        hint = f", did you mean '{near[0]}'?" if near else ""
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
