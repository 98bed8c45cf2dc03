"""Where the files that travel with srq lie: recipes and embedded models."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def models_dir() -> Path:
    """Folder of the embedded ``.safetensors`` models."""
    return _PACKAGE / "models"


def recipes_dir() -> Path:
    """Folder of the built-in ``.toml`` recipes.

    A wheel carries them inside the package; a source tree keeps them at its top level.
    """
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"
