"""Plots of models and runs: quality against cost, and training curves."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sr_quant_cli.commands.gather import Column, Subject, columns, settings
from sr_quant_cli.commands.runs import CURVE_LABELS
from sr_quant_cli.errors import UsageError
from sr_quant_cli.system.files import SOFTWARE, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

X = Literal["bits", "bytes", "ms", "bitops", "step"]
Y = Literal["psnr", "ssim"]

_COSTS: dict[X, tuple[str, Callable[[Subject], float | None] | None, bool]] = {
    "bits": ("bits, mean of weights and activations", lambda s: s.bits, False),
    "bytes": ("size of the model file (MB)", lambda s: s.bytes and s.bytes / 1e6, False),
    "ms": ("milliseconds in the fastest runtime", None, False),
    "bitops": ("bit operations (T, counted)", lambda s: s.bitops and s.bitops / 1e12, True),
}
"""Label, value (None: the time at the setting of most models), True for a logarithmic scale."""
_QUALITY: dict[Y, str] = {"psnr": "PSNR (dB)", "ssim": "SSIM"}


def draw(
    subjects: Sequence[Subject], path: Path, x: X, y: Y = "psnr", bench: str | None = None
) -> None:
    """Draw models against their cost, or their training curves, into a file.

    Parameters
    ----------
    x
        Cost; ``step``: training curves.
    bench
        Benchmark set; None: the one that most models have scores on. Of its scales and protocols
        those of most models are drawn.

    Raises
    ------
    UsageError
        Nothing is known that could be drawn.
    FailedError
        The file cannot be written.
    """
    if x == "step":
        figure = curves(subjects)
        problem = "no run folder with a log among these"
    else:
        known = columns(subjects)
        sets = list(dict.fromkeys(column.bench for column in known))
        chosen = bench or next(iter(sets), "")
        if chosen not in sets:
            scored = f"they have {', '.join(sets)}" if sets else "there are none"
            raise UsageError(
                f"no scores on {chosen or 'any set'} ({scored}): measure them with "
                "'srq eval' and name its `json` report, or store them there by `record`",
                field="bench",
                value=bench,
            )
        column = next(each for each in known if each.bench == chosen)
        figure = trade_off(subjects, column, x, y)
        missing = (
            "a time: name a `json` report of srq bench"
            if x == "ms"
            else "a file here: name the models as well"
        )
        problem = f"no model with scores on {column} has {missing}"
    if figure is None:
        raise UsageError(problem, field="x", value=x)
    save(figure, path)


def trade_off(
    subjects: Sequence[Subject], column: Column, x: X, y: Y = "psnr", fewest: int = 1
) -> "Figure | None":
    """Draw the quality of models on a set against their cost; None: too few have both.

    Parameters
    ----------
    column
        Benchmark set, scale and protocol.
    x
        Any of ``_COSTS``.
    fewest
        Fewest models to draw.
    """
    from matplotlib.figure import Figure

    label, cost, logarithmic = _COSTS[x]
    if cost is None:
        setting = next(iter(settings(subjects)), None)
        if setting is None:
            return None
        label, cost = f"{label}, {setting}", partial(Subject.ms, setting=setting)
    points = [
        (subject.name, value, score.psnr if y == "psnr" else score.ssim)
        for subject in subjects
        if (value := cost(subject)) is not None and (score := subject.score(column)) is not None
    ]
    if len(points) < fewest:
        return None
    figure = Figure(figsize=(5, 3.8), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, value, quality) in enumerate(points):
        axes.plot(value, quality, "osD^vP*X"[index % 8], color=f"C{index % 10}", label=_plain(name))
    axes.set_xlabel(label)
    axes.set_ylabel(f"{_QUALITY[y]}, {_plain(str(column))}")
    if logarithmic:
        axes.set_xscale("log")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(which="major", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


@dataclass(frozen=True)
class Line:
    """Qualities of one method over a cost: points ``(cost, mean, spread)``; spread may be 0."""

    label: str
    points: Sequence[tuple[float, float, float]]


def method_lines(
    lines: Sequence[Line], x: X, quality: str, full_precision: float | None
) -> "Figure":
    """Draw the quality of methods over their cost, a line for each, with the spread over seeds.

    Parameters
    ----------
    quality
        Label of the quality.
    full_precision
        Quality of the network in full precision, a dashed line; None: it is not drawn.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    label, _, logarithmic = _COSTS[x]
    figure = Figure(figsize=(6, 4.2), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for index, line in enumerate(lines):
        costs, means, spreads = zip(*sorted(line.points), strict=True)
        axes.errorbar(
            *(costs, means, spreads if any(spreads) else None),
            marker="osD^vP*X"[index % 8],
            color=f"C{index % 10}",
            linestyle="-" if index < 10 else ":",
            capsize=2,
            label=_plain(line.label),
        )
    if full_precision is not None:
        axes.axhline(full_precision, color="0.4", linestyle="--", label="full precision")
    axes.set_xlabel(label)
    axes.set_ylabel(_plain(quality))
    if logarithmic:
        axes.set_xscale("log")
    elif x == "bits":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(which="major", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure


def curves(subjects: Sequence[Subject]) -> "Figure | None":
    """Draw loss and validation PSNR over the steps of all runs; None: there are no runs."""
    from matplotlib.figure import Figure

    runs = [(subject.name, subject.run) for subject in subjects if subject.run is not None]
    drawn = [name for name in CURVE_LABELS if any(name in run.curves for _, run in runs)]
    if not drawn:
        return None
    figure = Figure(figsize=(6, 0.6 + 2.4 * len(drawn)), dpi=200, layout="constrained")
    panels = figure.subplots(len(drawn), squeeze=False, sharex=True)[:, 0]
    for axes, kind in zip(panels, drawn, strict=True):
        for index, (name, run) in enumerate(runs):
            if kind in run.curves:
                steps, values = zip(*run.curves[kind], strict=True)
                marker = "." if len(steps) < 50 else ""
                axes.plot(steps, values, marker=marker, color=f"C{index % 10}", label=_plain(name))
        axes.set_ylabel(CURVE_LABELS[kind])
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.25)
    panels[-1].set_xlabel("step")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    metadata = SOFTWARE if kind == "png" else {"Creator": "srq"}
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=metadata)


_INK = "#010203"
"""Colour of texts and lines, which no data has, replaced in pages by that of the page."""


def inline_svg(figure: "Figure") -> str:
    """Turn a figure into an SVG element whose texts and lines have the colour of the page."""
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(colors=_INK, which="both")
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(_INK)
        for spine in axes.spines.values():
            spine.set_color(_INK)
    for legend in figure.legends:
        legend.get_frame().set_alpha(0)
        for text in legend.get_texts():
            text.set_color(_INK)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn = file.getvalue()
    return drawn[drawn.index("<svg") :].replace(_INK, "currentColor")


def _plain(text: str) -> str:
    """Escape what matplotlib takes for a formula."""
    return text.replace("$", r"\$")
