"""Card in the header of a model file; importing this module does not import torch."""

from typing import Annotated, Any

from pydantic import Field

from sr_quant_cli.strict import Strict

Count = Annotated[int, Field(ge=0)]


class SetScore(Strict):
    """PSNR (dB) and SSIM of a model on one benchmark set, with their protocol."""

    bench: str
    images: int
    scale: int
    protocol: str
    border: int
    lr: str
    psnr: float
    ssim: float


class TrainingRun(Strict):
    """One training run in a model's history."""

    task: str
    steps: Count
    seconds: float
    device: str
    precision: str
    data: str
    photographs: Count
    started_from: str | None = None
    validation_psnr: float | None = None
    recipe: dict[str, Any]


class Card(Strict):
    """Name, origin, licence, training history and scores of a model."""

    name: str = ""
    source: str = ""
    """project whose checkpoint it was imported from"""
    data: str = ""
    licence: str = ""
    training: list[TrainingRun] = Field(default_factory=list)
    scores: list[SetScore] = Field(default_factory=list)
