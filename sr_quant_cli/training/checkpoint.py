"""Checkpoints of a training run: written whole, the newest two and the best kept."""

from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.errors import FailedError, out_of_memory
from sr_quant_cli.system.files import replacing
from sr_quant_cli.system.reporting import warn
from sr_quant_cli.training.run_folder import CHECKPOINTS

_KEPT = 2


class DamagedError(FailedError):
    """A file that is no checkpoint, or no longer one."""


class Checkpoints:
    """The checkpoint files of one run folder.

    ``step-00001000.ckpt`` are the newest; ``best.ckpt`` has the highest validation PSNR. Contents
    are tensors and plain values only, and are loaded as such.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best_path = folder / "best.ckpt"

    def files(self) -> list[Path]:
        """All numbered checkpoints, newest first."""
        return sorted(self.folder.glob(CHECKPOINTS), reverse=True)

    def save(self, state: dict[str, Any]) -> Path:
        """Write ``state`` under its step and drop all but the newest two.

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
        """Write ``state`` as the best so far."""
        _write(self.best_path, state)

    def newest(self) -> dict[str, Any] | None:
        """Load the newest checkpoint that is whole; None when there is none.

        A damaged one is passed over with a warning.

        Raises
        ------
        FailedError
            All are damaged, or one cannot be read for another reason.
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
        """Rename what is numbered above ``step``: a run that goes on from there never wrote it."""
        for path in self.files():
            if int(path.stem.removeprefix("step-")) > step:
                path.rename(path.with_suffix(".damaged"))


def read(path: Path) -> dict[str, Any]:
    """Load one checkpoint on the CPU; no code in it is run.

    Raises
    ------
    DamagedError
        It is none.
    FailedError
        It cannot be read, or the memory does not suffice.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FailedError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle may raise any of many
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
            # torch wraps the system's error: a full disk is to be told as such.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
