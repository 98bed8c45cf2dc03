"""Checkpoints of a training run: written whole, the newest two and the best kept."""

from pathlib import Path
from typing import Any

import torch

from sr_quant_cli.engine.distributed import warn
from sr_quant_cli.engine.rundir import CHECKPOINTS
from sr_quant_cli.files import replacing

_KEPT = 2


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
        """Load the newest checkpoint that can be read; None when there is none.

        A damaged file is passed over with a warning.
        """
        for path in self.files():
            try:
                return read(path)
            except Exception:  # a damaged pickle may raise any of many
                warn(f"{path} is damaged; trying the one before it")
        return None


def read(path: Path) -> dict[str, Any]:
    """Load one checkpoint on the CPU; no code in it is run."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
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
