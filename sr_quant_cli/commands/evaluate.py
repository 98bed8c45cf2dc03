"""``srq eval``: every candidate on every benchmark set, scored beside the inference."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_quant_cli import __version__
from sr_quant_cli.data.benchmark import BenchmarkSet, Pair
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import picture_files
from sr_quant_cli.imaging.io import read_rgb, thumbnail
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.inference.bitmap import draw_bit_map
from sr_quant_cli.inference.tiles import OnTile, TileResult
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.metrics import Protocol, score
from sr_quant_cli.modelfiles.modelfile import SetScore
from sr_quant_cli.runtimes.base import Pixels, RuntimeName
from sr_quant_cli.system.processes import collect, from_first, share
from sr_quant_cli.system.reporting import track
from sr_quant_cli.system.terminal import file_name

if TYPE_CHECKING:
    from sr_quant_cli.inference.bits import BitMeter, Cost


@dataclass(frozen=True)
class Candidate:
    """A row of the table.

    Attributes
    ----------
    make_sr
        Makes SR from a pair and its LR picture, and tells of every tile that has run.
    meter
        Counts bits of the tiles; None: none are known.
    bit_maps
        Folder of maps of the bits that it chooses; None: none are drawn.
    ran_by
        Tells which runtime ran the latest picture; None: no network.
    """

    label: str
    make_sr: Callable[[BenchmarkSet, Pair, Pixels, OnTile], Pixels]
    meter: "BitMeter | None" = None
    bit_maps: Path | None = None
    ran_by: Callable[[], RuntimeName | None] = lambda: None


@dataclass(frozen=True)
class PictureScore:
    """Score of one picture; seconds of making SR, and counted bits where they are known."""

    name: str
    psnr: float
    ssim: float
    edge: float
    seconds: float
    cost: "Cost | None" = None


@dataclass(frozen=True)
class SetResult:
    """Score of one candidate on one set: means over its pictures.

    Seconds are those of making SR, summed over the pictures, whichever process made them: with
    several processes more than the time one waits. ``counted`` says what the average bits of
    ``cost`` are the mean of, ``runtime`` what ran the network, if one ran.
    """

    label: str
    bench: str
    lr_origin: str
    psnr: float
    ssim: float
    edge: float
    seconds: float
    pictures: tuple[PictureScore, ...]
    cost: "Cost | None" = None
    counted: str = ""
    runtime: RuntimeName | None = None


def model_candidate(upscaler: Upscaler, bit_maps: Path | None = None) -> Candidate:
    """Row of a model; maps are drawn of those whose bits follow the picture."""
    meter = upscaler.meter
    drawn = bit_maps if meter is not None and meter.dynamic else None
    return Candidate(
        upscaler.name,
        lambda _set, _pair, lr, on_tile: upscaler(lr, on_tile),
        meter,
        drawn,
        lambda: upscaler.ran_by,
    )


def folder_candidate(folder: Path) -> Candidate:
    """Row of pictures that something else upscaled: ``DIR/SET/NAME.png`` or ``DIR/NAME.png``.

    Raises
    ------
    UsageError
        There is no such folder; later, when a picture of a set is missing in it.
    """
    if not folder.is_dir():
        raise UsageError(f"--sr-dir {folder}: no such folder")

    @cache
    def files_of(place: Path) -> dict[str, Path]:
        return {path.stem: path for path in picture_files(place)}

    def find(bench: BenchmarkSet, pair: Pair, _lr: Pixels, _on_tile: OnTile) -> Pixels:
        inside = folder / bench.name
        place = inside if inside.is_dir() else folder
        files = files_of(place)
        stems = dict.fromkeys([pair.name, pair.hr.stem, (pair.lr or pair.hr).stem])
        endings = ("", f"_x{bench.scale}", f"x{bench.scale}", "_SR")
        for spelling in (stem + ending for ending in endings for stem in stems):
            if spelling in files:
                return read_rgb(files[spelling])
        raise UsageError(
            f"--sr-dir: {place} has no picture of {pair.name} ({bench.name}); its name may be one "
            f"of {', '.join(stems)}, followed by nothing or {', '.join(endings[1:])}"
        )

    return Candidate(folder.name, find)


def evaluate(
    candidates: Sequence[Candidate], sets: Sequence[BenchmarkSet], protocol: Protocol
) -> list[SetResult]:
    """Score candidates on sets, each picture read once.

    SR is made in this thread while another scores the picture before; no more than these two are
    in memory. The processes of a process
    group share the pictures of each set; all get the whole result.

    Raises
    ------
    UsageError
        A picture is missing, damaged, or not of its original's size.
    """
    results = []
    with ThreadPoolExecutor(1) as scorer:
        for bench in sets:
            waiting: list[list[Future[PictureScore]]] = []
            mine = share(from_first(bench.pairs))
            for pair in track(mine, len(mine), "picture", bench.name):
                lr, hr = pair.load(bench.scale)
                row = []
                for candidate in candidates:
                    ran: list[TileResult] = []
                    begun = time.perf_counter()
                    sr = candidate.make_sr(bench, pair, lr, ran.append)
                    seconds = time.perf_counter() - begun
                    made = partial(_score, candidate, bench, pair, sr, hr, seconds, protocol)
                    cost = None if candidate.meter is None else candidate.meter.cost(ran)
                    row.append(scorer.submit(made, cost))
                    _draw(candidate, bench, pair, lr, ran)
                waiting.append(row)
                for future in waiting[-2] if len(waiting) > 1 else ():
                    future.result()
            rows = collect([[future.result() for future in row] for row in waiting])
            results += [
                _mean(candidate, bench, pictures)
                for candidate, pictures in zip(candidates, zip(*rows, strict=True), strict=True)
            ]
    return results


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Number labels that occur more than once: ``a``, ``a (2)``."""
    seen: Counter[str] = Counter()
    out = []
    for candidate in candidates:
        seen[candidate.label] += 1
        count = seen[candidate.label]
        label = candidate.label if count == 1 else f"{candidate.label} ({count})"
        out.append(replace(candidate, label=label))
    return out


