"""Recipes as types: all fields with their meaning, range and default."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    PlainValidator,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from sr_quant_cli.data.degrade import CLEAN, Degradations
from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import config_class as method_config_class
from sr_quant_cli.methods import method_names
from sr_quant_cli.networks import config_class, network_names
from sr_quant_cli.networks.base import NetworkConfig
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.widths import WeightWidth, Width
from sr_quant_cli.recipe.sites import SiteChanges, SitesSection
from sr_quant_cli.strict import MOST, Strict
from sr_quant_cli.system.choices import PrecisionChoice

Augmentation = Literal["hflip", "vflip", "transpose"]


MOST_STEPS = 10**9
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
"""Number of steps."""
Patches = Annotated[int, Field(ge=1, le=MOST)]
"""Number of patches."""


class Section(Strict):
    """Table of a recipe."""


class RecipeInfo(Section):
    """``[recipe]``: name and purpose of the file."""

    name: str
    """unique name"""
    task: Literal["pretrain", "quantize", "distill"]
    """command that the recipe is for"""
    description: str = ""
    """one line"""
    reference: str = ""
    """paper, or other source of the values"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """seed of weights, data order and augmentation"""


ANY = "any"
"""Name of the network in a recipe that is not tied to one."""


class AnyNetwork(NetworkConfig):
    """``[network]`` of a recipe for the network of any model."""

    name: Literal["any"] = "any"
    """the network of the model; its scale here is the one that ``data.patch_hr`` is for"""


def network_class(name: str) -> type[NetworkConfig]:
    """Find the class of a table ``[network]`` by its name.

    Raises
    ------
    UsageError
        There is no such network.
    """
    return AnyNetwork if name == ANY else config_class(name)


class DataSection(Section):
    """``[data]``: training photographs."""

    train: str = "DIV2K"
    """DIV2K, Flickr2K, DF2K, sample, several of them joined by +, or a folder"""
    validation: list[str] = Field(default_factory=list)
    """glob patterns of held-out files; empty: the set's own validation part, else one in fifty"""
    lr: Literal["auto", "bicubic", "folder"] = "auto"
    """LR from LR_bicubic/X{scale} beside HR, or by bicubic; auto: the folder if there is one"""
    patch_hr: Annotated[int, Field(ge=16, le=MOST)] = 192
    """side of an HR patch in pixels, a multiple of the scale; at another scale in proportion"""
    patch_hr_x2: Annotated[int, Field(ge=0, le=MOST, multiple_of=2)] = 0
    """side at scale 2, if it is not in proportion; 0: it is"""
    augment: list[Augmentation] = Field(default=["hflip", "vflip", "transpose"])
    """each applied with probability 1/2"""


class TrainSection(Section):
    """``[train]``: length, batch size and arithmetic."""

    iters: Steps = 300_000
    """optimizer steps"""
    batch: Patches = 16
    """patches per step"""
    init: str = ""
    """model file, of any scale, with the initial weights; empty: random weights"""
    loss: Literal["l1", "l2"] = "l1"
    """pixel loss, on values 0..255"""
    precision: PrecisionChoice = "auto"
    """bf16 autocast or fp32; auto: bf16 if the hardware supports it"""
    compose: bool = True
    """run the linear layers at the end of a network as one convolution, whose kernel is composed
    from their weights in every step (pretrain); the border pixels of patches are not used"""
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
    """decay rates of the two moments"""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """added to the denominator"""


class ScheduleSection(Section):
    """``[schedule]``: learning rate over the steps."""

    kind: Literal["step", "milestones", "cosine", "constant"] = "step"
    """step: times gamma at regular intervals; milestones: times gamma at given steps; cosine: down
    to the final factor at the last step"""
    every: Steps = 200_000
    """steps between decays (step)"""
    at: list[Steps] = Field(default=[])
    """steps of the decays (milestones)"""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """factor of each decay (step, milestones)"""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """factor on the learning rate at the end (cosine)"""
    warmup: Annotated[int, Field(ge=0, le=MOST_STEPS)] = 0
    """steps of linear rise from 0"""


