"""Training objectives: losses, and the parameters that they train."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods.base import Group, Method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import ComposedEnd
from sr_quant_cli.recipe.schema import (
    DistillRecipe,
    LossSection,
    QuantizeRecipe,
    TrainingRecipe,
)
from sr_quant_cli.system.choices import Depth


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with a common learning rate, which is multiplied by a factor in each step."""

    parameters: list[nn.Parameter]
    lr: float
    factor: Callable[[int], float] = lambda _step: 1.0


@dataclass(frozen=True)
class Target:
    """Target of a step: a picture ``[N, 3, sh, sw]``, 0..1, and features of the teacher."""

    picture: Tensor
    features: dict[str, list[Tensor]] = field(default_factory=dict)
    """outputs of submodules, by their paths; several if one is used several times"""


class Objective(nn.Module):
    """A network with the losses on its output: the module that is trained, on one rank or many.

    Losses are computed in float32 on values 0..255, also under autocast.
    """

    may_skip_gradients: ClassVar[bool] = False
    """a step may leave some parameters without a gradient"""

    def __init__(self, network: Network, recipe: TrainingRecipe) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Compute named scalar losses, to be summed, of a batch.

        A network with several depths runs at each one that the recipe trains. The losses of a depth
        are multiplied by its share, and those of lower depths have its name at the end of theirs.
        ``distill`` is the distance of their output to the one at full depth.

        Parameters
        ----------
        lr, hr
            Pictures ``[N, 3, h, w]`` and ``[N, 3, sh, sw]``, 0..1.
        """
        target = self.target(lr, hr)
        depth = self.recipe.depth
        total: dict[str, Tensor] = {}
        deepest: Tensor | None = None
        for name, share in trained_depths(self.network, depth.weights).items():
            self.network.set_depth(name)
            sr, losses = self.losses(lr, target)
            if deepest is None:
                total = {loss: share * value for loss, value in losses.items()}
                deepest = sr.detach().float()
                continue
            total |= {f"{loss}_{name}": share * value for loss, value in losses.items()}
            if depth.distill_weight:
                distance = pixel_loss(sr, deepest, self.recipe.train.loss)
                total[f"distill_{name}"] = depth.distill_weight * distance
        self.network.set_depth("full")
        return total

    def target(self, lr: Tensor, hr: Tensor) -> Target:
        """Build the target of a batch, which is the same at every depth."""
        return Target(hr)

    @abstractmethod
    def losses(self, lr: Tensor, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the network at its current depth; return the output and its named losses."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Group the parameters that are trained."""
        return [ParameterGroup(list(self.network.parameters()), self.recipe.optim.lr)]

    def is_side_loss(self, name: str) -> bool:
        """Tell if the gradient of a loss is not summed with the others: ``combine`` adds it."""
        return False

    def combine(self, gradient: Tensor, side: Tensor) -> Tensor:
        """Combine the gradient of a parameter with that of the side losses, of the same shape."""
        return gradient + side

    def set_phase(self, network: Network, step: int) -> None:
        """Put a network (the trained one, or its average) into the phase of ``step``."""

    def after_step(self) -> None:
        """Clamp parameters to their ranges after an update."""


