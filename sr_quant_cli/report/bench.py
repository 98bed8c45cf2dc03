"""Times of ``srq bench`` on the terminal."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sr_quant_cli.commands.bench_kernels import KernelTimings
from sr_quant_cli.commands.bench_train import LOADER_TARGET, QUANTIZED_TARGET, TrainTimings
from sr_quant_cli.commands.bench_upscale import UpscaleTiming, UpscaleTimings
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


def print_training_times(timings: TrainTimings) -> None:
    """Print the times of ``bench_train``: a row for each variant, the finding, the machine."""
    recipe, rows = timings.recipe, timings.rows
    cells = [
        (
            row.variant,
            f"{row.median:.4g}",
            f"{row.minimum:.4g}",
            f"{row.steps_per_second:.4g}",
            f"{row.speedup:.2f}",
        )
        for row in rows
    ]
    headings = ("variant", "median s", "minimum s", "steps/s", "times as fast")
    print_table(headings, cells, f"Training step, {recipe.network.name} x{recipe.network.scale}")
    if timings.quantized_ratio is not None:
        say(
            f"a fake-quantized step takes {timings.quantized_ratio:.2f} times as long as a "
            f"full-precision one (target: at most {QUANTIZED_TARGET:g})"
        )
    if timings.loader_percent is not None:
        say(f"loader: {timings.loader_percent:+.1f} % (target: at most {LOADER_TARGET:g} %)")
    say(
        f"batch {recipe.train.batch}, LR patch {timings.patch}, {timings.photographs} photographs "
        f"of {timings.data}; {len(rows[0].times)} steps each, in turns; times as fast: as the "
        "first row"
    )
    say(f"{_threads(timings.machine['threads'])} of {_machine(timings.machine)}")


def print_upscale_times(timings: UpscaleTimings) -> None:
    """Print the times of ``bench_upscale``: a table for each picture and number of threads."""
    for (title, headings), rows in _upscale_tables(timings):
        print_table(headings, rows, title)
    say(_legend(timings))
    for row in timings.rows:
        if row.peak_share is not None:
            say(
                f"{row.model}, {row.variant}, {row.width}x{row.height}, {_threads(row.threads)}: "
                f"{100 * row.peak_share:.0f} % of the 8-bit multiply-accumulates that the "
                "processor can do in the minimum"
            )
    say(_machine(timings.machine))


def upscale_markdown(timings: UpscaleTimings) -> str:
    """Write the times of ``bench_upscale`` as Markdown tables, for documents."""
    parts = []
    for (title, headings), rows in _upscale_tables(timings):
        lines = [headings, ("---", *["---:"] * (len(headings) - 1)), *rows]
        table = "\n".join(f"| {' | '.join(map(str.strip, line))} |" for line in lines)
        parts.append(f"{title}\n\n{table}\n")
    parts.append(f"* {_legend(timings)}\n* {_machine(timings.machine)}\n")
    return "\n".join(parts)


def _legend(timings: UpscaleTimings) -> str:
    runs = len(timings.rows[0].times.times)
    return (
        f"{runs} run{'s' if runs > 1 else ''} each, in turns; times as fast: median of the "
        "ratios to the first row; PSNR: against its output; int / float: executed convolutions "
        "and products, on integers and in float"
        + ("; RAM: largest of a process of its own" if timings.rows[0].memory else "")
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _upscale_tables(
    timings: UpscaleTimings,
) -> Iterator[tuple[tuple[str, tuple[str, ...]], list[tuple[str, ...]]]]:
    """Titles, headings and rows of the tables: a row for each variant below its model."""
    headings = (
        *("model, runtime", "median ms", "min ms", "p95 ms", "times as fast", "PSNR dB"),
        *("int / float", *(("RAM MB",) if timings.rows[0].memory else ())),
    )
    scale = timings.scale

    def place(row: UpscaleTiming) -> tuple[int, int, int]:
        return row.width, row.height, row.threads

    for (width, height, threads), group in groupby(timings.rows, key=place):
        rows: list[tuple[str, ...]] = []
        for model, variants in groupby(group, key=lambda row: row.model):
            rows.append((model, *[""] * (len(headings) - 1)))
            rows += [_upscale_cells(row)[: len(headings)] for row in variants]
        title = f"{width}x{height} to {scale * width}x{scale * height}, {_threads(threads)}"
        yield (title, headings), rows


def _upscale_cells(row: UpscaleTiming) -> tuple[str, ...]:
    times = row.times
    return (
        f"  {row.variant}",
        *(f"{1000 * seconds:.0f}" for seconds in (times.median, times.minimum, times.p95)),
        f"{times.speedup:.2f}",
        "equal" if row.psnr is None else f"{row.psnr:.2f}",
        f"{row.integer_kernels} / {row.float_kernels}",
        "-" if row.memory is None else f"{row.memory / 1e6:.0f}",
    )


def print_kernel_times(timings: KernelTimings) -> None:
    """Print the times of ``bench_kernels``: a row for each instruction set and format."""
    rows = [
        (
            row.isa,
            row.format,
            row.algorithm,
            f"{1000 * row.seconds:.2f}",
            f"{row.work / 1e9:.0f}",
            *(("", "") if row.peak is None else _peak(row.work, row.peak)),
        )
        for row in timings.rows
    ]
    headings = ("instructions", "codes", "algorithm", "ms", "G MAC/s", "peak", "of peak")
    channels = timings.channels
    title = f"3x3, {channels} to {channels} channels, {timings.width}x{timings.height}, 1 thread"
    print_table(headings, rows, title)
    say(
        "MAC: multiply-accumulates of the direct form, of which Winograd's F(2x2,3x3) needs 4 in 9 "
        "and F(3x3,3x3) 25 in 81; peak: 8-bit multiplications in registers"
    )


def _peak(work: float, peak: float) -> tuple[str, str]:
    return f"{peak / 1e9:.0f}", f"{100 * work / peak:.0f} %"


def _machine(where: dict[str, Any]) -> str:
    place = where["processor"] if where["device"] == "cpu" else where["device"]
    return (
        f"{place}, torch {where['torch']}, processor features: "
        f"{', '.join(where['features']) or 'none that matter'}"
    )
