"""``srq eval``: models and folders of pictures, scored on benchmark sets."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_quant_cli import __version__
from sr_quant_cli.commands.scaled_models import check_stated_scales
from sr_quant_cli.commands.scoring import (
    Candidate,
    PictureScore,
    SetResult,
    distinct,
    folder_candidate,
    is_below,
    model_candidate,
    score_candidates,
)
from sr_quant_cli.data.benchmark import BenchmarkSet, data_root, find_set, parse_sets
from sr_quant_cli.data.degrade import CLEAN, in_order, parse_degradations
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.inference.opening import common_scale, open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.upscaler import BicubicUpscaler, Upscaler
from sr_quant_cli.metrics import Protocol, get_protocol
from sr_quant_cli.modelfiles.card import SetScore
from sr_quant_cli.modelfiles.modelfile import record_scores
from sr_quant_cli.modelfiles.named import Named, Source, has_embedded_model, identify
from sr_quant_cli.runtimes.registry import AUTO, TORCH
from sr_quant_cli.scales import check_scale
from sr_quant_cli.system.choices import Depth
from sr_quant_cli.system.files import DRAWING, check_own
from sr_quant_cli.system.processes import process_group
from sr_quant_cli.system.reporting import note, warn

if TYPE_CHECKING:
    from sr_quant_cli.inference.bits import Cost

_ASK_GRAPH = "does it take and give RGB 0..1? Put what BGR or 0..255 needs into the graph"
_ASK_CHECKPOINT = (
    "was its residual factor or range another one? srq import has `res_scale`, `range`"
)


@dataclass(frozen=True)
class EvalRequest:
    """Request for ``evaluate``.

    Attributes
    ----------
    models
        What ``identify`` finds models by; empty: the embedded model if the scale has one, unless
        there are folders.
    bench
        Names of sets, joined by ``+``.
    scale
        Scale of all rows; None: the models' own, else 4.
    protocol
        Name of a metric protocol.
    sr_dirs
        Folders of pictures that were upscaled elsewhere, a row each.
    record
        The scores are to be stored by ``record``: refuse models and options for which they cannot.
    bit_maps
        Folder for maps of the chosen bits; None: no maps.
    runtime
        A registered runtime or auto; None: torch, the reference, and for a graph file its own.
    device, threads, depth, patches, self_ensemble
        As in ``RunOptions``.
    degrade
        Degradations of the LR pictures as ``parse_degradations`` reads them; empty: none.
    range
        As in ``RunOptions``, for the graphs among the models.
    data_root
        Folder of the data sets; None: ``SRQ_DATA``, else ``datasets``.
    """

    models: tuple[Named, ...] = ()
    bench: str = "Set5+Set14+B100+Urban100"
    scale: int | None = None
    protocol: str = "matlab"
    sr_dirs: tuple[Path, ...] = ()
    record: bool = False
    bit_maps: Path | None = None
    runtime: str | None = None
    device: str = "auto"
    threads: int | None = None
    depth: Depth = "full"
    patches: Patches | None = None
    self_ensemble: bool = False
    range: int | None = None
    degrade: str = ""
    data_root: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores of all rows on all sets.

    Attributes
    ----------
    results
        One for each row and set, sets outside; bicubic is the first row.
    sources
        The models, in the order of the rows behind bicubic.
    labels
        Their labels.
    patches
        Patches in which the models enlarged; None: whole pictures.
    costs
        True if average bits and bit operations are worth showing.
    degrade
        Degradations of the LR pictures, in the order of ``in_order``; empty: none.
    """

    results: tuple[SetResult, ...]
    sets: tuple[BenchmarkSet, ...]
    protocol: Protocol
    sources: tuple[Source, ...] = ()
    labels: tuple[str, ...] = ()
    patches: Patches | None = None
    costs: bool = False
    degrade: str = ""

    @property
    def scale(self) -> int:
        """Scale of all rows."""
        return self.sets[0].scale

    @property
    def reference(self) -> str | None:
        """Label of the row that others are compared with: the one behind bicubic.

        None: there are no others.
        """
        labels = list(dict.fromkeys(result.label for result in self.results))
        return labels[1] if len(labels) > 2 else None

    def difference(self, result: SetResult) -> float | None:
        """PSNR of a row on a set, less that of the reference, in dB; None: it is not compared."""
        if result.label in (self.reference, self.results[0].label):
            return None
        return next(
            (
                result.psnr - other.psnr
                for other in self.results
                if (other.label, other.bench) == (self.reference, result.bench)
            ),
            None,
        )

    def to_csv(self) -> tuple[list[str], list[list[object]]]:
        """Headings and rows: for every model and set its pictures, then their mean."""
        rows: list[list[object]] = []
        for result in self.results:
            mean = replace(result, seconds=result.seconds / len(result.pictures))
            scored: list[tuple[str, PictureScore | SetResult]] = [
                *((picture.name, picture) for picture in result.pictures),
                ("mean", mean),
            ]
            measured = (result.runtime, self.scale, self.protocol.name, self.degrade)
            rows += [
                [result.label, result.bench, name, *_figures(scores), *measured]
                for name, scores in scored
            ]
        return [*_COLUMNS], rows

    def to_json(self) -> dict[str, Any]:
        """Report: the figures, with everything that makes them comparable."""
        return {
            "srq": __version__,
            "protocol": self.protocol.name,
            "protocol_summary": self.protocol.summary,
            "border": self.protocol.border(self.scale),
            "scale": self.scale,
            "degrade": self.degrade,
            "patches": None if self.patches is None else asdict(self.patches),
            "sets": {
                bench.name: {"images": len(bench.pairs), "lr": bench.lr_origin}
                for bench in self.sets
            },
            "reference": self.reference,
            "rows": [
                {**_row(result), "psnr_difference": _rounded(self.difference(result))}
                for result in self.results
            ],
        }


