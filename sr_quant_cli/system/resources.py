"""Folders of the files that ship with srq: recipes and embedded models."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def models_dir() -> Path:
    """Return the folder of the embedded ``.safetensors`` models."""
    return _PACKAGE / "models"


def recipes_dir() -> Path:
    """Return the folder of the built-in ``.toml`` recipes.

    A wheel has it inside the package, a source tree at its top level.
    """
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"