class EmaSection(Section):
    """``[ema]``: exponential moving average of the weights, which is validated and saved."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """weight of the old average; it rises as (1 + step) / (10 + step) up to this; 0: no average"""


class ValidationSection(Section):
    """``[validation]``: PSNR on held-out photographs, which selects the best checkpoint."""

    every: Steps = 1000
    """steps between validations"""
    crop_hr: Annotated[int, Field(ge=0, le=MOST)] = 512
    """side of the central HR crop that is scored, in pixels; 0: the whole picture"""
    max_images: Patches = 10
    """largest number of photographs"""


class DepthSection(Section):
    """``[depth]``: for networks that run at several depths; each batch trains all of them."""

    weights: list[float] = Field(default=[1.0, 1.0, 1.0], min_length=3, max_length=3)
    """relative weights of the losses at full, half and quarter depth; 0: not trained"""
    distill_weight: Annotated[float, Field(ge=0)] = 1e-4
    """weight of the distance between the outputs at lower and full depth, as a pixel loss"""

    @field_validator("weights")
    @classmethod
    def _full_depth_is_trained(cls, weights: list[float]) -> list[float]:
        if min(weights) < 0 or weights[0] == 0:
            raise ValueError("must be 0 or more, and above 0 for full depth")
        return weights

    @property
    def includes_lower(self) -> bool:
        """True if a lower depth is trained, too."""
        return any(self.weights[1:])


class TrainingRecipe(Section):
    """Fields of all recipes."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    """version of the recipe format"""
    recipe: RecipeInfo
    network: SerializeAsAny[NetworkConfig]
    data: DataSection = DataSection()
    degradations: Degradations = CLEAN
    train: TrainSection = TrainSection()
    optim: OptimSection = OptimSection()
    schedule: ScheduleSection = ScheduleSection()
    ema: EmaSection = EmaSection()
    depth: DepthSection = DepthSection()
    validation: ValidationSection = ValidationSection()

    def patch_at(self, scale: int) -> int:
        """HR side of a patch at another scale: for the same LR side, or as the recipe says."""
        if scale == 2 != self.network.scale and self.data.patch_hr_x2:
            return self.data.patch_hr_x2
        return self.data.patch_hr // self.network.scale * scale

    @field_validator("network", mode="before")
    @classmethod
    def _network_by_name(cls, value: Any) -> Any:
        return _by_name(value, NetworkConfig, config_class, network_names)

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


class QuantizeValidationSection(ValidationSection):
    """``[validation]`` of a quantized network."""

    report: bool = False
    """measure the finished model for deployment: PSNR before and after, bytes, milliseconds in each
    runtime, layers left in float"""


class QuantizeTrainSection(TrainSection):
    """``[train]`` of a quantized network."""

    iters: Annotated[int, Field(ge=0, le=MOST_STEPS)] = 0
    """optimizer steps; 0: calibration alone"""


class QuantizeOptimSection(OptimSection):
    """``[optim]`` of a quantized network: learning rates of the groups of parameters."""

    lr: Annotated[float, Field(ge=0)] = 1e-4
    """learning rate of the network's weights; 0: not trained"""
    lr_bounds: Annotated[float, Field(ge=0)] = 1e-2
    """learning rate of activation ranges; 0: they stay as calibrated"""
    lr_weight_bounds: Annotated[float, Field(ge=0)] = 1e-2
    """learning rate of weight ranges, if they are learned"""
    lr_auxiliary: Annotated[float, Field(ge=0)] = 1e-4
    """learning rate of gates and selectors"""


class BitsSection(Section):
    """``[bits]``: default widths, of operands with precision ``low``."""

    w: WeightWidth = 4
    """bits of weights, or levels: "29L" are the codes -14..14"""
    a: Width = 4
    """bits of activations, or levels"""


def _if_possible(value: object) -> object:
    """Refuse other values, and numbers that equal one."""
    if value is True or value is False or value == "auto":
        return value
    raise ValueError("must be true, false or auto")


IfPossible = Annotated[Literal[True, False, "auto"], PlainValidator(_if_possible)]
"""A step that a recipe asks for, or leaves to the network."""


class CalibrationSection(Section):
    """``[calibration]``: LR patches that ranges are found on, before any training."""

    images: Patches = 32
    """number of patches, drawn from the training photographs"""
    patch_lr: Annotated[int, Field(ge=8, le=MOST)] = 64
    """side of a patch in LR pixels"""
    batch: Patches = 32
    """patches per batch"""
    colours: bool = False
    """for every 32 patches, also flat ones in black, grey, white and the six pure colours"""
    exact_input: bool = False
    """first subtract a level of 8 bits from pictures instead of a mean colour, so that the input is
    exact at 8 bits"""
    fold: bool = False
    """first fold the linear layers after the body; pictures are then padded by mirroring"""
    equalize: IfPossible = False
    """first scale feature channels to equal ranges, without changing the float network; auto: if
    the network has channels that can be scaled"""
    mix: IfPossible = False
    """then mix the channels of the residual stream, to minimize the effect of rounding; auto: if
    the network has a residual stream that is quantized"""
    compensate: bool = False
    """round weights so that errors cancel in each layer's output (GPTQ), and correct biases"""


