"""Run folders: which there are, how far each has come, and its curves.

Everything is read from the recipe, the log and the names of the checkpoints, so that looking at a
run needs neither torch nor its checkpoints' contents.
"""

import math
import shutil
import sys
import tomllib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import plotext

from sr_quant_cli.engine.rundir import (
    CHECKPOINTS,
    LOG,
    MODEL,
    RECIPE,
    VALIDATION_PROTOCOL,
    in_use,
    read_log,
)
from sr_quant_cli.errors import UsageError
from sr_quant_cli.files import SOFTWARE, replacing
from sr_quant_cli.report.table import print_table
from sr_quant_cli.terminal import say

CURVES = "curves.png"

_DEPTH = 3
_FIELDS = {"recipe.task": str, "network.name": str, "network.scale": int, "train.iters": int}
_LABELS = {
    "loss": "training loss",
    "validation_psnr": f"validation PSNR (dB, {VALIDATION_PROTOCOL})",
}
"""The values of the log that are drawn, and what their axes say."""

Curve = list[tuple[int, float]]
"""Steps and values."""
State = Literal["running", "complete", "stopped", "not started"]


@dataclass(frozen=True)
class Run:
    """One run folder, as it is at the moment."""

    folder: Path
    task: str
    network: str
    scale: int
    state: State
    step: int
    iters: int
    saved_step: int
    """step of the newest checkpoint, which a stopped run continues from; 0: none"""
    seconds: float
    lr: float | None
    written: datetime
    """when the log was last written; the recipe where there is no log"""
    curves: dict[str, Curve]
    """those with values among ``loss`` and ``validation_psnr``"""

    @property
    def last_loss(self) -> float | None:
        """The newest value of the loss."""
        return self.curves["loss"][-1][1] if "loss" in self.curves else None

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and PSNR of the best validation; the earliest of equal ones."""
        if "validation_psnr" not in self.curves:
            return None
        return max(self.curves["validation_psnr"], key=lambda point: point[1])

    def summary(self) -> dict[str, Any]:
        """Plain values for a report, without the curves."""
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


def read_run(folder: Path) -> Run:
    """Read a run folder, which may be written to meanwhile.

    Raises
    ------
    UsageError
        It is no run folder, or its recipe or log is damaged.
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
    curves = {name: _curve(entries, name) for name in _LABELS}
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
    )


def read_runs(folder: Path) -> dict[str, Run | UsageError]:
    """Read all run folders up to three levels below a folder, or the folder itself.

    Returns
    -------
    Their paths relative to ``folder``, sorted, each with the run or what is wrong with it.

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
    for path in sorted(found):
        name = path.relative_to(folder).as_posix()
        try:
            runs[name] = read_run(path)
        except UsageError as error:
            runs[name] = error
    return runs


def print_runs(runs: dict[str, Run | UsageError]) -> None:
    """Print a row a run."""
    good = {name: run for name, run in runs.items() if isinstance(run, Run)}
    rows = [
        (
            name,
            f"{run.task} {run.network} x{run.scale}",
            f"{run.step} / {run.iters}",
            "" if run.last_loss is None else f"{run.last_loss:.4g}",
            "" if run.best is None else f"{run.best[1]:.2f}",
            run.state,
            f"{run.written:%Y-%m-%d}",
        )
        for name, run in good.items()
    ]
    headings = ("run", "task", "step", "loss", "best (dB)", "state", "written")
    if rows:
        print_table(headings, rows, texts=2)
    for name, error in runs.items():
        if name not in good:
            say(f"{name}: {error}")


def print_run(run: Run) -> None:
    """Print what a run is, how far it has come, and how to continue it where it stopped."""
    state: str = run.state
    if state == "stopped":
        state += f"; run the same command again to continue from step {run.saved_step}"
    lines = {
        "run": run.folder,
        "task": run.task,
        "network": f"{run.network} x{run.scale}",
        "state": state,
        "steps": f"{run.step} of {run.iters}",
        "time spent": timedelta(seconds=round(run.seconds)),
        "last written": f"{run.written:%Y-%m-%d %H:%M:%S}",
        "learning rate": "" if run.lr is None else f"{run.lr:.3g}",
        "loss": "" if run.last_loss is None else f"{run.last_loss:.4g}",
        "best PSNR": "" if run.best is None else f"{run.best[1]:.2f} dB at step {run.best[0]}",
    }
    for key, value in lines.items():
        if value != "":
            say(f"{key + ':':15}{value}")


def print_curves(run: Run) -> None:
    """Draw the curves on the terminal, without colours where stdout is none."""
    colourless = not sys.stdout.isatty()
    width = min(shutil.get_terminal_size(fallback=(100, 24)).columns, 100)
    plotext.terminal.limit(False, False)
    last = _last_step(run)
    ticks = sorted({round(last * quarter / 4) for quarter in range(5)})
    for name, label in _LABELS.items():
        if name not in run.curves:
            say(f"no {label} in the log yet")
            continue
        steps, values = zip(*run.curves[name], strict=True)
        logarithmic = _is_logarithmic(name, values)
        figure = plotext.figure.clear().theme("simple").plot_size(width, 16)
        figure.draw(figure.signal(steps, values, marker="braille").lines())
        figure.title(f"{label}, logarithmic" if logarithmic else label).label("step", "x")
        figure.ruler("x").lim(0, last).ticks(ticks, [f"{tick:,}" for tick in ticks])
        figure.ruler("y").scale("log" if logarithmic else "linear")
        drawn = figure.build().string(colourless)
        # Question marks still show the curve where stdout is no UTF-8.
        print(drawn.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding), end="")


def draw_curves(run: Run, path: Path) -> None:
    """Draw the curves of a run that has some as a PNG file.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator

    figure = Figure(figsize=(8, 0.8 + 2.8 * len(run.curves)), dpi=150, layout="constrained")
    panels = figure.subplots(len(run.curves), squeeze=False, sharex=True)[:, 0]
    for axes, (name, curve) in zip(panels, run.curves.items(), strict=True):
        steps, values = zip(*curve, strict=True)
        axes.plot(steps, values, color="tab:blue", marker="." if len(curve) < 50 else "")
        axes.set_ylabel(_LABELS[name])
        axes.grid(which="both", alpha=0.25)
        if _is_logarithmic(name, values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
    if run.best is not None:
        step, psnr = run.best
        label = f"best: {psnr:.2f} dB at step {step:,}"
        panels[-1].plot(step, psnr, "o", color="tab:red", label=label)
        panels[-1].legend(loc="lower right")
    panels[-1].set_xlabel("step")
    panels[-1].set_xlim(0, 1.02 * _last_step(run))
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    # A name is no formula, whatever signs are in it.
    figure.suptitle(
        f"{run.folder.resolve().name}: {run.task} {run.network} x{run.scale}, "
        f"step {run.step:,} of {run.iters:,}",
        parse_math=False,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata=SOFTWARE)


def _recipe_fields(path: Path) -> dict[str, Any]:
    """The few values that are shown; other keys may be of a version or task unknown here."""
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
    return fields


def _curve(entries: list[dict[str, Any]], name: str) -> Curve:
    """The finite values of one name: a perfect picture has an infinite PSNR."""
    return [
        (entry["step"], entry[name])
        for entry in entries
        if isinstance(entry.get(name), int | float) and math.isfinite(entry[name])
    ]


def _is_logarithmic(name: str, values: tuple[float, ...]) -> bool:
    return name == "loss" and min(values) > 0 and max(values) > 10 * min(values)


def _last_step(run: Run) -> int:
    return max(curve[-1][0] for curve in run.curves.values())
