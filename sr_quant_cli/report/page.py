"""The page of ``srq report``: one HTML file that needs nothing else."""

import platform
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli import __version__
from sr_quant_cli.commands.gather import Column, Setting, Subject, columns, settings
from sr_quant_cli.commands.layers import Layer
from sr_quant_cli.commands.report import Pictures, Report
from sr_quant_cli.metrics import get_protocol
from sr_quant_cli.passes.statistics import OperandStatistics
from sr_quant_cli.quant.widths import describe
from sr_quant_cli.report.plots import X, curves, inline_svg, trade_off
from sr_quant_cli.system.files import HTML_PAGE, write_marked

_TITLES: dict[X, str] = {
    "bits": "Quality against bits",
    "bytes": "Quality against size",
    "ms": "Quality against time",
    "bitops": "Quality against bit operations",
}
_MOST_TICKS = 32
"""Levels that are drawn one by one."""


def write_page(report: Report, path: Path, title: str) -> None:
    """Write the page of a report.

    Raises
    ------
    UsageError
        ``path`` is a file other than an earlier page.
    FailedError
        The page cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sr_quant_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known, timed = columns(report.subjects), settings(report.subjects)
    html = environment.get_template("report.html").render(
        title=title,
        mark=HTML_PAGE.decode(),
        version=__version__,
        system=f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        columns=known,
        settings=timed,
        subjects=report.subjects,
        rows=[_row(subject, known, timed) for subject in report.subjects],
        plots=list(_plots(report.subjects)),
        curves=_curves(report.subjects),
        layers={name: [*map(_layer, each.layers)] for name, each in report.layers.items()},
        measured=report.layers,
        pictures=None if report.pictures is None else _pictures(report.pictures),
        recipes=report.recipes,
        protocols=_protocols(report.subjects),
    )
    write_marked(path, HTML_PAGE, html)


def _row(subject: Subject, known: Sequence[Column], timed: Sequence[Setting]) -> dict[str, Any]:
    found = subject.info
    quantization = None if found is None else found.quantization
    scores = [subject.score(column) for column in known]
    times = [subject.ms(setting) for setting in timed]
    return {
        "name": subject.name,
        "network": "" if found is None else f"{found.network['name']} x{found.scale}",
        "method": "" if quantization is None else quantization.method["name"],
        "bits": _bits(subject),
        "bytes": "" if found is None else f"{found.bytes / 1e6:.2f}",
        "bitops": "" if subject.bitops is None else f"{subject.bitops / 1e12:.2f}",
        "times": ["" if ms is None else f"{ms:.0f}" for ms in times],
        "scores": ["" if s is None else f"{s.psnr:.2f} / {s.ssim:.4f}" for s in scores],
    }


def _bits(subject: Subject) -> str:
    if subject.info is None:
        return ""
    quantization = subject.info.quantization
    return "float" if quantization is None else f"w{quantization.w}a{quantization.a}"


def _plots(subjects: Sequence[Subject]) -> Iterator[tuple[str, str]]:
    """Titles and SVG elements of plots that compare at least two models."""
    for column in columns(subjects):
        for x, title in _TITLES.items():
            figure = trade_off(subjects, column, x, fewest=2)
            if figure is not None:
                yield f"{title}, {column}", inline_svg(figure)


def _curves(subjects: Sequence[Subject]) -> str:
    figure = curves(subjects)
    return "" if figure is None else inline_svg(figure)


def _protocols(subjects: Sequence[Subject]) -> list[tuple[str, str]]:
    names = sorted({score.protocol for subject in subjects for score in subject.scores})
    return [(name, get_protocol(name).summary) for name in names]


@dataclass(frozen=True)
class _Chart:
    """Histogram as SVG coordinates from 0 to 100 across and 0 to 30 down."""

    operand: str
    width: str
    bounds: str
    clipped: str
    sqnr: str
    bars: str
    """outline of the counts"""
    lower: float
    upper: float
    levels: tuple[float, ...]


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "path": layer.path,
        "kind": layer.kind,
        "macs": f"{layer.macs_counted / 1e6:.1f}" if layer.macs_counted else "",
        "ms": "" if layer.ms is None else f"{layer.ms:.2f}",
        "drop": layer.drop,
        "drop_text": "" if layer.drop is None else f"{layer.drop:z.3f}",
        "charts": [_chart(operand) for operand in layer.operands],
    }


def _chart(operand: OperandStatistics) -> _Chart:
    histogram = operand.histogram
    low, high = min(histogram.low, operand.lower), max(histogram.high, operand.upper)
    span = (high - low) or 1.0

    def across(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    # Square roots, so that thin tails are seen, too.
    tallest = sqrt(max(histogram.counts)) or 1.0
    points = [f"M{across(histogram.low)} 30"]
    for left, right, count in zip(edges, edges[1:], histogram.counts, strict=False):
        height = round(30 - 28 * sqrt(count) / tallest, 2)
        points.append(f"L{across(left)} {height}L{across(right)} {height}")
    ticks: tuple[float, ...] = ()
    if operand.levels <= _MOST_TICKS:
        levels = np.linspace(operand.lower, operand.upper, operand.levels)
        ticks = tuple(across(float(level)) for level in levels)
    return _Chart(
        operand.operand,
        describe(operand.bits),
        f"{operand.lower:z.4g} .. {operand.upper:z.4g}",
        f"{operand.clipped:.2%}",
        f"{operand.sqnr:z.1f} dB" if isfinite(operand.sqnr) else "exact",
        f"{''.join(points)}L{across(histogram.high)} 30Z",
        across(operand.lower),
        across(operand.upper),
        ticks,
    )


def _pictures(pictures: Pictures) -> dict[str, Any]:
    crop = pictures.crop
    before, after = pictures.results[:2]
    return {
        "name": pictures.name,
        "scale": pictures.scale,
        "height": before.pixels.shape[0],
        "width": before.pixels.shape[1],
        "before": (before.name, _png(before.pixels)),
        "after": (after.name, _png(after.pixels)),
        "crops": [
            (
                each.name,
                _png(each.pixels[crop.top : crop.bottom, crop.left : crop.right]),
            )
            for each in pictures.results
        ],
        "place": f"{crop.width}x{crop.height} pixels at {crop.left}, {crop.top}",
    }


def _png(pixels: NDArray[np.uint8]) -> str:
    """Address of a picture that holds its PNG file."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
