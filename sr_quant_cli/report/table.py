"""Tables on the terminal."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sr_quant_cli.report.terminal import say
from sr_quant_cli.system.terminal import printable

_SETS = 5
"""largest number of sets with a column each"""
_WIDE = 200
"""width of a table in a file, in characters"""
_TEXT = 12
"""characters of a name that are kept together"""

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from sr_quant_cli.commands.evaluate import Evaluation
    from sr_quant_cli.commands.scoring import SetResult


def print_scores(evaluation: "Evaluation") -> None:
    """Print the papers' table, and how it was measured.

    There is a row for each model and a column ``PSNR / SSIM`` for each set. With many sets, or with
    costs, there is a row for each model on each set. The last column is the PSNR of the pixels that
    the protocol crops, averaged over the sets of the row. With several models, the difference of
    PSNR from the first one follows in parentheses.
    """
    results, sets, costs = evaluation.results, evaluation.sets, evaluation.costs
    protocol, scale = evaluation.protocol, evaluation.scale
    labels = dict.fromkeys(result.label for result in results)
    found = {(r.label, r.bench): r for r in results}
    border = protocol.border(scale)
    title = f"PSNR (dB) / SSIM, x{scale}, protocol {protocol.name}, border {border} px"
    if evaluation.degrade:
        title += f", LR degraded: {evaluation.degrade}"
    names = {bench.name: f"{bench.name} ({len(bench.pairs)})" for bench in sets}
    if costs or len(sets) > _SETS:
        rows = [
            [
                label,
                name,
                *_cells(evaluation, found[label, bench], costs=costs),
                _edge([found[label, bench]]),
            ]
            for label in labels
            for bench, name in names.items()
        ]
        headings = ["model", "set", "PSNR / SSIM", *(("FAB", "T BitOPs") if costs else ()), "edge"]
        print_table(headings, rows, title, texts=2)
    else:
        rows = [
            [
                label,
                *(
                    cell
                    for bench in names
                    for cell in _cells(evaluation, found[label, bench], costs=False)
                ),
                _edge([found[label, bench] for bench in names]),
            ]
            for label in labels
        ]
        print_table(["model", *names.values(), "edge"], rows, title)
    say(f"{protocol.name}: {protocol.summary}")
    say(f"edge: PSNR of the outermost {border} px, which are cropped from the other figures")
    made = [bench.name for bench in sets if bench.lr_origin == "bicubic"]
    if made:
        say(f"LR made by bicubic (no LR files): {', '.join(made)}")
    if evaluation.patches is not None:
        say(f"Patch-wise: models enlarged {evaluation.patches}, bicubic whole pictures")
    if costs:
        _explain_costs(results)


def print_pictures(evaluation: "Evaluation") -> None:
    """Print a table of each set: PSNR / SSIM of every picture, with a column for each model."""
    for bench in evaluation.sets:
        rows = [result for result in evaluation.results if result.bench == bench.name]
        cells = [
            [pictures[0].name, *(f"{each.psnr:.2f} / {each.ssim:.4f}" for each in pictures)]
            for pictures in zip(*(result.pictures for result in rows), strict=True)
        ]
        print_table(["picture", *(result.label for result in rows)], cells, bench.name)


def _cells(evaluation: "Evaluation", result: "SetResult", *, costs: bool) -> list[str]:
    difference = evaluation.difference(result)
    scored = f"{result.psnr:.2f} / {result.ssim:.4f}"
    if difference is not None:
        scored += f" ({difference:+z.2f})"
    if not costs:
        return [scored]
    if result.cost is None:
        return [scored, "-", "-"]
    cost = result.cost
    operations = f"{cost.bitops / 1e12:.2f} / {cost.bitops_once / 1e12:.2f}"
    return [scored, f"{cost.fab:.2f}", operations]


def _edge(results: "Sequence[SetResult]") -> str:
    return f"{fmean(result.edge for result in results):.2f}"


def _explain_costs(results: "Sequence[SetResult]") -> None:
    counted = {result.label: result.counted for result in results if result.counted}
    texts = list(dict.fromkeys(counted.values()))
    for text in texts:
        labels = ", ".join(label for label, other in counted.items() if other == text)
        say(f"FAB: {text}" if len(texts) == 1 else f"FAB of {labels}: {text}")
    say(
        "BitOPs of a picture (counted): 2 x multiply-accumulates x bits of weight x bits of input "
        "(32: float) of convolutions, linear layers and matrix products, as run with overlap / as "
        "if every LR pixel ran once"
    )


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str = "",
    *,
    texts: int = 1,
) -> None:
    """Print a table on standard output, at full width if that is no terminal.

    On a narrow terminal headings break at spaces, then cells at `` / ``, then texts anywhere;
    nothing is cut.

    Parameters
    ----------
    title
        Line above the table.
    texts
        Number of text columns at the left; the others are aligned right.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    cells = [[escape(printable(cell)) for cell in row] for row in rows]
    titles = list(headings)
    if _width(titles, cells, texts) > console.width:
        titles[texts:] = [title.replace(" ", "\n") for title in titles[texts:]]
    if _width(titles, cells, texts) > console.width:
        cells = [[cell.replace(" / ", "\n/ ") for cell in row] for row in cells]
    # A terminal with too little room for the columns breaks the lines itself.
    console.width = max(console.width, _width(titles, cells, texts))
    if title:
        say(title)
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for index, heading in enumerate(titles):
        is_text = index < texts
        justify: JustifyMethod = "left" if is_text else "right"
        table.add_column(heading, justify=justify, no_wrap=not is_text, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _width(headings: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> int:
    """Smallest width of a table in characters, with its texts folded."""
    widths = [
        max(len(line) for cell in column for line in cell.split("\n"))
        for column in zip(headings, *rows, strict=True)
    ]
    widths[:texts] = [min(width, _TEXT) for width in widths[:texts]]
    return sum(widths) + 2 * len(widths)
