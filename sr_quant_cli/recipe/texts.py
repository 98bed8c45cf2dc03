"""Recipes by their names: the built-in ones, and those of plugins."""

import tomllib
from collections.abc import Mapping

from sr_quant_cli.errors import first_line
from sr_quant_cli.plugins import load, load_all, note_origin
from sr_quant_cli.system.resources import recipes_dir

_texts: dict[str, str] = {}
"""Texts of the recipes of plugins."""


def register(text: str) -> None:
    """Add a recipe under the name in its table ``[recipe]``.

    Its fields are checked when it is used.

    Parameters
    ----------
    text
        Content of a TOML file.

    Raises
    ------
    ValueError
        The text is no TOML or has no name, or the name is taken. Nothing is added.
    """
    try:
        info = tomllib.loads(text).get("recipe")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"a recipe is TOML: {first_line(error)}") from error
    name = info.get("name") if isinstance(info, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ValueError("a recipe needs a name, as recipe.name")
    if name in _texts or name in _built_in():
        raise ValueError(f"recipe '{name}' is registered twice")
    _texts[name] = text
    note_origin("recipe", name)


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    load_all("recipe", _texts)
    return sorted([*_built_in(), *_texts])


def has_recipe(name: str) -> bool:
    """Tell if there is a recipe of a name."""
    return name in _built_in() or load("recipe", name, _texts)


def recipe_text(name: str) -> str:
    """Text of a recipe that ``has_recipe`` knows."""
    if name in _texts:
        return _texts[name]
    return (recipes_dir() / f"{name}.toml").read_text(encoding="utf-8")


def _built_in() -> list[str]:
    return [path.stem for path in recipes_dir().glob("*.toml")]