class PixelLoss(Objective):
    """Mean absolute or squared difference to HR.

    With ``train.compose`` the linear layers at the end of the network run as one convolution. This
    changes the pixels at the border of a patch, which do not count then.
    """

    def __init__(self, network: Network, recipe: TrainingRecipe) -> None:
        super().__init__(network, recipe)
        self._end = ComposedEnd(network) if recipe.train.compose else None

    def target(self, lr: Tensor, hr: Tensor) -> Target:
        """HR, without the border that does not count."""
        return Target(self._inside(hr))

    def losses(self, lr: Tensor, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss under the name ``pixel``."""
        with self._end.composed() if self._end else nullcontext():
            sr = self._inside(self.network(lr))
        return sr, {"pixel": pixel_loss(sr, target.picture, self.recipe.train.loss)}

    def _inside(self, picture: Tensor) -> Tensor:
        border = self._end.border * self.network.scale if self._end else 0
        return picture[:, :, border:-border, border:-border] if border else picture


class StudentLoss(Objective):
    """Losses of a student, on its output and its features, against HR or a teacher.

    Parameters
    ----------
    method
        Method that quantized the student; None: the student is float.
    teacher
        None: no loss needs one. Its mirrored surroundings are switched off.

    Raises
    ------
    UsageError
        Student and teacher have different numbers of features.
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
            path: weight / (len(paths) if recipe.loss.reduction == "mean" else 1)
            for kind, weight in feature_weights(recipe.loss).items()
            for paths in [network.features()[kind]]
            for path in paths
        }
        released = method.feature_paths(network) if method else ()
        if self._weights and released:
            self._weights = dict.fromkeys(released, recipe.loss.feature_weight)
        if teacher is not None:
            teacher.set_context(0)  # as for the student: training patches are not extended
        # In a tuple, so that the teacher is no submodule: it is not trained, saved or broadcast.
        self._teacher = (teacher,)

    def target(self, lr: Tensor, hr: Tensor) -> Target:
        """HR or the output of the teacher, and the features of the teacher."""
        (teacher,) = self._teacher
        if teacher is None:
            return Target(hr)
        with torch.no_grad(), features_of(teacher, tuple(self._weights)) as features:
            output = teacher(lr)
        return Target(output.float() if self.recipe.loss.target == "teacher" else hr, features)

    def losses(self, lr: Tensor, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses ``pixel`` and ``feature``, and those of the method."""
        loss = self.recipe.loss
        with features_of(self.network, tuple(self._weights)) as features:
            sr = self.network(lr)
        pixel = loss.pixel * (self._method.pixel_factor(sr) if self._method else 1.0)
        losses = {"pixel": pixel * pixel_loss(sr, target.picture, self.recipe.train.loss)}
        if self._weights:
            distance = feature_distance(loss)
            weights: Mapping[str, Tensor | float] = self._weights
            if self._method:
                distance = self._method.feature_distance(self.network, distance)
                weights = {
                    path: weight * self._method.feature_factor(self.network, path)
                    for path, weight in self._weights.items()
                }
            # Blocks that are left out at this depth have no features.
            losses["feature"] = sum(
                (
                    weights[path] * distance(student.float(), teacher.float())
                    for path, outputs in features.items()
                    for student, teacher in zip(outputs, target.features[path], strict=True)
                ),
                start=torch.zeros((), device=lr.device),
            )
        return sr, losses | (self._method.regularizers(self.network) if self._method else {})

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups of the method with their learning rates; those with rate 0 are frozen."""
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

    def is_side_loss(self, name: str) -> bool:
        """Ask the method; at lower depths, names end with that of the depth."""
        names = self._method.side_losses if self._method else ()
        return any(name == side or name.startswith(f"{side}_") for side in names)

    def combine(self, gradient: Tensor, side: Tensor) -> Tensor:
        """Combine gradients as the method does."""
        method = self._method
        return method.combine(gradient, side) if method else super().combine(gradient, side)

    def set_phase(self, network: Network, step: int) -> None:
        """Set the phase of the method."""
        if self._method:
            self._method.before_step(network, step, self.recipe.train.iters)

    def after_step(self) -> None:
        """Let the method clamp its ranges."""
        if self._method:
            self._method.after_step(self.network)


def trained_depths(network: Network, weights: Sequence[float]) -> dict[Depth, float]:
    """Depths of a network that are trained, with the shares of their losses, which sum to 1.

    Parameters
    ----------
    weights
        Weights of the losses at full, half and quarter depth; 0: the depth is not trained.
    """
    pairs = zip(network.depths, weights, strict=False)
    trained = {name: weight for name, weight in pairs if weight}
    total = sum(trained.values())
    return {name: weight / total for name, weight in trained.items()}


def pixel_loss(sr: Tensor, target: Tensor, kind: Literal["l1", "l2"]) -> Tensor:
    """Mean absolute (l1) or squared (l2) difference of pictures 0..1, on values 0..255."""
    measure = F.l1_loss if kind == "l1" else F.mse_loss
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

    Each norm is taken over all values of a sample.
    """
    a, b = (F.normalize(f.flatten(1), dim=1) for f in (student, teacher))
    return (a - b).square().mean()


def normalized_l2_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Feature loss of AdaBM: L2 distance of features divided by their norms.

    Each norm is taken over the whole batch ``[N, C, H, W]``. The distance is computed for every
    sample, averaged, and divided by ``N`` once more.

    >>> a, b = torch.tensor([[3.0], [4.0]]), torch.tensor([[4.0], [3.0]])
    >>> round(normalized_l2_distance(a, b).item(), 6)
    0.1
    """
    a, b = (f / f.norm() for f in (student, teacher))
    distances: Tensor = (a - b).flatten(1).norm(dim=1)
    return distances.mean() / len(student)


def energy_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Distillation loss of QuantSR: L2 distance of squared features divided by their norms.

    Norms are taken over the whole batch.

    >>> round(energy_distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])).item(), 6)
    1.414214
    """
    a, b = (f.square() / f.square().norm() for f in (student, teacher))
    distance: Tensor = (a - b).norm()
    return distance


def needs_teacher(loss: LossSection) -> bool:
    """Tell if a loss compares the student with a teacher."""
    return loss.target == "teacher" or loss.feature != "none"


def feature_weights(loss: LossSection) -> dict[str, float]:
    """Weights of the feature loss by the places where features are compared."""
    weights = {} if loss.feature == "none" else {str(loss.points): loss.feature_weight}
    if loss.block_weight:
        weights["branches"] = loss.block_weight
    return weights


def feature_distance(loss: LossSection) -> Callable[[Tensor, Tensor], Tensor]:
    """Distance of features that a recipe names."""
    return _DISTANCES[loss.feature]


_DISTANCES = {
    "attention": attention_distance,
    "normalized": normalized_distance,
    "normalized_l2": normalized_l2_distance,
    "energy": energy_distance,
}


@contextmanager
def features_of(network: nn.Module, paths: tuple[str, ...]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the outputs of submodules by their paths while the block runs."""
    outputs: dict[str, list[Tensor]] = {}

    def note(path: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.setdefault(path, []).append(output)

    handles = [
        network.get_submodule(path).register_forward_hook(partial(note, path)) for path in paths
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
