"""Tables on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sr_quant_cli.data.benchmark import BenchmarkSet
    from sr_quant_cli.inference.evaluate import SetResult
    from sr_quant_cli.metrics import Protocol


def print_scores(
    results: "Sequence[SetResult]", sets: "Sequence[BenchmarkSet]", protocol: "Protocol"
) -> None:
    """Print the papers' table: a row a model, ``PSNR/SSIM`` a set; and how it was measured."""
    scale = sets[0].scale
    table = Table(title=f"PSNR (dB) / SSIM, x{scale}, protocol {protocol.name}, border {scale} px")
    table.add_column("model")
    for bench in sets:
        table.add_column(f"{bench.name} ({len(bench.pairs)})", justify="right")
    cells = {(r.label, r.bench): f"{r.psnr:.2f} / {r.ssim:.4f}" for r in results}
    for label in dict.fromkeys(result.label for result in results):
        table.add_row(label, *(cells[label, bench.name] for bench in sets))
    print_table(table)
    print(f"{protocol.name}: {protocol.summary}")
    made = [bench.name for bench in sets if bench.lr_origin == "bicubic"]
    if made:
        print(f"LR made by bicubic (no LR files): {', '.join(made)}")


def print_table(table: Table) -> None:
    """Print a table on stdout, as wide as it needs to be where stdout is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table)
