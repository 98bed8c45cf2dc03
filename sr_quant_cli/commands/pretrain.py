"""``srq pretrain``: a full-precision network, trained from photographs."""

from dataclasses import dataclass

import torch

from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.modelfiles.loading import load, name_of
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import Named, identify
from sr_quant_cli.networks import REGISTRY, build, network_names
from sr_quant_cli.recipe.load import Change, Changes, load_recipe
from sr_quant_cli.recipe.schema import PretrainRecipe
from sr_quant_cli.scales import check_scale
from sr_quant_cli.training.objective import Objective, PixelLoss
from sr_quant_cli.training.run import (
    Start,
    TrainingJob,
    TrainingOptions,
    TrainingResult,
    locate,
    run_job,
)


@dataclass(frozen=True, kw_only=True)
class PretrainRequest(TrainingOptions):
    """Options of ``srq pretrain``.

    Parameters
    ----------
    network
        Name of the network.
    recipe
        Name or file of the recipe.
    scale
        None: the recipe's.
    init
        Model of any scale whose weights are the start; None: the recipe's.
    """

    network: str
    recipe: str
    scale: int | None = None
    init: Named | None = None


def pretrain(request: PretrainRequest) -> TrainingResult:
    """Train, or continue training, and write ``model.safetensors`` into the run folder.

    Raises
    ------
    UsageError
        Unknown network, recipe key or data set; or a run folder of another recipe.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    return run_job(plan(request), request)


def plan(request: PretrainRequest) -> TrainingJob[PretrainRecipe]:
    """Prepare the training that a request asks for; nothing is written.

    Raises
    ------
    UsageError
        Unknown network or recipe key, or a start model that is not usable.
    """
    resolved = resolve(request.network, request.recipe, request.scale, request.overrides)
    recipe = locate(resolved, request, request.init)
    start = None
    if recipe.train.init:
        source = identify(recipe.train.init)
        other, header = load(source)
        start = Start(other, header.card.model_copy(update={"name": name_of(source, header)}))

    def objective(train: PairStore, _device: torch.device, resumed: bool) -> Objective:
        network = build(recipe.network)
        if start is not None:
            try:
                network.start_from(start.network)
            except ValueError as error:
                raise UsageError(
                    f"{recipe.train.init}, to start from, is a different network: {error}"
                ) from error
        if recipe.depth.includes_lower and not resumed:
            sampler = PatchSampler(
                train,
                seed=recipe.recipe.seed,
                batch=recipe.train.batch,
                patch_hr=recipe.data.patch_hr,
                augment=(),
            )
            lr, _ = sampler.batch(0)
            network.rank_blocks([to_tensor(lr, torch.device("cpu"))])
        return PixelLoss(network, recipe)

    name = f"{recipe.network.name}-x{recipe.network.scale}"
    return TrainingJob(recipe, name, objective, save_model, start)


def resolve(network: str, recipe: str, scale: int | None, changes: Changes) -> PretrainRecipe:
    """Load the recipe that trains a network.

    Parameters
    ----------
    scale
        None: the recipe's.
    changes
        Changes for ``load_recipe``, made after that of the scale.

    Raises
    ------
    UsageError
        Unknown network, scale or recipe, a mistake in the recipe, or a recipe for another network.
    """
    if network not in REGISTRY or network in REGISTRY.unlisted:
        raise unknown("network", network, network_names())
    scaled = []
    if scale is not None:
        check_scale(scale)
        patch = load_recipe(recipe, (), PretrainRecipe).patch_at(scale)
        scaled = [
            Change.of(key, value, "scale", scale)
            for key, value in {"network.scale": scale, "data.patch_hr": patch}.items()
        ]
    loaded = load_recipe(recipe, [*scaled, *changes], PretrainRecipe)
    if loaded.network.name != network:
        raise UsageError(f"recipe {recipe} is for {loaded.network.name}, not for {network}")
    return loaded
