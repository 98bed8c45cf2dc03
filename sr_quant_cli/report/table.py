"""Tables on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sr_quant_cli.data.benchmark import BenchmarkSet
    from sr_quant_cli.imaging.tiling import Patches
    from sr_quant_cli.inference.evaluate import SetResult
    from sr_quant_cli.metrics import Protocol


def print_scores(
    results: "Sequence[SetResult]",
    sets: "Sequence[BenchmarkSet]",
    protocol: "Protocol",
    patches: "Patches | None" = None,
    *,
    costs: bool = False,
) -> None:
    """Print the papers' table: a row a model, ``PSNR/SSIM`` a set; and how it was measured.

    Parameters
    ----------
    patches
        By which models enlarged; None: whole pictures.
    costs
        Show feature average bits and bit operations, too.
    """
    scale = sets[0].scale
    table = Table(title=f"PSNR (dB) / SSIM, x{scale}, protocol {protocol.name}, border {scale} px")
    table.add_column("model")
    for bench in sets:
        names = [f"{bench.name} ({len(bench.pairs)})", *(("FAB", "BitOPs (T)") if costs else ())]
        for name in names:
            table.add_column(name, justify="right")
    cells = {(r.label, r.bench): _cells(r, costs=costs) for r in results}
    for label in dict.fromkeys(result.label for result in results):
        table.add_row(label, *(cell for bench in sets for cell in cells[label, bench.name]))
    print_table(table)
    print(f"{protocol.name}: {protocol.summary}")
    made = [bench.name for bench in sets if bench.lr_origin == "bicubic"]
    if made:
        print(f"LR made by bicubic (no LR files): {', '.join(made)}")
    if patches is not None:
        print(f"Patch-wise: models enlarged {patches}, bicubic whole pictures")
    if costs:
        _explain_costs(results)


def _cells(result: "SetResult", *, costs: bool) -> list[str]:
    scored = f"{result.psnr:.2f} / {result.ssim:.4f}"
    if not costs:
        return [scored]
    if result.cost is None:
        return [scored, "-", "-"]
    cost = result.cost
    operations = f"{cost.bitops / 1e12:.2f} / {cost.bitops_once / 1e12:.2f}"
    return [scored, f"{cost.fab:.2f}", operations]


def _explain_costs(results: "Sequence[SetResult]") -> None:
    counted = {result.label: result.counted for result in results if result.counted}
    texts = list(dict.fromkeys(counted.values()))
    for text in texts:
        labels = ", ".join(label for label, other in counted.items() if other == text)
        print(f"FAB: {text}" if len(texts) == 1 else f"FAB of {labels}: {text}")
    print(
        "BitOPs of a picture (counted): 2 x multiply-accumulates x bits of weight x bits of input "
        "(32: float) of convolutions, linear layers and matrix products, as run with overlap / as "
        "if every LR pixel ran once"
    )


def print_table(table: Table) -> None:
    """Print a table on stdout, as wide as it needs to be where stdout is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table)
