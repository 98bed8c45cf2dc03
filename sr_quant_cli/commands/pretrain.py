"""What ``srq pretrain`` does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import load_any, model_file
from sr_quant_cli.networks import build, network_names
from sr_quant_cli.recipe.load import Change, Changes, load_recipe
from sr_quant_cli.recipe.schema import PretrainRecipe
from sr_quant_cli.scales import check_scale
from sr_quant_cli.training.objective import Objective, PixelLoss
from sr_quant_cli.training.run import Job, Options, locate, run_job


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of ``srq pretrain``, as given."""

    network: str
    recipe: str
    scale: int | None = None
    init: Path | None = None


def pretrain(request: Request) -> dict[str, Any]:
    """Train, or continue training, and write ``model.safetensors`` into the run folder.

    Returns
    -------
    The report that ``--json`` writes.

    Raises
    ------
    UsageError
        Unknown network, recipe key, data set; or a run folder of another recipe.
    FailedError
        The run folder cannot be written, or training diverged.
    """
    resolved = resolve(request.network, request.recipe, request.scale, request.overrides)
    recipe = locate(resolved, request, request.init)
    start = None
    if recipe.train.init:
        path = model_file(Path(recipe.train.init))
        other, header = load_any(path)
        start = header.card.model_copy(update={"name": header.card.name or path.stem})

    def objective(train: PairStore, _device: torch.device, resumed: bool) -> Objective:
        network = build(recipe.network)
        if start is not None:
            try:
                network.start_from(other)
            except ValueError as error:
                raise UsageError(
                    f"{path}, to start from, is a different network: {error}"
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
    return run_job(Job(recipe, name, objective, save_model, start), request)


def resolve(network: str, recipe: str, scale: int | None, changes: Changes) -> PretrainRecipe:
    """Read the recipe that a network is trained by.

    Parameters
    ----------
    scale
        None: the recipe's.
    changes
        As ``load_recipe`` takes them; they come after the scale.

    Raises
    ------
    UsageError
        Unknown network, scale or recipe; a mistake in the recipe; or it is for another network.
    """
    if network not in network_names():
        raise unknown("network", network, network_names())
    scaled = []
    if scale is not None:
        check_scale(scale)
        patch = load_recipe(recipe, (), PretrainRecipe).patch_at(scale)
        scaled = [
            Change(key, value, f"--scale {scale}")
            for key, value in {"network.scale": scale, "data.patch_hr": patch}.items()
        ]
    loaded = load_recipe(recipe, [*scaled, *changes], PretrainRecipe)
    if loaded.network.name != network:
        raise UsageError(f"recipe {recipe} is for {loaded.network.name}, not for {network}")
    return loaded
