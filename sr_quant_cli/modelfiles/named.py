"""The door for models: what a user names becomes a ``Source``, once; nothing here imports torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sr_quant_cli.errors import UsageError
from sr_quant_cli.runtimes.registry import is_graph
from sr_quant_cli.scales import SCALES, check_scale
from sr_quant_cli.system.resources import models_dir

RECIPE = "recipe.toml"
MODEL = "model.safetensors"
"""Names of the recipe and the model in a run folder."""

FAST = "fast"
"""Name of the embedded model with half the layers."""

_DEFAULT = "edsr-baseline-x{}-w8a8.safetensors"
"""Embedded model that serves if no other is named."""

_HEADER = 2**24
"""bytes of a file in which the metadata of its header must end"""

Kind = Literal["embedded", "model", "checkpoint", "graph"]


@dataclass(frozen=True)
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
    """

    path: Path
    kind: Kind
    scale: int | None = None

    @property
    def is_model_file(self) -> bool:
        """True for srq's own model files."""
        return self.kind in ("embedded", "model")


def identify(named: Path | str | None, scale: int | None = None) -> Source:
    """Find the file that a user named, and look at what it is.

    Parameters
    ----------
    named
        A file; a run folder, which stands for the model in it; the name of an embedded model, as
        ``edsr-baseline-x4``; ``fast``, the embedded model with half the layers; None, the embedded
        model. A file comes before an embedded model of the same name.
    scale
        Scale that the model must have; None: any, and of an embedded model without one in its name
        4.

    Raises
    ------
    UsageError
        There is no such file or embedded model, a folder holds no model, or no model has that
        scale.
    """
    if scale is not None:
        check_scale(scale)
    path = _find(None if named is None else Path(named), scale or 4)
    if is_graph(path):
        if not path.is_file():
            raise UsageError(f"no such model file: {path}")
        return Source(path, "graph", scale)
    if not _is_model_file(path):
        return Source(path, "checkpoint", scale)
    return Source(path, "embedded" if path.parent == models_dir() else "model", scale)


def embedded_model(scale: int) -> Path:
    """Embedded model of a scale that is quantized to integers throughout, the default of srq.

    Raises
    ------
    UsageError
        No embedded model has that scale.
    """
    return _embedded(_DEFAULT, scale)


def has_embedded_model(scale: int) -> bool:
    """Tell if there is an embedded model of a scale."""
    return (models_dir() / _DEFAULT.format(scale)).is_file()


def full_precision_model(scale: int) -> Path:
    """Embedded full-precision model of a scale, which quantization starts from.

    Raises
    ------
    UsageError
        No embedded model has that scale.
    """
    return _embedded("edsr-baseline-x{}.safetensors", scale)


def model_file(path: Path) -> Path:
    """Model file that a path names: the path, the model of a run folder, or an embedded one.

    Raises
    ------
    UsageError
        The path is a folder without a model.
    """
    embedded = {file.stem: file for file in models_dir().glob("*.safetensors")}
    if str(path) in embedded and not path.exists():
        return embedded[str(path)]
    if not path.is_dir():
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    what = "a run that has no model yet" if (path / RECIPE).is_file() else "no run folder"
    raise UsageError(f"{path} is {what}: {MODEL} is not there")


def _find(named: Path | None, scale: int) -> Path:
    if named is None:
        return embedded_model(scale)
    if str(named) == FAST and not named.exists():
        return _embedded("edsr-small-x{}-w8a8.safetensors", scale)
    return model_file(named)


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
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return b'"srq":' in file.read(min(size, _HEADER))
    except OSError as error:
        raise UsageError(f"no such model file: {path}") from error
