"""Training runs on the terminal, and their curves as a picture."""

import shutil
import sys
from datetime import timedelta
from pathlib import Path

import plotext

from sr_quant_cli.commands.runs import CURVE_LABELS, Run, Runs
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say
from sr_quant_cli.system.files import SOFTWARE, replacing

CURVES = "curves.png"


def print_runs(found: Runs) -> None:
    """Print one row per run, then the errors of damaged ones."""
    good = {name: run for name, run in found.runs.items() if isinstance(run, Run)}
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
    for name, error in found.runs.items():
        if name not in good:
            say(f"{name}: {error}")


def print_run(run: Run) -> None:
    """Print the task and progress of a run, and how to continue it if it was stopped."""
    state: str = run.state
    if state == "stopped":
        state += f"; run the same command again to continue from step {run.saved_step}"
    lines = {
        "run": run.folder,
        "task": run.task,
        "network": f"{run.network} x{run.scale}",
        "started from": "" if run.started_from is None else run.started_from,
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
    """Draw the curves on the terminal; without colours if stdout is a file or a pipe."""
    colourless = not sys.stdout.isatty()
    width = min(shutil.get_terminal_size(fallback=(100, 24)).columns, 100)
    plotext.terminal.limit(False, False)
    last = _last_step(run)
    ticks = sorted({round(last * quarter / 4) for quarter in range(5)})
    for name, label in CURVE_LABELS.items():
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
        # If stdout is not UTF-8, question marks still show the curve.
        print(drawn.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding), end="")


def draw_curves(run: Run, path: Path) -> None:
    """Draw the curves of a run, which must have some, as a PNG file.

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
        axes.set_ylabel(CURVE_LABELS[name])
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
    # The name may hold a dollar sign, which matplotlib would take for a formula.
    figure.suptitle(
        f"{run.folder.resolve().name}: {run.task} {run.network} x{run.scale}, "
        f"step {run.step:,} of {run.iters:,}",
        parse_math=False,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata=SOFTWARE)


def _is_logarithmic(name: str, values: tuple[float, ...]) -> bool:
    return name == "loss" and min(values) > 0 and max(values) > 10 * min(values)


def _last_step(run: Run) -> int:
    return max(curve[-1][0] for curve in run.curves.values())
