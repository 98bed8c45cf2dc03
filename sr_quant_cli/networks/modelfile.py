"""The one model file: ``.safetensors`` with all that rebuilds the network in its header.

The header's metadata entry ``srq`` is JSON: format version, network name and configuration, the
range and colour order of input and output, and the card. Loading never runs code.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sr_quant_cli import __version__
from sr_quant_cli.errors import UsageError
from sr_quant_cli.files import replacing
from sr_quant_cli.networks import build, config_class
from sr_quant_cli.networks.base import Network

FORMAT = 1


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

    format: Literal[1] = FORMAT
    version: str = __version__
    network: dict[str, Any]
    input: str = "RGB, 0..1, NCHW"
    output: str = "RGB, 0..1, NCHW"
    card: Card = Field(default_factory=Card)


def save_model(path: Path, network: Network, card: Card, *, half: bool = False) -> None:
    """Write a model file atomically.

    Parameters
    ----------
    half
        Store the weights as float16: half the size, a relative rounding error below 2**-11.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    header = Header(network=network.config.model_dump(), card=card)
    dtype = torch.float16 if half else torch.float32
    tensors = {
        key: value.detach().to("cpu", dtype).contiguous()
        for key, value in network.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"srq": header.model_dump_json()})


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
    header = read_header(path)
    try:
        config = config_class(str(header.network.get("name"))).model_validate(header.network)
        network = build(config)
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        network.load_state_dict(tensors, strict=True)
    except (SafetensorError, RuntimeError, ValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit its network: {detail}") from error
    return network.eval(), header
