"""What a training step minimizes, and which parameters it changes."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods.base import Group, Method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import ComposedEnd
from sr_quant_cli.recipe.schema import (
    DepthSection,
    DistillRecipe,
    LossSection,
    QuantizeRecipe,
    TrainingRecipe,
    TrainSection,
)
from sr_quant_cli.system.choices import Depth


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate: the recipe's, times a factor for each step."""

    parameters: list[nn.Parameter]
    lr: float
    factor: Callable[[int], float] = lambda _step: 1.0


@dataclass(frozen=True)
class Goal:
    """What the output of a step, 0..1 ``[N, 3, sh, sw]``, and features are compared with."""

    picture: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    """by the paths of the submodules that give them"""


class Objective(nn.Module):
    """A network and the losses on its output; the unit that is trained, on one process or many.

    Losses are in float32 on values 0..255, whatever autocast does to the network.
    """

    may_skip_gradients: ClassVar[bool] = False
    """a step may leave some parameters without a gradient"""

    def __init__(self, network: Network, recipe: TrainingRecipe) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Named scalar losses, to be summed: LR ``[N, 3, h, w]``, HR ``[N, 3, sh, sw]``, 0..1.

        A network of several depths runs at each that the recipe trains. Losses are those of a depth
        times its share; the names of those of lower depths end in it. ``distill`` is the distance
        of their output to that of the full depth.
        """
        goal = self.goal(lr, hr)
        depth, train = self.recipe.depth, self.recipe.train
        total: dict[str, Tensor] = {}
        deepest: Tensor | None = None
        for name, share in trained_depths(self.network, depth).items():
            self.network.set_depth(name)
            sr, losses = self.losses(lr, goal)
            if deepest is None:
                total = {loss: share * value for loss, value in losses.items()}
                deepest = sr.detach().float()
                continue
            total |= {f"{loss}_{name}": share * value for loss, value in losses.items()}
            if depth.distill_weight:
                total[f"distill_{name}"] = depth.distill_weight * pixel_loss(sr, deepest, train)
        self.network.set_depth("full")
        return total

    def goal(self, lr: Tensor, hr: Tensor) -> Goal:
        """What the batch is to come to, at every depth."""
        return Goal(hr)

    @abstractmethod
    def losses(self, lr: Tensor, goal: Goal) -> tuple[Tensor, dict[str, Tensor]]:
        """Output at the network's present depth, and its named losses."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained."""
        return [ParameterGroup(list(self.network.parameters()), self.recipe.optim.lr)]

    def set_phase(self, network: Network, step: int) -> None:
        """Make a network (this one, or its average) behave as at ``step``."""

    def after_step(self) -> None:
        """Bring parameters back into their ranges, after an update."""


