"""Calibrations that several runs share: each is made once and kept in a folder.

The file of a calibration is named by a hash of everything that decides it. It holds the state of
the calibrated network; structure and teacher are prepared again, as when a training goes on.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr_quant_cli import __version__
from sr_quant_cli.commands.calibrate import TeacherStudent, calibrate, prepare
from sr_quant_cli.commands.stages import content_hash
from sr_quant_cli.networks.base import Network
from sr_quant_cli.recipe.schema import QuantizeRecipe
from sr_quant_cli.system.files import replacing
from sr_quant_cli.system.reporting import note

_DECIDING = {"network", "method", "bits", "sites", "code_sites", "calibration", "depth"}
"""Sections of a recipe that a calibration follows."""


def shared_calibration(
    network: Network, recipe: QuantizeRecipe, batches: Sequence[Tensor], folder: Path
) -> TeacherStudent:
    """Calibrate as ``calibrate`` does, or take the result from a folder.

    Another process that makes the same calibration is waited for. A damaged file is replaced.
    Torch's random state is that of the recipe's seed afterwards, wherever the result came from.

    Raises
    ------
    UsageError
        As for ``calibrate``.
    FailedError
        The folder cannot be written.
    """
    made = _made_or_found(network, recipe, batches, folder)
    torch.manual_seed(recipe.recipe.seed)
    return made


def _made_or_found(
    network: Network, recipe: QuantizeRecipe, batches: Sequence[Tensor], folder: Path
) -> TeacherStudent:
    file = folder / f"{_hash(network, recipe, batches)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if file.is_file():
            made = prepare(network, recipe, batches)
            try:
                made.student.load_state_dict(load_file(file))
            except (SafetensorError, RuntimeError, OSError):
                note(f"{file} is damaged and is made again")
            else:
                note(f"calibration {file.stem} is there already")
                return made
        made = calibrate(network, recipe, batches)
        state = made.student.state_dict()
        with replacing(file) as temporary:
            save_file({key: value.clone().contiguous() for key, value in state.items()}, temporary)
        return made


def _hash(network: Network, recipe: QuantizeRecipe, batches: Sequence[Tensor]) -> str:
    fields = recipe.model_dump(include=_DECIDING)
    start = [__version__, content_hash(network), fields, recipe.recipe.seed]
    digest = sha256(json.dumps(start, sort_keys=True).encode())
    for batch in batches:
        digest.update(batch.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
