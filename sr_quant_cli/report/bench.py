"""Times of ``srq bench`` on the terminal."""

from typing import Any

from rich.table import Table

from sr_quant_cli.engine.bench import LOADER_TARGET, QUANTIZED_TARGET
from sr_quant_cli.report.table import print_table


def print_training_times(report: dict[str, Any]) -> None:
    """Print what ``bench_train`` returned: a row a variant, the loader's part, the machine."""
    work, where = report["work"], report["machine"]
    network = work["network"]
    table = Table(title=f"Training step, {network['name']} x{network['scale']}")
    table.add_column("variant")
    speedup = f"times as fast as {report['rows'][0]['variant']}"
    for column in ("median s/step", "minimum", "steps/s", speedup):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        table.add_row(
            row["variant"],
            f"{row['median']:.4g}",
            f"{row['minimum']:.4g}",
            f"{row['steps_per_second']:.4g}",
            f"{row['speedup']:.2f}",
        )
    print_table(table)
    if "quantized_ratio" in report:
        print(
            f"a fake-quantized step takes {report['quantized_ratio']:.2f} times as long as a "
            f"full-precision one (target: at most {QUANTIZED_TARGET:g})"
        )
    else:
        print(f"loader: {report['loader_percent']:+.1f} % (target: at most {LOADER_TARGET:g} %)")
    print(
        f"batch {work['batch']}, LR patch {work['patch']}, {work['photographs']} photographs of "
        f"{work['data']}; {len(report['rows'][0]['times'])} steps each, in turns"
    )
    _print_machine(where)


def print_upscale_times(report: dict[str, Any]) -> None:
    """Print what ``bench_upscale`` returned: a row a model and runtime, the machine."""
    work = report["work"]
    scale = work["scale"]
    size = f"{work['width']}x{work['height']}"
    large = f"{scale * work['width']}x{scale * work['height']}"
    table = Table(title=f"{size} to {large}")
    for column in ("model", "runtime"):
        table.add_column(column)
    for column in (
        "median ms",
        "minimum",
        "times as fast",
        "PSNR to the first, dB",
        "integer / float kernels",
        "bit operations, counted",
    ):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        table.add_row(
            row["model"],
            row["variant"],
            f"{1000 * row['median']:.0f}",
            f"{1000 * row['minimum']:.0f}",
            f"{row['speedup']:.2f}",
            "equal" if row["psnr"] is None else f"{row['psnr']:.2f}",
            f"{row['integer_kernels']} / {row['float_kernels']}",
            f"{row['bitops_counted'] / 1e12:.2f} T",
        )
    print_table(table)
    print(
        f"{len(report['rows'][0]['times'])} runs each, in turns; times as fast: median of the "
        "ratios to the first row; kernels: convolutions and products that were executed"
    )
    _print_machine(report["machine"])


def _print_machine(where: dict[str, Any]) -> None:
    print(
        f"{where['device']}, {where['threads']} threads, torch {where['torch']}, "
        f"processor features: {', '.join(where['features']) or 'none that matter'}"
    )