def evaluate(request: EvalRequest) -> Evaluation:
    """Score models and folders of pictures on benchmark sets.

    The processes of a process group share the pictures; all return the whole result.

    Raises
    ------
    UsageError
        A model, set, protocol or folder is not usable, or the options exclude each other.
    """
    sources = _sources(request)
    _check(request, sources)
    protocol = get_protocol(request.protocol)
    degradations = parse_degradations(request.degrade) if request.degrade else CLEAN
    names = parse_sets(request.bench)
    check_stated_scales(sources, request.scale)
    upscalers = [open_model(source, _options(request, source)) for source in sources]
    scale = common_scale(upscalers, request.scale)
    dynamic = any(u.meter is not None and u.meter.dynamic for u in upscalers)
    if request.bit_maps is not None and not dynamic:
        raise UsageError("the bits of no model here follow the picture", field="bit_maps")
    sets = [find_set(name, scale, data_root(request.data_root)) for name in names]
    candidates = _candidates(request, upscalers, scale)
    with process_group():
        results = score_candidates(candidates, sets, protocol, degradations)
    labels = [candidate.label for candidate in candidates[1 : 1 + len(sources)]]
    _warn_below_bicubic(sources, labels, results)
    return Evaluation(
        tuple(results),
        tuple(sets),
        protocol,
        tuple(sources),
        tuple(labels),
        request.patches,
        costs=dynamic or request.patches is not None,
        degrade=in_order(degradations),
    )


def record(evaluation: Evaluation) -> None:
    """Store the scores of each model in the card of its file.

    Raises
    ------
    UsageError
        A model is no srq model file.
    FailedError
        A file cannot be written.
    """
    for source, label in zip(evaluation.sources, evaluation.labels, strict=True):
        record_scores(source.path, set_scores(evaluation, label))


def set_scores(evaluation: Evaluation, label: str) -> list[SetScore]:
    """Finite scores of one row, as the card of a model file holds them."""
    return [
        SetScore(
            bench=result.bench,
            images=len(result.pictures),
            scale=evaluation.scale,
            protocol=evaluation.protocol.name,
            border=evaluation.protocol.border(evaluation.scale),
            lr=result.lr_origin,
            psnr=round(result.psnr, 4),
            ssim=round(result.ssim, 5),
        )
        for result in evaluation.results
        if result.label == label and math.isfinite(result.psnr)
    ]


def _sources(request: EvalRequest) -> list[Source]:
    if request.models:
        return [identify(model, request.scale) for model in request.models]
    scale = 4 if request.scale is None else request.scale
    check_scale(scale)
    if not request.sr_dirs:
        if has_embedded_model(scale):
            return [identify(None, request.scale)]
        note(f"no embedded model enlarges by {scale}: bicubic alone")
    return []


