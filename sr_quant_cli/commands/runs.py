"""``srq runs``: the run folders, and how far each run has come.

Everything is read from the recipe, the log and the names of the checkpoints, which needs neither
torch nor the contents of checkpoints.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.named import MODEL, RECIPE
from sr_quant_cli.training.run_folder import (
    CHECKPOINTS,
    LOG,
    STORE,
    VALIDATION_PROTOCOL,
    in_use,
    read_log,
)

_DEPTH = 3
_FIELDS = {"recipe.task": str, "network.name": str, "network.scale": int, "train.iters": int}
CURVE_LABELS = {
    "loss": "training loss",
    "validation_psnr": f"validation PSNR (dB, {VALIDATION_PROTOCOL})",
}
"""Values of the log that are drawn, and the labels of their axes."""

Curve = list[tuple[int, float]]
"""Steps with their values."""
State = Literal["running", "complete", "stopped", "not started"]


@dataclass(frozen=True)
class Run:
    """A run folder as it is at the moment."""

    folder: Path
    task: str
    network: str
    scale: int
    state: State
    step: int
    iters: int
    saved_step: int
    """step of the newest checkpoint, from which a stopped run continues; 0: none"""
    seconds: float
    lr: float | None
    written: datetime
    """time of the last write to the log, or to the recipe if there is no log"""
    curves: dict[str, Curve]
    """``loss`` and ``validation_psnr``, those of them that have values"""
    started_from: Path | None
    """model whose weights were the start; None: fresh weights"""

    @property
    def last_loss(self) -> float | None:
        """The newest value of the loss."""
        return self.curves["loss"][-1][1] if "loss" in self.curves else None

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and PSNR of the best validation, the earliest of several."""
        if "validation_psnr" not in self.curves:
            return None
        return max(self.curves["validation_psnr"], key=lambda point: point[1])

    def summary(self) -> dict[str, Any]:
        """Plain values for a list, without the curves."""
        best_step, best_psnr = self.best or (None, None)
        return {
            "run": str(self.folder),
            "task": self.task,
            "network": self.network,
            "scale": self.scale,
            "state": self.state,
            "step": self.step,
            "iters": self.iters,
            "saved_step": self.saved_step,
            "seconds": self.seconds,
            "loss": self.last_loss,
            "lr": self.lr,
            "best_step": best_step,
            "best_psnr": best_psnr,
            "written": self.written.isoformat(timespec="seconds"),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {**self.summary(), "curves": self.curves}


@dataclass(frozen=True)
class Runs:
    """Run folders below a folder, by their relative paths; of a damaged one, the error."""

    folder: Path
    runs: Mapping[str, Run | UsageError]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        rows = [
            run.summary()
            if isinstance(run, Run)
            else {"run": str(self.folder / name), "error": str(run)}
            for name, run in self.runs.items()
        ]
        return {"runs": rows}


def read_run(folder: Path) -> Run:
    """Read a run folder, also while a run is writing to it.

    Raises
    ------
    UsageError
        The folder is no run folder, or its recipe or log is damaged.
    """
    if not (folder / RECIPE).is_file():
        raise UsageError(f"{folder} is no run folder: it holds no {RECIPE}")
    fields = _recipe_fields(folder / RECIPE)
    entries = read_log(folder)
    saved = [int(path.stem.removeprefix("step-")) for path in folder.glob(CHECKPOINTS)]
    step = max([*saved, *(entry["step"] for entry in entries[-1:])], default=0)
    iters = fields["train.iters"]
    state: State
    if in_use(folder):
        state = "running"
    elif step >= iters and (folder / MODEL).is_file():
        state = "complete"
    else:
        state = "stopped" if step else "not started"
    dated = folder / (LOG if (folder / LOG).is_file() else RECIPE)
    curves = {name: _curve(entries, name) for name in CURVE_LABELS}
    return Run(
        folder=folder,
        task=fields["recipe.task"],
        network=fields["network.name"],
        scale=fields["network.scale"],
        state=state,
        step=step,
        iters=iters,
        saved_step=max(saved, default=0),
        seconds=entries[-1]["seconds"] if entries else 0.0,
        lr=next((entry["lr"] for entry in reversed(entries) if "lr" in entry), None),
        written=datetime.fromtimestamp(dated.stat().st_mtime).astimezone(),
        curves={name: curve for name, curve in curves.items() if curve},
        started_from=Path(fields["train.init"]) if fields["train.init"] else None,
    )


def read_runs(folder: Path) -> Runs:
    """Read all run folders up to three levels below a folder, or the folder itself.

    Runs come first, then the stages that they share; both are sorted by their paths.

    Raises
    ------
    UsageError
        There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}")
    found = [path.parent for n in range(_DEPTH + 1) for path in folder.glob("*/" * n + RECIPE)]
    if not found:
        raise UsageError(f"no runs in {folder}: no {RECIPE} in it or up to {_DEPTH} levels below")
    runs: dict[str, Run | UsageError] = {}
    for path in sorted(found, key=lambda path: (STORE in path.relative_to(folder).parts, path)):
        name = path.relative_to(folder).as_posix()
        try:
            runs[name] = read_run(path)
        except UsageError as error:
            runs[name] = error
    return Runs(folder, runs)


def _recipe_fields(path: Path) -> dict[str, Any]:
    """Read the values that are shown; the others may come from another version of srq."""
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}") from error
    fields = {}
    for key, kind in _FIELDS.items():
        section, _, name = key.partition(".")
        table = sections.get(section)
        fields[key] = table.get(name) if isinstance(table, dict) else None
        if not isinstance(fields[key], kind):
            raise UsageError(f"{path}: {key} is missing or of the wrong type")
    return fields | {"train.init": str(sections["train"].get("init", ""))}


def _curve(entries: list[dict[str, Any]], name: str) -> Curve:
    """Finite values of one name: the PSNR of a perfect picture is infinite."""
    return [
        (entry["step"], entry[name])
        for entry in entries
        if isinstance(entry.get(name), int | float) and math.isfinite(entry[name])
    ]
