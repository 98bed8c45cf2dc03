"""Times of ``srq bench`` on the terminal."""

from typing import Any

from sr_quant_cli.commands.bench_kernels import KernelTimings
from sr_quant_cli.commands.bench_train import LOADER_TARGET, QUANTIZED_TARGET, TrainTimings
from sr_quant_cli.commands.bench_upscale import UpscaleTimings
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
    _print_machine(timings.machine)


def print_upscale_times(timings: UpscaleTimings) -> None:
    """Print the times of ``bench_upscale``: a row for each variant below its model."""
    scale = timings.scale
    size = f"{timings.width}x{timings.height}"
    large = f"{scale * timings.width}x{scale * timings.height}"
    headings = (
        *("model, runtime", "median ms", "minimum ms", "times as fast", "PSNR dB"),
        *("integer / float", "T BitOPs"),
    )
    rows: list[tuple[str, ...]] = []
    model = None
    for row in timings.rows:
        if row.model != model:
            model = row.model
            rows.append((model, *[""] * (len(headings) - 1)))
        rows.append(
            (
                f"  {row.variant}",
                f"{1000 * row.times.median:.0f}",
                f"{1000 * row.times.minimum:.0f}",
                f"{row.times.speedup:.2f}",
                "equal" if row.psnr is None else f"{row.psnr:.2f}",
                f"{row.integer_kernels} / {row.float_kernels}",
                f"{row.bitops_counted / 1e12:.2f}",
            )
        )
    print_table(headings, rows, f"{size} to {large}")
    say(
        f"{len(timings.rows[0].times.times)} runs each, in turns; times as fast: median of the "
        "ratios to the first row; PSNR: against its output; integer / float: executed convolutions "
        "and products; BitOPs: counted"
    )
    for row in timings.rows:
        if row.peak_share is not None:
            say(
                f"{row.model}, {row.variant}: {100 * row.peak_share:.0f} % of the 8-bit "
                "multiply-accumulates that the processor can do in the minimum"
            )
    _print_machine(timings.machine)


def print_kernel_times(timings: KernelTimings) -> None:
    """Print the times of ``bench_kernels``: a row for each instruction set and format."""
    rows = [
        (
            row.isa,
            row.format,
            "Winograd" if row.winograd else "direct",
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
        "MAC: multiply-accumulates of the direct form, of which Winograd's algorithm needs 4 in 9; "
        "peak: 8-bit multiplications in registers"
    )


def _peak(work: float, peak: float) -> tuple[str, str]:
    return f"{peak / 1e9:.0f}", f"{100 * work / peak:.0f} %"


def _print_machine(where: dict[str, Any]) -> None:
    say(
        f"{where['device']}, {where['threads']} threads, torch {where['torch']}, "
        f"processor features: {', '.join(where['features']) or 'none that matter'}"
    )