def _check(request: EvalRequest, sources: Sequence[Source]) -> None:
    """Refuse options that exclude each other."""
    depth = {"field": "depth", "value": request.depth}
    if request.record:
        foreign = [str(source.path) for source in sources if not source.is_model_file]
        if foreign:
            files = ", ".join(foreign)
            raise UsageError(f"only srq model files store scores, not {files}", field="record")
        if request.runtime not in (None, TORCH):
            raise UsageError(
                f"stores scores of the model itself, not by {request.runtime}", field="record"
            )
        if request.depth != "full":
            raise UsageError("`record` stores scores of full depth only", **depth)
        if request.patches is not None:
            raise UsageError(
                "stores scores of whole pictures, not of patches (`patchwise`)", field="record"
            )
        if request.degrade:
            raise UsageError(
                "stores scores of the sets as they are, not degraded (`degrade`)", field="record"
            )
        if request.self_ensemble:
            raise UsageError(
                "stores scores of the model alone, not its `self_ensemble`", field="record"
            )
    if request.range is not None and not any(source.kind == "graph" for source in sources):
        raise UsageError("only for graph files", field="range", value=request.range)
    if request.depth != "full" and not request.models:
        raise UsageError("name a model that runs at several depths", **depth)
    if request.bit_maps is not None:
        if request.patches is None:
            raise UsageError("only with `patchwise`", field="bit_maps")
        for path in request.bit_maps.rglob("*_bits.png"):
            check_own(path, DRAWING)


def _options(request: EvalRequest, source: Source) -> RunOptions:
    return RunOptions(
        runtime=request.runtime or (AUTO if source.kind == "graph" else TORCH),
        device=request.device,
        precision="fp32",
        threads=request.threads,
        depth=request.depth,
        patches=request.patches,
        self_ensemble=request.self_ensemble,
        range=request.range if source.kind == "graph" else None,
    )


def _candidates(request: EvalRequest, upscalers: Sequence[Upscaler], scale: int) -> list[Candidate]:
    return distinct(
        [
            model_candidate(BicubicUpscaler(scale)),
            *(model_candidate(upscaler, request.bit_maps) for upscaler in upscalers),
            *(folder_candidate(folder) for folder in request.sr_dirs),
        ]
    )


def _warn_below_bicubic(
    sources: Sequence[Source], labels: Sequence[str], results: Sequence[SetResult]
) -> None:
    """Ask about models of other projects that are worse than bicubic: they may be misread."""
    for source, label in zip(sources, labels, strict=True):
        if not source.is_model_file and is_below(label, "bicubic", results):
            question = _ASK_GRAPH if source.kind == "graph" else _ASK_CHECKPOINT
            warn(f"{label} is below bicubic: {question}")


def _row(result: SetResult) -> dict[str, Any]:
    return {
        "model": result.label,
        "bench": result.bench,
        "runtime": result.runtime,
        **_scores(result),
        "seconds": round(result.seconds, 3),
        **_cost_fields(result.cost),
        "fab_counted": result.counted,
        "pictures": [
            {
                "name": picture.name,
                **_scores(picture),
                **_cost_fields(picture.cost),
            }
            for picture in result.pictures
        ],
    }


_COLUMNS = (
    *("model", "set", "picture", "psnr", "ssim", "edge_psnr", "seconds", "fab", "runtime"),
    *("scale", "protocol", "degrade"),
)


def _figures(scored: SetResult | PictureScore) -> list[float | None]:
    return [
        *_scores(scored).values(),
        round(scored.seconds, 3),
        _cost_fields(scored.cost)["fab"],
    ]


def _scores(scored: SetResult | PictureScore) -> dict[str, float]:
    return {
        "psnr": round(scored.psnr, 4),
        "ssim": round(scored.ssim, 5),
        "edge_psnr": round(scored.edge, 4),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _cost_fields(cost: "Cost | None") -> dict[str, float | None]:
    if cost is None:
        return {"fab": None, "bitops_counted": None, "bitops_once_counted": None}
    return {
        "fab": round(cost.fab, 4),
        "bitops_counted": round(cost.bitops),
        "bitops_once_counted": round(cost.bitops_once),
    }