class QuantizeEmaSection(EmaSection):
    """``[ema]`` of a quantized network; the papers use none."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """weight of the old average; it rises as (1 + step) / (10 + step) up to this; 0: no average"""


class LossSection(Section):
    """``[loss]``: losses of training, besides the kind of pixel loss in ``[train]``."""

    target: Literal["hr", "teacher"] = "hr"
    """target of the output; the teacher is the full-precision model"""
    pixel: Annotated[float, Field(ge=0)] = 1.0
    """weight of the pixel loss, on values 0..255"""
    feature: Literal["none", "attention", "normalized", "normalized_l2", "energy"] = "none"
    """attention: PAMS's attention transfer; normalized: mean squared difference of features over
    their norms (2DQuant); normalized_l2: L2 distance of features over their norms (AdaBM); energy:
    L2 distance of squared features over their norms (QuantSR)"""
    feature_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of the feature loss"""
    points: Literal["pre_upsampler", "blocks"] = "pre_upsampler"
    """where features are compared"""
    reduction: Literal["sum", "mean"] = "sum"
    """sum or mean of the distances at all blocks"""
    block_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of the same distance behind the last convolution of every block's branch, in addition
    to the one at pre_upsampler"""

    @model_validator(mode="after")
    def _blocks_once(self) -> Self:
        if self.block_weight and (self.feature == "none" or self.points == "blocks"):
            raise ValueError(
                "loss.block_weight: goes with loss.points = pre_upsampler and a loss.feature"
            )
        return self


class TeacherSection(Section):
    """``[teacher]``: model that the student imitates."""

    model: str = ""
    """model file; given with --teacher"""


class DistillRecipe(TrainingRecipe):
    """A recipe of ``srq distill``."""

    teacher: TeacherSection = TeacherSection()
    optim: QuantizeOptimSection = QuantizeOptimSection()
    loss: LossSection = LossSection()
    ema: QuantizeEmaSection = QuantizeEmaSection()


class BeforeSection(Section):
    """``[before]``: stages that make the model to start from, if none is given."""

    pretrain: str = ""
    """recipe of the full-precision network; empty: the embedded one, or a given model"""
    quantize: str = ""
    """recipe of the quantized network to start from; empty: the full-precision one"""
    w: WeightWidth = 8
    """bits or levels of weights of that network"""
    a: Width = 8
    """bits or levels of activations of that network"""


class QuantizeRecipe(TrainingRecipe):
    """A recipe of ``srq quantize``."""

    method: SerializeAsAny[MethodConfig]
    before: BeforeSection = BeforeSection()
    bits: BitsSection = BitsSection()
    sites: SitesSection = SitesSection()
    code_sites: SiteChanges = SiteChanges()
    """kinds and paths of sites as in [sites], for variant code at placement paper; [sites] takes
    precedence"""
    calibration: CalibrationSection = CalibrationSection()
    train: QuantizeTrainSection = QuantizeTrainSection()
    optim: QuantizeOptimSection = QuantizeOptimSection()
    loss: LossSection = LossSection()
    ema: QuantizeEmaSection = QuantizeEmaSection()
    validation: QuantizeValidationSection = QuantizeValidationSection()

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        return _by_name(value, MethodConfig, method_config_class, method_names)

    @field_validator("network", mode="before")
    @classmethod
    def _network_by_name(cls, value: Any) -> Any:
        return _by_name(value, NetworkConfig, network_class, lambda: [*network_names(), ANY])


def _by_name(
    value: Any,
    base: type[BaseModel],
    find: Callable[[str], type[BaseModel]],
    names: Callable[[], list[str]],
) -> Any:
    """Validate a table by the class of its ``name``."""
    if isinstance(value, base):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f"needs name = one of {', '.join(names())}")
    try:
        return find(value["name"]).model_validate(value)
    except UsageError as error:
        raise ValueError(str(error)) from error
