"""The one model file: ``.safetensors`` with all that rebuilds the network in its header.

The header's metadata entry ``srq`` is JSON: format version, network name and configuration, the
range and colour order of input and output, and the card. Loading never runs code.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr_quant_cli import __version__
from sr_quant_cli.errors import UsageError
from sr_quant_cli.files import replacing
from sr_quant_cli.networks import build, config_class
from sr_quant_cli.networks.base import Network


class SetScore(BaseModel):
    """PSNR (dB) and SSIM of a model on one benchmark set, with all that makes them comparable."""

    model_config = ConfigDict(extra="forbid")

    bench: str
    images: int
    scale: int
    protocol: str
    border: int
    lr: str
    psnr: float
    ssim: float


class TrainingRun(BaseModel):
    """One training run in a model's history."""

    model_config = ConfigDict(extra="forbid")

    task: str
    steps: int
    seconds: float
    device: str
    precision: str
    data: str
    photographs: int
    started_from: str | None = None
    validation_psnr: float | None = None
    recipe: dict[str, Any]


class Card(BaseModel):
    """What one should know of a model besides its weights."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    data: str = ""
    licence: str = ""
    training: list[TrainingRun] = Field(default_factory=list)
    scores: list[SetScore] = Field(default_factory=list)


class Header(BaseModel):
    """The ``srq`` metadata entry of a model file."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    version: str = __version__
    network: dict[str, Any]
    input: str = "RGB, 0..1, NCHW"
    output: str = "RGB, 0..1, NCHW"
    card: Card = Field(default_factory=Card)


def save_model(path: Path, network: Network, card: Card) -> None:
    """Write a model file in float32, atomically.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    tensors = {key: value.detach().float().cpu() for key, value in network.state_dict().items()}
    _write(path, tensors, Header(network=network.config.model_dump(), card=card))


def pack_model(source: Path, target: Path, changes: dict[str, str], *, half: bool) -> None:
    """Copy a model file for release, with entries of its card changed.

    Parameters
    ----------
    changes
        New values of ``name``, ``data`` or ``licence``.
    half
        Store the weights as float16: half the size, a relative rounding error below 2**-11.

    Raises
    ------
    UsageError
        ``source`` is no model file.
    FailedError
        ``target`` cannot be written.
    """
    header, tensors = _read(source)
    if half:
        tensors = {key: value.half() for key, value in tensors.items()}
    card = header.card.model_copy(update=changes)
    _write(target, tensors, header.model_copy(update={"card": card}))


def record_scores(path: Path, scores: list[SetScore]) -> None:
    """Put scores into the card of a model file, replacing those of the same set and protocol.

    Raises
    ------
    UsageError
        ``path`` is no srq model file.
    FailedError
        It cannot be written.
    """
    header, tensors = _read(path)
    replaced = {(score.bench, score.protocol) for score in scores}
    kept = [s for s in header.card.scores if (s.bench, s.protocol) not in replaced]
    card = header.card.model_copy(update={"scores": [*kept, *scores]})
    _write(path, tensors, header.model_copy(update={"card": card}))


def read_header(path: Path) -> Header:
    """Read the header alone.

    Raises
    ------
    UsageError
        The file is missing, damaged, or not srq's.
    """
    if not path.is_file():
        raise UsageError(f"no such model file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("srq")
        if text is None:
            raise UsageError(f"{path} is no srq model: its header has no 'srq' entry")
        return Header.model_validate(json.loads(text))
    except (SafetensorError, OSError, ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"{path} is no readable srq model file: {first}") from error


def load_model(path: Path) -> tuple[Network, Header]:
    """Rebuild a network in float32, in evaluation mode, on the CPU.

    Raises
    ------
    UsageError
        The file is missing, damaged, not srq's, or its tensors do not fit its configuration.
    """
    header, tensors = _read(path)
    try:
        config = config_class(str(header.network.get("name"))).model_validate(header.network)
        network = build(config)
        network.load_state_dict({key: value.float() for key, value in tensors.items()})
    except (RuntimeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit its network: {detail}") from error
    return network.eval(), header


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    header = read_header(path)
    try:
        return header, load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable srq model file: {error}") from error


def _write(path: Path, tensors: dict[str, Tensor], header: Header) -> None:
    whole = {key: value.contiguous() for key, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata={"srq": header.model_dump_json()})