def is_below(label: str, other: str, results: Sequence[SetResult]) -> bool:
    """Whether the PSNR of one row is below that of another on every set."""
    psnr = {(result.label, result.bench): result.psnr for result in results}
    sets = {bench for _, bench in psnr}
    return all(psnr[label, bench] < psnr[other, bench] for bench in sets)


def set_scores(
    label: str, results: Sequence[SetResult], sets: Sequence[BenchmarkSet], protocol: Protocol
) -> list[SetScore]:
    """The results of one row as a model's card holds them: those that are finite."""
    by_name = {bench.name: bench for bench in sets}
    return [
        SetScore(
            bench=result.bench,
            images=len(result.pictures),
            scale=by_name[result.bench].scale,
            protocol=protocol.name,
            border=by_name[result.bench].scale,
            lr=result.lr_origin,
            psnr=round(result.psnr, 4),
            ssim=round(result.ssim, 5),
        )
        for result in results
        if result.label == label and math.isfinite(result.psnr)
    ]


def report(
    results: Sequence[SetResult],
    sets: Sequence[BenchmarkSet],
    protocol: Protocol,
    patches: Patches | None = None,
) -> dict[str, Any]:
    """Report that ``--json`` writes: figures with all that makes them comparable."""
    scale = sets[0].scale
    return {
        "srq": __version__,
        "protocol": protocol.name,
        "protocol_summary": protocol.summary,
        "border": scale,
        "scale": scale,
        "patches": None if patches is None else asdict(patches),
        "sets": {bench.name: {"images": len(bench.pairs), "lr": bench.lr_origin} for bench in sets},
        "rows": [
            {
                "model": result.label,
                "bench": result.bench,
                "runtime": result.runtime,
                "psnr": round(result.psnr, 4),
                "ssim": round(result.ssim, 5),
                "edge_psnr": round(result.edge, 4),
                "seconds": round(result.seconds, 3),
                **_cost_fields(result.cost),
                "fab_counted": result.counted,
                "pictures": [
                    {
                        "name": p.name,
                        "psnr": round(p.psnr, 4),
                        "ssim": round(p.ssim, 5),
                        "edge_psnr": round(p.edge, 4),
                        **_cost_fields(p.cost),
                    }
                    for p in result.pictures
                ],
            }
            for result in results
        ],
    }


def _cost_fields(cost: "Cost | None") -> dict[str, float | None]:
    if cost is None:
        return {"fab": None, "bitops_counted": None, "bitops_once_counted": None}
    return {
        "fab": round(cost.fab, 4),
        "bitops_counted": round(cost.bitops),
        "bitops_once_counted": round(cost.bitops_once),
    }


def _draw(
    candidate: Candidate, bench: BenchmarkSet, pair: Pair, lr: Pixels, ran: Sequence[TileResult]
) -> None:
    if candidate.bit_maps is None:
        return
    assert candidate.meter is not None
    folder = candidate.bit_maps / file_name(candidate.label) / bench.name
    title = f"{pair.name}: {candidate.label}, x{bench.scale}"
    path = folder / f"{pair.name}_x{bench.scale}_bits.png"
    draw_bit_map(thumbnail(lr), ran, candidate.meter.candidates, title, path)


def _score(
    candidate: Candidate,
    bench: BenchmarkSet,
    pair: Pair,
    sr: Pixels,
    hr: Pixels,
    seconds: float,
    protocol: Protocol,
    cost: "Cost | None",
) -> PictureScore:
    try:
        scored = score(sr, hr, bench.scale, protocol)
    except ValueError as error:
        raise UsageError(f"{candidate.label}, {bench.name} {pair.name}: {error}") from error
    return PictureScore(pair.name, scored.psnr, scored.ssim, scored.edge, seconds, cost)


def _mean(
    candidate: Candidate, bench: BenchmarkSet, pictures: tuple[PictureScore, ...]
) -> SetResult:
    costs = [p.cost for p in pictures if p.cost is not None]
    return SetResult(
        candidate.label,
        bench.name,
        bench.lr_origin,
        float(np.mean([p.psnr for p in pictures])),
        float(np.mean([p.ssim for p in pictures])),
        float(np.mean([p.edge for p in pictures])),
        sum(p.seconds for p in pictures),
        pictures,
        type(costs[0]).mean(costs) if costs else None,
        "" if candidate.meter is None else candidate.meter.counted,
        candidate.ran_by(),
    )
