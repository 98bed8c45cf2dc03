"""The door for models: what a user names becomes a ``Source``, once; nothing here imports torch."""

import json
import os
from pathlib import Path
from typing import Literal, get_args

from sr_quant_cli.errors import UsageError, nearest
from sr_quant_cli.plugins import Origin, versions
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.registry import is_graph, runtimes
from sr_quant_cli.scales import SCALES, check_scale
from sr_quant_cli.system.files import user_models_dir
from sr_quant_cli.system.reporting import note
from sr_quant_cli.system.resources import models_dir

RECIPE = "recipe.toml"
MODEL = "model.safetensors"
"""Names of the recipe and the model in a run folder."""

Family = Literal["clean", "photo", "fast"]
"""Embedded models for pictures without compression and noise; for photographs with both; with half
the layers. Each is a name that stands for the model of a scale."""

FAMILIES: tuple[Family, ...] = get_args(Family)

_FILE_OF: dict[Family, str] = {
    "clean": "edsr-baseline-x{}-w29a6.safetensors",
    "photo": "edsr-photo-x{}-w29a6.safetensors",
    "fast": "edsr-small-x{}-w8a8.safetensors",
}

MAX_HEADER = 2**24
"""bytes of a file in which the metadata of its header must end"""

_FILES = (".safetensors", ".pt", ".pth", ".ckpt")
"""Suffixes of model files and checkpoints."""

Kind = Literal["embedded", "model", "checkpoint", "graph"]

Named = Path | str
"""A model as a user names it; ``./x`` is a file only as a string, as ``Path`` drops the dot."""


@record
class Source:
    """A file that holds a model.

    Attributes
    ----------
    path
        The file itself, never a run folder or a name.
    kind
        ``embedded``: a model file that comes with srq; ``model``: another srq model file;
        ``checkpoint``: a file of another project; ``graph``: a graph file of a runtime.
    scale
        Scale that the model must have; None accepts any.
    default
        True if the user named none.
    """

    path: Path
    kind: Kind
    scale: int | None = None
    default: bool = False

    @property
    def is_model_file(self) -> bool:
        """True for srq's own model files."""
        return self.kind in ("embedded", "model")


def identify(named: Named | None, scale: int | None = None) -> Source:
    """Find the file that a user named, and look at what it is.

    Parameters
    ----------
    named
        The name of an embedded model or of one in the user's folder, as ``edsr-baseline-x4``; one
        of ``FAMILIES``; a file; a run folder, which stands for the model in it; None, the embedded
        model for clean pictures. What has a separator or the suffix of a model file is a path;
        anything else is a name first, and a path if there is no such model.
    scale
        Scale that the model must have; None: any, and of an embedded model without one in its name
        4.

    Raises
    ------
    UsageError
        There is no such file or name, a folder holds no model, or no model has that scale.
    """
    if scale is not None:
        check_scale(scale)
    path = _find(named, scale or 4)
    if path.suffix.lower() not in _FILES and is_graph(path):
        return Source(path, "graph", scale)
    if not _is_model_file(path):
        return Source(path, "checkpoint", scale)
    kind: Kind = "embedded" if path.parent == models_dir() else "model"
    return Source(path, kind, scale, default=named is None)


def embedded_model(scale: int, family: Family = "clean") -> Path:
    """Embedded model of a scale that is quantized to integers throughout.

    Raises
    ------
    UsageError
        No embedded model has that scale.
    """
    return _embedded(_FILE_OF[family], scale)


def embedded_scales(family: Family) -> list[int]:
    """Scales that a family has embedded models of.

    Raises
    ------
    UsageError
        It has none.
    """
    scales = [scale for scale in SCALES if has_embedded_model(scale, family)]
    if not scales:
        raise UsageError(f"no embedded model {family}; 'srq models list' shows all names")
    return scales


def has_embedded_model(scale: int, family: Family = "clean") -> bool:
    """Tell if there is an embedded model of a scale."""
    return (models_dir() / _FILE_OF[family].format(scale)).is_file()


def family_named(named: Named | None) -> Family | None:
    """Return the family that a name stands for; None: it stands for none."""
    text = "" if named is None else os.fspath(named)
    return next((family for family in FAMILIES if family == text), None)


def full_precision_model(scale: int) -> Path:
    """Embedded full-precision model of a scale, which quantization starts from.

    Raises
    ------
    UsageError
        No embedded model has that scale.
    """
    return _embedded("edsr-baseline-x{}.safetensors", scale)


def is_name(text: str) -> bool:
    """Tell if a text may be the name of a model: no separator, and no suffix of a model file."""
    separators = (os.sep, os.altsep or os.sep)
    return not any(separator in text for separator in separators) and text == without_suffix(text)


