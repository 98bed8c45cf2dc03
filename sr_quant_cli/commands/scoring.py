"""Scores of candidates on benchmark sets; pictures are scored while the next ones are enlarged."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from sr_quant_cli.data.benchmark import BenchmarkSet, Pair
from sr_quant_cli.data.degrade import CLEAN, Degradations
from sr_quant_cli.data.sr_folder import SrFolder
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, thumbnail
from sr_quant_cli.inference.bitmap import draw_bit_map
from sr_quant_cli.inference.tiles import OnTile, TileResult
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.metrics import Protocol, score
from sr_quant_cli.runtimes.base import Pixels
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
        Makes SR from a pair and its LR picture, and calls back for every tile that has run.
    meter
        Counts the bits of the tiles; None: the bits are unknown.
    bit_maps
        Folder for maps of the chosen bits; None: no maps.
    ran_by
        Name of the runtime that ran the latest picture; None: no network.
    """

    label: str
    make_sr: Callable[[BenchmarkSet, Pair, Pixels, OnTile], Pixels]
    meter: "BitMeter | None" = None
    bit_maps: Path | None = None
    ran_by: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class PictureScore:
    """Scores of one picture (dB, SSIM), seconds of making SR, and counted bits if known."""

    name: str
    psnr: float
    ssim: float
    edge: float
    seconds: float
    cost: "Cost | None" = None


@dataclass(frozen=True)
class SetResult:
    """Scores of one candidate on one set: means over its pictures.

    ``seconds`` is the time of making SR, summed over the pictures of all processes, so with several
    processes it exceeds the time that one waits. ``counted`` says which inputs the average bits of
    ``cost`` cover; ``runtime`` names the runtime of the network, if there is one.
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
    runtime: str | None = None


def model_candidate(upscaler: Upscaler, bit_maps: Path | None = None) -> Candidate:
    """Row of a model; bit maps are drawn only if its bits follow the picture."""
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
    """Row of pictures upscaled elsewhere, with the names that ``SrFolder`` knows.

    Raises
    ------
    UsageError
        There is no such folder; later, if a picture of a set is missing in it.
    """
    results = SrFolder(folder)
    return Candidate(
        folder.name, lambda bench, pair, _lr, _on_tile: read_rgb(results.find(bench, pair))
    )


def score_candidates(
    candidates: Sequence[Candidate],
    sets: Sequence[BenchmarkSet],
    protocol: Protocol,
    degradations: Degradations = CLEAN,
) -> list[SetResult]:
    """Score candidates on sets, whose LR pictures may be degraded; each picture is read once.

    This thread makes SR while another one scores the previous picture; only these two pictures are
    in memory. The processes of a process group share the pictures of each set, and all return the
    whole result.

    Raises
    ------
    UsageError
        A picture is missing or damaged, or does not have the size of its original.
    """
    results = []
    with ThreadPoolExecutor(1) as scorer:
        for bench in sets:
            waiting: list[list[Future[PictureScore]]] = []
            mine = share(from_first(bench.pairs))
            for pair in track(mine, len(mine), "picture", bench.name):
                lr, hr = pair.load(bench.scale)
                lr = degradations.degrade(lr, hr, np.random.default_rng(crc32(pair.name.encode())))
                row = []
                for candidate in candidates:
                    tiles: list[TileResult] = []
                    begun = time.perf_counter()
                    sr = candidate.make_sr(bench, pair, lr, tiles.append)
                    seconds = time.perf_counter() - begun
                    made = partial(_score, candidate, bench, pair, sr, hr, seconds, protocol)
                    cost = None if candidate.meter is None else candidate.meter.cost(tiles)
                    row.append(scorer.submit(made, cost))
                    _draw(candidate, bench, pair, lr, tiles)
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
    """Number repeated labels: ``a``, ``a (2)``."""
    seen: Counter[str] = Counter()
    out = []
    for candidate in candidates:
        seen[candidate.label] += 1
        count = seen[candidate.label]
        label = candidate.label if count == 1 else f"{candidate.label} ({count})"
        out.append(replace(candidate, label=label))
    return out


def is_below(label: str, other: str, results: Sequence[SetResult]) -> bool:
    """True if the PSNR of one row is below that of another on every set."""
    psnr = {(result.label, result.bench): result.psnr for result in results}
    sets = {bench for _, bench in psnr}
    return all(psnr[label, bench] < psnr[other, bench] for bench in sets)


def _draw(
    candidate: Candidate, bench: BenchmarkSet, pair: Pair, lr: Pixels, tiles: Sequence[TileResult]
) -> None:
    if candidate.bit_maps is None:
        return
    assert candidate.meter is not None
    folder = candidate.bit_maps / file_name(candidate.label) / bench.name
    title = f"{pair.name}: {candidate.label}, x{bench.scale}"
    path = folder / f"{pair.name}_x{bench.scale}_bits.png"
    draw_bit_map(thumbnail(lr), tiles, candidate.meter.candidates, title, path)


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
