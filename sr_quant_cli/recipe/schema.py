"""Recipes as types: every field with its meaning, its range and its default."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import config_class as method_config_class
from sr_quant_cli.methods import method_names
from sr_quant_cli.networks import config_class, network_names
from sr_quant_cli.networks.base import NetworkConfig
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.recipe.sites import SitesSection
from sr_quant_cli.strict import MOST, Strict
from sr_quant_cli.system.choices import PrecisionChoice

Augmentation = Literal["hflip", "vflip", "transpose"]


MOST_STEPS = 10**9
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
"""A number of steps, or what it is counted in."""
Patches = Annotated[int, Field(ge=1, le=MOST)]
"""A number of patches."""


class Section(Strict):
    """A table of a recipe."""


class RecipeInfo(Section):
    """``[recipe]``: what the file is."""

    name: str
    """unique name"""
    task: Literal["pretrain", "quantize", "distill"]
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
    patch_hr: Annotated[int, Field(ge=16, le=MOST)] = 192
    """side of an HR patch in pixels, a multiple of the scale"""
    augment: list[Augmentation] = Field(default=["hflip", "vflip", "transpose"])
    """each applied with probability 1/2"""


class TrainSection(Section):
    """``[train]``: length, batch and arithmetic."""

    iters: Steps = 300_000
    """optimizer steps"""
    batch: Patches = 16
    """patches a step"""
    init: str = ""
    """model file of any scale whose weights training starts from; empty: fresh weights"""
    loss: Literal["l1", "l2"] = "l1"
    """pixel loss, on values 0..255"""
    precision: PrecisionChoice = "auto"
    """bf16 autocast or fp32; auto: bf16 where the hardware has it"""
    compose: bool = True
    """run the linear layers at a network's end as one convolution, whose kernel is composed from
    their weights in every step (pretrain); the outermost pixels of a patch are left out"""
    grad_clip: Annotated[float, Field(ge=0)] = 0.0
    """largest gradient norm; 0: no clipping"""
    log_every: Steps = 100
    """steps between lines of the log"""
    checkpoint_every: Steps = 1000
    """steps between checkpoints"""


class OptimSection(Section):
    """``[optim]``: Adam."""

    name: Literal["adam"] = "adam"
    """optimizer"""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """learning rate at the start"""
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.9, 0.999], min_length=2, max_length=2
    )
    """decay of the two moments"""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """added to the denominator"""


class ScheduleSection(Section):
    """``[schedule]``: learning rate over time."""

    kind: Literal["step", "milestones", "cosine", "constant"] = "step"
    """step: times gamma every so many steps; milestones: times gamma at given steps; cosine: down
    to the final factor at the last step"""
    every: Steps = 200_000
    """steps between decays (step)"""
    at: list[Steps] = Field(default=[])
    """steps at which it decays (milestones)"""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """factor of a decay (step, milestones)"""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """factor on the learning rate at the end (cosine)"""
    warmup: Annotated[int, Field(ge=0, le=MOST_STEPS)] = 0
    """steps of linear rise from 0"""


class EmaSection(Section):
    """``[ema]``: exponential moving average of the weights, which is what is validated and kept."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """weight of the old average; it rises as (1 + step) / (10 + step) up to this; 0: no average"""


class ValidationSection(Section):
    """``[validation]``: PSNR on held-out photographs, by which the best checkpoint is chosen."""

    every: Steps = 1000
    """steps between validations"""
    crop_hr: Annotated[int, Field(ge=0, le=MOST)] = 512
    """side of the central HR crop that is scored; 0: the whole picture"""
    max_images: Patches = 10
    """photographs at most"""


class DepthSection(Section):
    """``[depth]``: of networks that run at several depths; each batch trains all of them."""

    weights: list[float] = Field(default=[1.0, 1.0, 1.0], min_length=3, max_length=3)
    """of the losses at full, half and quarter depth, relative to their sum; 0: it is not trained"""
    distill_weight: Annotated[float, Field(ge=0)] = 1e-4
    """weight of the distance of lower depths' output to the full one's, as the pixel loss has it"""

    @field_validator("weights")
    @classmethod
    def _full_depth_is_trained(cls, weights: list[float]) -> list[float]:
        if min(weights) < 0 or weights[0] == 0:
            raise ValueError("must be 0 or more, that of full depth more than 0")
        return weights

    @property
    def includes_lower(self) -> bool:
        """A depth below the full one is trained."""
        return any(self.weights[1:])


class TrainingRecipe(Section):
    """What every recipe of a command that trains has."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    """version of the recipe format"""
    recipe: RecipeInfo
    network: SerializeAsAny[NetworkConfig]
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    optim: OptimSection = OptimSection()
    schedule: ScheduleSection = ScheduleSection()
    ema: EmaSection = EmaSection()
    depth: DepthSection = DepthSection()
    validation: ValidationSection = ValidationSection()

    def patch_at(self, scale: int) -> int:
        """HR side of a patch at another scale: what counts is the LR side."""
        return self.data.patch_hr // self.network.scale * scale

    @field_validator("network", mode="before")
    @classmethod
    def _network_by_name(cls, value: Any) -> Any:
        return _by_name(value, NetworkConfig, config_class, network_names())

    @model_validator(mode="after")
    def _patch_fits_scale(self) -> Self:
        if self.data.patch_hr % self.network.scale:
            raise ValueError(
                f"data.patch_hr = {self.data.patch_hr}: must be a multiple of the scale "
                f"{self.network.scale}"
            )
        return self

    @model_validator(mode="after")
    def _depth_is_of_use(self) -> Self:
        if len(self.network.depths) == 1 and self.depth != DepthSection():
            raise ValueError(f"depth: {self.network.name} has one depth; leave [depth] out")
        return self


class PretrainRecipe(TrainingRecipe):
    """A recipe of ``srq pretrain``."""


class QuantizeTrainSection(TrainSection):
    """``[train]`` of a quantized network."""

    iters: Annotated[int, Field(ge=0, le=MOST_STEPS)] = 0
    """optimizer steps; 0: calibration alone"""


class QuantizeOptimSection(OptimSection):
    """``[optim]`` of a quantized network: a learning rate for each group of parameters."""

    lr: Annotated[float, Field(ge=0)] = 1e-4
    """of the network's weights; 0: they are not trained"""
    lr_bounds: Annotated[float, Field(ge=0)] = 1e-2
    """of the ranges of activations; 0: they stay as calibrated"""
    lr_weight_bounds: Annotated[float, Field(ge=0)] = 1e-2
    """of the ranges of weights, where they are learned"""
    lr_auxiliary: Annotated[float, Field(ge=0)] = 1e-4
    """of gates and selectors"""


