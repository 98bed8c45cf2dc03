"""From what a user names to a model file, and to a network.

torch is imported only where a network is built.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sr_quant_cli.errors import UsageError
from sr_quant_cli.scales import SCALES, check_enlargement, check_scale
from sr_quant_cli.system.reporting import note
from sr_quant_cli.system.resources import models_dir

if TYPE_CHECKING:
    from sr_quant_cli.modelfiles.modelfile import Header
    from sr_quant_cli.networks.base import Depth, Network

RECIPE = "recipe.toml"
MODEL = "model.safetensors"
"""Names of the recipe and the model in a run folder."""


def model_file(path: Path) -> Path:
    """The model file that a path names.

    Of a run folder it is the one in it; ``edsr-baseline-x4``, where no file has that name, is the
    embedded model of that name; else it is the path itself.

    Raises
    ------
    UsageError
        It is a folder without a model.
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


FAST = "fast"
"""Name of the embedded model that takes less time, where models are run or looked at."""


def embedded_model(scale: int) -> Path:
    """The embedded model of a scale that runs fastest: quantized, on integers throughout.

    Raises
    ------
    UsageError
        There is none of that scale.
    """
    return _embedded("edsr-baseline-x{}-w8a8.safetensors", scale)


def named_model(model: Path | None, scale: int | None = None) -> Path:
    """The file that a user means by what was named.

    Parameters
    ----------
    model
        None: the embedded model; ``fast``, unless there is a file of that name: the embedded one
        that takes less time; else a file, or a run folder.
    scale
        None: 4, of an embedded model.

    Raises
    ------
    UsageError
        There is no such embedded model, or a folder holds none.
    """
    if model is None:
        return embedded_model(scale or 4)
    if str(model) == FAST and not model.exists():
        return _embedded("edsr-small-x{}-w8a8.safetensors", scale or 4)
    return model_file(model)


def full_precision_model(scale: int) -> Path:
    """The embedded full-precision model of a scale: what quantization starts from.

    Raises
    ------
    UsageError
        There is none of that scale.
    """
    return _embedded("edsr-baseline-x{}.safetensors", scale)


def _embedded(name: str, scale: int) -> Path:
    """An embedded model; ``{}`` in its name stands for the scale."""
    check_scale(scale)
    files = {number: models_dir() / name.format(number) for number in SCALES}
    if not files[scale].is_file():
        there = ", ".join(f"x{number}" for number, path in files.items() if path.is_file())
        raise UsageError(f"no embedded model {files[scale].name}: {there or 'none'} is there")
    return files[scale]


def load_any(path: Path, scale: int | None = None) -> "tuple[Network, Header]":
    """Load an srq model file, or read a checkpoint of another project as if it were one.

    Parameters
    ----------
    scale
        That it must enlarge by; None: by any, of a checkpoint that holds several by 4.

    Raises
    ------
    UsageError
        The file is not usable, or enlarges by another scale.
    """
    from sr_quant_cli.modelfiles.checkpoints import Given, import_checkpoint
    from sr_quant_cli.modelfiles.modelfile import Card, header_of, load_model

    if is_model_file(path):
        network, header = load_model(path)
        check_enlargement(name_of(path, header, "full"), network.scale, scale)
        return network, header
    network, source, assumed = import_checkpoint(path, Given(scale=scale))
    say_source(path, source, network.scale, assumed)
    return network, header_of(network, Card(name=path.stem, source=source))


def load_at_depth(path: Path, depth: "Depth", scale: int | None = None) -> "tuple[Network, Header]":
    """Load a model to run at a depth; a scale as for ``load_any``.

    Raises
    ------
    UsageError
        The file is not usable, or its network cannot run at that depth or enlarge by that scale.
    """
    network, header = load_any(path, scale)
    try:
        network.set_depth(depth)
    except ValueError as error:
        raise UsageError(f"--depth {depth}: {path}: {error}") from error
    return network, header


def name_of(path: Path, header: "Header", depth: "Depth") -> str:
    """What tables call a model."""
    name = header.card.name or path.stem
    return name if depth == "full" else f"{name}, {depth} depth"


_told: set[tuple[Path, str, int]] = set()
"""Checkpoints of which the user knows what they were taken for."""

_HEADER = 2**24
"""Bytes of a file's header in which its metadata end."""


def is_model_file(path: Path) -> bool:
    """Tell a model file of srq from a checkpoint of another project; asks without torch.

    Raises
    ------
    UsageError
        There is no such file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return b'"srq":' in file.read(min(size, _HEADER))
    except OSError as error:
        raise UsageError(f"no such model file: {path}") from error


def say_source(path: Path, source: str, scale: int, assumed: Sequence[str] = ()) -> None:
    """Tell the user what a checkpoint of another project was taken for, once for all processes.

    Parameters
    ----------
    assumed
        What it does not say, with the options of ``srq import`` that do.
    """
    if (path, source, scale) not in _told:
        _told.add((path, source, scale))
        more = f"; assumed, srq import changes it: {', '.join(assumed)}" if assumed else ""
        note(f"{path}: taken for {source}, x{scale}{more}")
