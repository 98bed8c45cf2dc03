"""``srq compare``: crops of several models' results in one figure, as in papers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.commands.jobs import SHEET
from sr_quant_cli.commands.places import check_folder
from sr_quant_cli.commands.scaled_models import check_stated_scales
from sr_quant_cli.data.benchmark import Pair
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb
from sr_quant_cli.imaging.sheet import (
    MAX_CROP,
    Panel,
    check_sheet,
    draw_sheet,
    most_different,
    usual_crop,
)
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.inference.opening import common_scale, open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.upscaler import BicubicUpscaler, Upscaler
from sr_quant_cli.metrics.protocol import Protocol, get_protocol, score
from sr_quant_cli.modelfiles.named import FAMILIES, Named, Source, identify, is_name
from sr_quant_cli.runtimes.registry import AUTO
from sr_quant_cli.system.files import DRAWING, check_own
from sr_quant_cli.system.reporting import track

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class CompareRequest:
    """Request for ``compare``.

    Attributes
    ----------
    image
        LR picture, or the HR picture if ``downscale`` is set.
    models
        What ``identify`` finds models by; empty: the embedded one.
    scale
        Scale that the models must have; None: their own.
    hr
        HR picture to measure against; None: ``image`` itself with ``downscale``, else nothing.
    downscale
        Make the LR picture from ``image`` by MATLAB's bicubic reduction.
    crop
        Rectangle to show, in pixels of the results; None: where they differ most.
    protocol
        Name of the protocol to measure by.
    output
        PNG, SVG or PDF file; None: ``IMAGE_x4_compare.png`` beside the picture.
    overwrite
        Replace ``output``.

    Raises
    ------
    UsageError
        The options exclude each other.
    """

    image: Path
    models: tuple[Named, ...] = ()
    scale: int | None = None
    hr: Path | None = None
    downscale: bool = False
    crop: Region | None = None
    protocol: str = "matlab"
    output: Path | None = None
    overwrite: bool = False
    options: RunOptions = field(default_factory=lambda: RunOptions(runtime=AUTO))

    def __post_init__(self) -> None:
        if self.downscale and self.hr is not None:
            raise UsageError("with `downscale` the picture itself is HR", field="hr", value=self.hr)
        if self.crop is not None and max(self.crop.width, self.crop.height) > MAX_CROP:
            raise UsageError(
                f"no side may be longer than {MAX_CROP} pixels", field="crop", value=self.crop
            )


@dataclass(frozen=True)
class ComparedResult:
    """A result: its scores against HR (None: there is no HR), and the runtime that made it."""

    model: str
    psnr: float | None
    ssim: float | None
    runtime: str | None


@dataclass(frozen=True)
class Comparison:
    """A figure and what it shows; the crop is in pixels of the results."""

    image: str
    sheet: Path
    scale: int
    protocol: str | None
    crop: tuple[int, int, int, int]
    """left, top, width, height"""
    rows: tuple[ComparedResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "sheet": str(self.sheet)}


def compare(request: CompareRequest) -> Comparison:
    """Enlarge a picture by bicubic interpolation and by models, and draw crops side by side.

    Raises
    ------
    UsageError
        A picture, model, protocol, crop or the output is not usable.
    FailedError
        The figure cannot be written.
    """
    protocol = get_protocol(request.protocol)
    sources = [identify(named, request.scale) for named in request.models or (None,)]
    _check(request, sources)
    models = [open_model(source, _options(request, source)) for source in sources]
    scale = common_scale(models, request.scale)
    sheet = _place(request, scale)
    lr, hr = _pictures(request, scale)
    upscalers = [BicubicUpscaler(scale), *models]
    labels = ["bicubic", *_labels(request.models, models)]
    results = [run(lr) for run in track(upscalers, len(upscalers), "model", request.image.name)]
    rows = [
        _measured(label, sr, hr, upscaler, protocol)
        for label, sr, upscaler in zip(labels, results, upscalers, strict=True)
    ]
    height, width, _ = results[0].shape
    crop = request.crop
    if crop is None:
        # Models differ less from each other than from bicubic, which would decide alone.
        compared = results[1:] if len(models) > 1 else results
        crop = most_different(compared, *usual_crop(height, width))
    crop.check(height, width, "crop")
    panels = [
        Panel(row.model, _cut(sr, crop), _caption(row))
        for row, sr in zip(rows, results, strict=True)
    ]
    if hr is not None:
        panels.append(Panel("HR", _cut(hr, crop), "PSNR / SSIM"))
    draw_sheet(
        panels,
        results[-1] if hr is None else hr,
        crop,
        sheet,
        title=f"{request.image.stem}, x{scale}",
        footer=""
        if hr is None
        else f"PSNR (dB) and SSIM of the whole picture, protocol {protocol.name}",
    )
    return Comparison(
        str(request.image),
        sheet,
        scale,
        None if hr is None else protocol.name,
        (crop.left, crop.top, crop.width, crop.height),
        tuple(rows),
    )


def _check(request: CompareRequest, sources: Sequence[Source]) -> None:
    """Refuse what is known to fail, before a model is opened."""
    value = request.options.range
    if value is not None and not any(source.kind == "graph" for source in sources):
        raise UsageError("only for graph files", field="range", value=value)
    check_stated_scales(sources, request.scale)
    if not request.image.is_file():
        raise UsageError(f"no such picture: {request.image}")
    check_folder((request.output or request.image).parent)


def _options(request: CompareRequest, source: Source) -> RunOptions:
    """Options of running a model; ``range`` is for graphs alone."""
    options = request.options
    return options if source.kind == "graph" else replace(options, range=None)


def _place(request: CompareRequest, scale: int) -> Path:
    """Path of the figure, which must be free or one of srq's own."""
    if request.output is None:
        path = request.image.with_name(f"{request.image.stem}_x{scale}{SHEET}.png")
        if not request.overwrite:
            check_own(path, DRAWING)
        return path
    check_sheet(request.output)
    if request.output.exists() and not request.overwrite:
        raise UsageError(f"{request.output} exists; use `overwrite` to replace it")
    return request.output