class BitsSection(Section):
    """``[bits]``: default bit widths, of operands with precision ``low``."""

    w: Annotated[int, Field(ge=2, le=8)] = 4
    """bits of weights"""
    a: Annotated[int, Field(ge=2, le=8)] = 4
    """bits of activations"""


class CalibrationSection(Section):
    """``[calibration]``: LR pictures that ranges are found on before any training."""

    images: Patches = 32
    """patches, drawn from the training photographs"""
    patch_lr: Annotated[int, Field(ge=8, le=MOST)] = 64
    """side of a patch in LR pixels"""
    batch: Patches = 32
    """patches at once"""
    colours: bool = False
    """for every 32 patches also flat ones of black, grey, white and the six pure colours"""
    fold: bool = False
    """first fold the linear layers behind the body; pictures then get mirrored surroundings"""
    equalize: bool = False
    """first scale channels of features to equal ranges; the float network stays"""
    mix: bool = False
    """then mix those of the residual stream so that rounding them disturbs the output least"""
    compensate: bool = False
    """round weights so that errors cancel in the output of each layer (GPTQ), and correct biases"""


class QuantizeEmaSection(EmaSection):
    """``[ema]`` of a quantized network: the papers keep the weights themselves."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """weight of the old average; it rises as (1 + step) / (10 + step) up to this; 0: no average"""


class LossSection(Section):
    """``[loss]``: what training minimizes beside the pixel loss of ``[train]``."""

    target: Literal["hr", "teacher"] = "hr"
    """what the output is compared with; the teacher is the full-precision model"""
    pixel: Annotated[float, Field(ge=0)] = 1.0
    """weight of the pixel loss, on values 0..255"""
    feature: Literal["none", "attention", "normalized"] = "none"
    """attention: PAMS's attention transfer; normalized: distance of normalized features"""
    feature_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of the feature loss"""
    points: Literal["pre_upsampler", "blocks"] = "pre_upsampler"
    """where features are compared"""
    block_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of the same distance behind every block, beside that at pre_upsampler"""

    @model_validator(mode="after")
    def _blocks_once(self) -> Self:
        if self.block_weight and (self.feature == "none" or self.points == "blocks"):
            raise ValueError(
                "loss.block_weight: goes with loss.points = pre_upsampler and a loss.feature"
            )
        return self


class TeacherSection(Section):
    """``[teacher]``: the model that is imitated."""

    model: str = ""
    """model file; given with --teacher"""


class DistillRecipe(TrainingRecipe):
    """A recipe of ``srq distill``."""

    teacher: TeacherSection = TeacherSection()
    optim: QuantizeOptimSection = QuantizeOptimSection()
    loss: LossSection = LossSection()
    ema: QuantizeEmaSection = QuantizeEmaSection()


class BeforeSection(Section):
    """``[before]``: stages that make what the method starts from, where no model is given."""

    pretrain: str = ""
    """recipe of the full-precision network; empty: the embedded one, or a model that is given"""
    quantize: str = ""
    """recipe of the quantized network that it starts from; empty: the full-precision one"""
    w: Annotated[int, Field(ge=2, le=8)] = 8
    """bits of weights of that network"""
    a: Annotated[int, Field(ge=2, le=8)] = 8
    """bits of activations of that network"""


class QuantizeRecipe(TrainingRecipe):
    """A recipe of ``srq quantize``."""

    method: SerializeAsAny[MethodConfig]
    before: BeforeSection = BeforeSection()
    bits: BitsSection = BitsSection()
    sites: SitesSection = SitesSection()
    calibration: CalibrationSection = CalibrationSection()
    train: QuantizeTrainSection = QuantizeTrainSection()
    optim: QuantizeOptimSection = QuantizeOptimSection()
    loss: LossSection = LossSection()
    ema: QuantizeEmaSection = QuantizeEmaSection()

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        return _by_name(value, MethodConfig, method_config_class, method_names())


def _by_name(
    value: Any, base: type[BaseModel], find: Callable[[str], type[BaseModel]], names: list[str]
) -> Any:
    """Validate a table by the class that its ``name`` stands for."""
    if isinstance(value, base):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"needs name = one of {', '.join(names)}")
    try:
        return find(value["name"]).model_validate(value)
    except UsageError as error:
        raise ValueError(str(error)) from error