def without_suffix(text: str) -> str:
    """Remove the suffix of a model file, and no other one."""
    suffix = Path(text).suffix
    return text.removesuffix(suffix) if suffix.lower() in model_suffixes() else text


def model_suffixes() -> frozenset[str]:
    """Suffixes of model files, checkpoints and graphs."""
    graphs = (suffix for entry in runtimes() for suffix in entry.suffixes)
    return frozenset((*_FILES, *graphs))


def embedded_models() -> dict[str, Path]:
    """Files of the embedded models, by name."""
    return {
        path.stem: path
        for path in sorted(models_dir().glob("*.safetensors"), key=lambda path: path.stem)
    }


def user_models() -> dict[str, list[Path]]:
    """Files in the user's folder, by the name that they share, without their suffixes.

    Raises
    ------
    UsageError
        The folder cannot be read.
    """
    folder = user_models_dir()
    try:
        files = sorted(folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(
            f"cannot read {folder}, the folder of your models (SRQ_MODELS): {error.strerror}"
        ) from error
    models: dict[str, list[Path]] = {}
    for file in files:
        name = without_suffix(file.name)
        if name != file.name and not name.startswith(".") and file.is_file():
            models.setdefault(name, []).append(file)
    return models


def model_names() -> list[str]:
    """Names of all models: the embedded ones, then the user's.

    Raises
    ------
    UsageError
        The user's folder cannot be read.
    """
    return list(dict.fromkeys([*embedded_models(), *user_models()]))


def user_model(name: str) -> Path | None:
    """File of a model in the user's folder; None: there is no such name.

    Raises
    ------
    UsageError
        Several files have that name, or the folder cannot be read.
    """
    files = user_models().get(name, [])
    if len(files) > 1:
        raise UsageError(f"{name} stands for {' and '.join(map(str, files))}: name the file")
    return files[0] if files else None


def _model_file(named: Named) -> Path:
    """Model file that a name or a path stands for; see ``identify``.

    Raises
    ------
    UsageError
        There is no such file or name, or a folder holds no model.
    """
    text = os.fspath(named)
    if not text:
        raise UsageError("the name of a model is empty")
    path = Path(text)
    if is_name(text) and (found := _by_name(text)) is not None:
        _mention_file(text)
        return found
    if not path.exists():
        names = (*model_names(), *FAMILIES)
        near = "" if path.name != text else nearest(without_suffix(text), names)
        more = f";{near} 'srq models list' shows all names" if near or is_name(text) else ""
        raise UsageError(f"no such model file: {text}{more}")
    if not path.is_dir():
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    what = "a run that has no model yet" if (path / RECIPE).is_file() else "no run folder"
    raise UsageError(f"{path} is {what}: {MODEL} is not there")


def _mention_file(name: str) -> None:
    if Path(name).exists():
        note(f"{name} is the model of that name; the file is ./{name}")


def _by_name(name: str) -> Path | None:
    # An unreadable folder of the user's must not hide the embedded models.
    return embedded_models().get(name) or user_model(name)


def _find(named: Named | None, scale: int) -> Path:
    if named is None:
        return embedded_model(scale)
    family = family_named(named)
    if family is not None:
        _mention_file(family)
        embedded_scales(family)
        return embedded_model(scale, family)
    return _model_file(named)


def _embedded(name: str, scale: int) -> Path:
    """Find an embedded model; ``{}`` in its name stands for the scale."""
    check_scale(scale)
    files = {number: models_dir() / name.format(number) for number in SCALES}
    if not files[scale].is_file():
        there = ", ".join(f"x{number}" for number, path in files.items() if path.is_file())
        raise UsageError(f"no embedded model {files[scale].name}: {there or 'none'} is there")
    return files[scale]


def _is_model_file(path: Path) -> bool:
    """Tell a model file of srq, also a damaged one, from a checkpoint of another project."""
    try:
        return b'"srq":' in header_text(path)
    except OSError as error:
        raise UsageError(f"no such model file: {path}") from error


def plugin_versions(path: Path) -> list[str]:
    """Versions, as they are installed, of the plugins that a model file needs; mostly none."""
    try:
        entry = json.loads(json.loads(header_text(path))["__metadata__"]["srq"])
        return versions([Origin(**plugin) for plugin in entry.get("plugins", {}).values()])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # what reads the whole header says what is wrong


def header_text(path: Path) -> bytes:
    """Read the JSON text in front of a safetensors file; of another file some bytes."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(min(size, MAX_HEADER))
