"""Checkpoints of a training run, written atomically: the newest two and the best."""

from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.errors import FailedError, out_of_memory
from sr_quant_cli.system.files import replacing
from sr_quant_cli.system.reporting import warn
from sr_quant_cli.training.run_folder import CHECKPOINTS

_KEPT = 2


class DamagedError(FailedError):
    """A file that is damaged, or is no checkpoint."""


class Checkpoints:
    """Checkpoint files of a run folder.

    ``step-00001000.ckpt`` has the state at a step, ``best.ckpt`` the one with the highest
    validation PSNR. They hold tensors and plain values only, and loading runs no code.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best_path = folder / "best.ckpt"

    def files(self) -> list[Path]:
        """List the numbered checkpoints, newest first."""
        return sorted(self.folder.glob(CHECKPOINTS), reverse=True)

    def save(self, state: dict[str, Any]) -> Path:
        """Write ``state`` under its step, and delete all but the newest two.

        Raises
        ------
        FailedError
            The file cannot be written; earlier checkpoints stay.
        """
        path = self.folder / f"step-{state['step']:08d}.ckpt"
        _write(path, state)
        for old in self.files()[_KEPT:]:
            old.unlink()
        return path

    def save_best(self, state: dict[str, Any]) -> None:
        """Write ``state`` as the best one so far."""
        _write(self.best_path, state)

    def newest(self) -> dict[str, Any] | None:
        """Load the newest intact checkpoint; None: there are no checkpoints.

        Damaged ones are skipped with a warning.

        Raises
        ------
        FailedError
            All of them are damaged, or one cannot be read for another reason.
        """
        damaged = []
        for path in self.files():
            try:
                state = read(path)
            except DamagedError as error:
                damaged.append(str(error))
                continue
            for what in damaged:
                warn(f"{what}; going on from {path.name}")
            return state
        if damaged:
            raise FailedError(
                f"{'; '.join(damaged)}: none is left to go on from; move them away to "
                "start anew, or choose another folder with `run_dir`"
            )
        return None

    def set_aside(self, step: int) -> None:
        """Rename the checkpoints after ``step``, as a run that continues from there has none."""
        for path in self.files():
            if int(path.stem.removeprefix("step-")) > step:
                path.rename(path.with_suffix(".damaged"))


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU, without running code in it.

    Raises
    ------
    DamagedError
        The file is damaged, or is no checkpoint.
    FailedError
        The file cannot be read, or there is not enough memory.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FailedError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle may raise almost anything
        if out_of_memory(error):
            raise FailedError(f"out of memory: cannot read {path}") from error
        raise DamagedError(f"{path} is damaged") from error
    if not (isinstance(state, dict) and type(state.get("step")) is int):
        raise DamagedError(f"{path} is no checkpoint")
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch hides the error of the system, such as a full disk.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