def _pictures(request: CompareRequest, scale: int) -> tuple[Pixels, Pixels | None]:
    """LR and HR, of which HR is cropped to a multiple of the scale."""
    if request.downscale:
        return Pair("", request.image, None).load(scale)
    if request.hr is not None:
        return Pair("", request.hr, request.image).load(scale)
    return read_rgb(request.image), None


def _labels(named: Sequence[Named], models: Sequence[Upscaler]) -> list[str]:
    """Names as the user typed them, else those of the files; numbered if they are the same."""
    typed = [str(name) if is_name(str(name)) else "" for name in named] or [""]
    labels: list[str] = []
    for name, model in zip(typed, models, strict=True):
        label = model.name if name in ("", *FAMILIES) else name
        same = sum(other == label or other.startswith(f"{label} (") for other in labels)
        labels.append(f"{label} ({same + 1})" if same else label)
    return labels


def _measured(
    label: str, sr: Pixels, hr: Pixels | None, upscaler: Upscaler, protocol: Protocol
) -> ComparedResult:
    if hr is None:
        return ComparedResult(label, None, None, upscaler.ran_by)
    try:
        scores = score(sr, hr, upscaler.scale, protocol)
    except ValueError as error:
        raise UsageError(str(error), field="hr") from error
    return ComparedResult(label, scores.psnr, scores.ssim, upscaler.ran_by)


def _caption(row: ComparedResult) -> str:
    return "" if row.psnr is None else f"{row.psnr:.2f} / {row.ssim:.4f}"


def _cut(pixels: Pixels, crop: Region) -> Pixels:
    return pixels[crop.top : crop.bottom, crop.left : crop.right]
