"""Recipes as types: every field with its meaning, its range and its default."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from sr_quant_cli.networks import config_class, network_names
from sr_quant_cli.networks.base import NetworkConfig

Augmentation = Literal["hflip", "vflip", "transpose"]


class Section(BaseModel):
    """A table of a recipe: unknown keys and wrong types are errors, numbers must be finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RecipeInfo(Section):
    """``[recipe]``: what the file is."""

    name: str
    """unique name"""
    task: Literal["pretrain"]
    """command that the recipe is for"""
    description: str = ""
    """one line"""
    reference: str = ""
    """paper or place that the values come from"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """weights, data order and augmentation follow from it"""


class DataSection(Section):
    """``[data]``: photographs to train on."""

    train: str = "DIV2K"
    """DIV2K, Flickr2K, sample, or a folder"""
    validation: list[str] = Field(default_factory=list)
    """glob patterns of files held out; empty: the set's own validation part, else one in fifty"""
    lr: Literal["auto", "bicubic", "folder"] = "auto"
    """LR from LR_bicubic/X{scale} beside HR, or made by bicubic; auto: the folder where it is"""
    patch_hr: Annotated[int, Field(ge=16)] = 192
    """side of an HR patch in pixels, a multiple of the scale"""
    augment: list[Augmentation] = ["hflip", "vflip", "transpose"]
    """each applied with probability 1/2"""


class TrainSection(Section):
    """``[train]``: length, batch and arithmetic."""

    iters: Annotated[int, Field(ge=1)] = 300_000
    """optimizer steps"""
    batch: Annotated[int, Field(ge=1)] = 16
    """patches a step"""
    init: str = ""
    """model file of any scale whose weights training starts from; empty: fresh weights"""
    loss: Literal["l1", "l2"] = "l1"
    """pixel loss, on values 0..255"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or fp32; auto: bf16 where the hardware has it"""
    grad_clip: Annotated[float, Field(ge=0)] = 0.0
    """largest gradient norm; 0: no clipping"""
    log_every: Annotated[int, Field(ge=1)] = 100
    """steps between lines of the log"""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    """steps between checkpoints"""


class OptimSection(Section):
    """``[optim]``: Adam."""

    name: Literal["adam"] = "adam"
    """optimizer"""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """learning rate at the start"""
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """decay of the two moments"""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """added to the denominator"""


class ScheduleSection(Section):
    """``[schedule]``: learning rate over time."""

    kind: Literal["step", "cosine", "constant"] = "step"
    """step: times gamma every so many steps; cosine: down to final_lr at the last step"""
    every: Annotated[int, Field(ge=1)] = 200_000
    """steps between decays (step)"""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """factor of a decay (step)"""
    final_lr: Annotated[float, Field(ge=0)] = 1e-6
    """learning rate at the end (cosine)"""
    warmup: Annotated[int, Field(ge=0)] = 0
    """steps of linear rise from 0"""


class EmaSection(Section):
    """``[ema]``: exponential moving average of the weights, which is what is validated and kept."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """weight of the old average; it rises as (1 + step) / (10 + step) up to this; 0: no average"""


class ValidationSection(Section):
    """``[validation]``: PSNR on held-out photographs, by which the best checkpoint is chosen."""

    every: Annotated[int, Field(ge=1)] = 1000
    """steps between validations"""
    crop_hr: Annotated[int, Field(ge=0)] = 512
    """side of the central HR crop that is scored; 0: the whole picture"""
    max_images: Annotated[int, Field(ge=1)] = 10
    """photographs at most"""


class PretrainRecipe(Section):
    """A recipe of ``srq pretrain``."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    """version of the recipe format"""
    recipe: RecipeInfo
    network: SerializeAsAny[NetworkConfig]
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    optim: OptimSection = OptimSection()
    schedule: ScheduleSection = ScheduleSection()
    ema: EmaSection = EmaSection()
    validation: ValidationSection = ValidationSection()

    @field_validator("network", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, NetworkConfig):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"needs name = one of {', '.join(network_names())}")
        return config_class(value["name"]).model_validate(value)

    @model_validator(mode="after")
    def _patch_fits_scale(self) -> Self:
        if self.data.patch_hr % self.network.scale:
            raise ValueError(
                f"data.patch_hr = {self.data.patch_hr}: must be a multiple of the scale "
                f"{self.network.scale}"
            )
        return self