class PixelLoss(Objective):
    """Mean absolute or squared difference to HR.

    With ``train.compose`` the linear layers at the network's end run as one convolution, and the
    pixels that this changes, at the border of a patch, are left out.
    """

    def __init__(self, network: Network, recipe: TrainingRecipe) -> None:
        super().__init__(network, recipe)
        self._end = ComposedEnd(network) if recipe.train.compose else None

    def goal(self, lr: Tensor, hr: Tensor) -> Goal:
        """HR, as far as it counts."""
        return Goal(self._inside(hr))

    def losses(self, lr: Tensor, goal: Goal) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss under the name ``pixel``."""
        with self._end.composed() if self._end else nullcontext():
            sr = self._inside(self.network(lr))
        return sr, {"pixel": pixel_loss(sr, goal.picture, self.recipe.train)}

    def _inside(self, picture: Tensor) -> Tensor:
        border = self._end.border * self.network.scale if self._end else 0
        return picture[:, :, border:-border, border:-border] if border else picture


class StudentLoss(Objective):
    """Losses of a student: to HR or to a teacher, on outputs and on features.

    Parameters
    ----------
    method
        The one that quantized the student; None: it is float.
    teacher
        None where no loss needs it; it loses its surroundings here.

    Raises
    ------
    UsageError
        Features of student and teacher cannot be compared.
    """

    may_skip_gradients = True

    def __init__(
        self,
        network: Network,
        recipe: QuantizeRecipe | DistillRecipe,
        method: Method | None,
        teacher: Network | None,
    ) -> None:
        super().__init__(network, recipe)
        self.recipe: QuantizeRecipe | DistillRecipe = recipe
        self._method = method
        if teacher is not None and recipe.loss.feature != "none":
            for kind in feature_weights(recipe.loss):
                ours, theirs = (len(n.features()[kind]) for n in (network, teacher))
                if ours != theirs:
                    raise UsageError(
                        f"features are compared at {kind}: the student has {ours} of them, the "
                        f"teacher {theirs}; compare at pre_upsampler alone"
                    )
        self._weights = {
            path: weight
            for kind, weight in feature_weights(recipe.loss).items()
            for path in network.features()[kind]
        }
        if teacher is not None:
            teacher.set_context(0)  # patches stay as they are for the student, too
        # In a tuple: the teacher is neither trained nor saved nor sent to other processes.
        self._teacher = (teacher,)

    def goal(self, lr: Tensor, hr: Tensor) -> Goal:
        """HR, or what the teacher makes of LR; its features."""
        (teacher,) = self._teacher
        if teacher is None:
            return Goal(hr)
        with torch.no_grad(), features_of(teacher, tuple(self._weights)) as features:
            output = teacher(lr)
        return Goal(output.float() if self.recipe.loss.target == "teacher" else hr, features)

    def losses(self, lr: Tensor, goal: Goal) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses ``pixel`` and ``feature``, and the method's own."""
        loss = self.recipe.loss
        with features_of(self.network, tuple(self._weights)) as features:
            sr = self.network(lr)
        losses = {"pixel": loss.pixel * pixel_loss(sr, goal.picture, self.recipe.train)}
        if self._weights:
            distance = feature_distance(loss)
            losses["feature"] = sum(
                (
                    weight * distance(features[path].float(), goal.features[path].float())
                    for path, weight in self._weights.items()
                ),
                start=torch.zeros((), device=lr.device),
            )
        return sr, losses | (self._method.regularizers(self.network) if self._method else {})

    def parameter_groups(self) -> list[ParameterGroup]:
        """The method's groups, each with its learning rate; those with rate 0 are frozen."""
        method = self._method
        if method is None:
            return super().parameter_groups()
        optim, iters = self.recipe.optim, self.recipe.train.iters
        rates: dict[Group, float] = {
            "weights": optim.lr,
            "bounds": optim.lr_bounds,
            "weight_bounds": optim.lr_weight_bounds,
            "auxiliary": optim.lr_auxiliary,
        }
        groups = []
        for name, parameters in method.parameter_groups(self.network).items():
            for parameter in parameters:
                parameter.requires_grad_(rates[name] > 0)
            if rates[name] > 0:

                def factor(step: int, group: Group = name) -> float:
                    return method.rate_factor(group, step, iters)

                groups.append(ParameterGroup(parameters, rates[name], factor))
        return groups

    def set_phase(self, network: Network, step: int) -> None:
        """The method's phase."""
        if self._method:
            self._method.before_step(network, step, self.recipe.train.iters)

    def after_step(self) -> None:
        """The method's care for its ranges."""
        if self._method:
            self._method.after_step(self.network)


def trained_depths(network: Network, depth: DepthSection) -> dict[Depth, float]:
    """Depths that a network can run at and the recipe trains, each with the share of its losses.

    Shares sum to 1. The full depth comes first.
    """
    pairs = zip(network.depths, depth.weights, strict=False)
    weights = {name: weight for name, weight in pairs if weight}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def pixel_loss(sr: Tensor, target: Tensor, train: TrainSection) -> Tensor:
    """Mean absolute (l1) or squared (l2) difference of pictures 0..1, on values 0..255."""
    measure = F.l1_loss if train.loss == "l1" else F.mse_loss
    return measure(sr.float() * 255, target * 255)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer of PAMS: mean squared difference of normalized attention maps.

    The map of a feature ``[N, C, H, W]`` is the mean over channels of its squares, flattened and
    divided by its L2 norm, per sample.

    >>> a = torch.tensor([[[[3.0, 0.0]], [[1.0, 0.0]]]])
    >>> attention_distance(a, a * 7).item()
    0.0
    >>> attention_distance(a, a.flip(3)).item()
    1.0
    """
    maps = [F.normalize(f.square().mean(1).flatten(1), dim=1) for f in (student, teacher)]
    return (maps[0] - maps[1]).square().mean()


def normalized_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Feature loss of 2DQuant: mean squared difference of features divided by their L2 norms.

    Norms are per sample, over all of its values.
    """
    a, b = (F.normalize(f.flatten(1), dim=1) for f in (student, teacher))
    return (a - b).square().mean()


def needs_teacher(loss: LossSection) -> bool:
    """Tell if a loss compares the student with a teacher."""
    return loss.target == "teacher" or loss.feature != "none"


def feature_weights(loss: LossSection) -> dict[str, float]:
    """Where features are compared, and with which weight."""
    weights = {} if loss.feature == "none" else {str(loss.points): loss.feature_weight}
    if loss.block_weight:
        weights["blocks"] = loss.block_weight
    return weights


def feature_distance(loss: LossSection) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance that a recipe names."""
    return attention_distance if loss.feature == "attention" else normalized_distance


@contextmanager
def features_of(network: nn.Module, paths: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of submodules that run in the block, by their paths."""
    outputs: dict[str, Tensor] = {}

    def note(path: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[path] = output

    handles = [
        network.get_submodule(path).register_forward_hook(partial(note, path)) for path in paths
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
