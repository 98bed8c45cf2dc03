"""Results of a study: tables and plots as files, plan and tables on the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from math import log2
from pathlib import Path
from statistics import fmean, stdev

from sr_quant_cli.commands.study_plan import StudyPlan
from sr_quant_cli.data.benchmark import usual_name
from sr_quant_cli.quant.widths import level_count
from sr_quant_cli.recipe.study import Study, TableSection, check_bit_pair
from sr_quant_cli.report.plots import Line, X, method_lines, save
from sr_quant_cli.report.study_formats import LATEX, as_cells, csv_rows, latex, markdown
from sr_quant_cli.report.study_tables import (
    Row,
    key_of,
    matches,
    row_fields,
    sections_of,
    study_tables,
)
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say
from sr_quant_cli.system.files import write_csv, write_markdown, write_marked

_UNITS: dict[X, float] = {"bits": 1, "bytes": 1e6, "bitops": 1e12, "ms": 1}
"""Costs of the plots, drawn where at least two values are known, and their units."""


def write_tables(out: Path, study: Study, rows: Sequence[Row]) -> list[Path]:
    """Write all tables and plots of a study into its folder; return the files.

    Raises
    ------
    UsageError
        A file of that name is there that srq did not write.
    FailedError
        A file cannot be written.
    """
    written = []
    for table, section in zip(study_tables(study, rows), sections_of(study), strict=True):
        files = {
            suffix: out / "tables" / f"{table.name}{suffix}" for suffix in (".md", ".csv", ".tex")
        }
        write_markdown(files[".md"], markdown(table))
        write_csv(files[".csv"], *csv_rows(table))
        write_marked(files[".tex"], LATEX, latex(table))
        written += [*files.values(), *_write_plots(out / "plots", study, section, rows)]
    return written


def _write_plots(
    folder: Path, study: Study, section: TableSection, rows: Sequence[Row]
) -> Iterator[Path]:
    """Draw PSNR on the first set of a table over every cost that is known."""
    bench = usual_name((section.bench or study.evaluate.bench)[0])
    done = [row for row in rows if row["status"] == "done" and matches(row, section)]
    cells = [row for row in done if row["method"] is not None]
    models = dict.fromkeys(row["model"] for row in cells)
    for model in models:
        own = [row for row in cells if row["model"] == model]
        full = [
            _psnr(row, bench) for row in done if row["model"] == model and row["method"] is None
        ]
        for x in _UNITS:
            lines = _lines(own, section, x, bench)
            costs = {cost for line in lines for cost, _, _ in line.points}
            if len(costs) < 2:
                continue
            suffix = f"-{model}" if len(models) > 1 else ""
            path = folder / f"{section.name}{suffix}-{x}.svg"
            quality = f"PSNR (dB), {bench}, {model}, {study.evaluate.protocol}"
            save(method_lines(lines, x, quality, next(iter(full), None)), path)
            yield path


def _lines(cells: Sequence[Row], section: TableSection, x: X, bench: str) -> list[Line]:
    fields = [
        f for f in (*row_fields(section, cells), *section.columns) if f not in ("bits", "model")
    ]
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in cells:
        cost, psnr = _cost(row, x), _psnr(row, bench)
        if cost is not None and psnr is not None:
            label = " ".join(each for each in key_of(row, fields) if each != "-")
            lines.setdefault(label, {}).setdefault(row["bits"], []).append((cost, psnr))
    return [
        Line(
            label,
            [
                (
                    fmean(cost for cost, _ in seeds),
                    fmean(psnr for _, psnr in seeds),
                    stdev(psnr for _, psnr in seeds) if len(seeds) > 1 else 0.0,
                )
                for seeds in by_bits.values()
            ],
        )
        for label, by_bits in lines.items()
    ]


def _cost(row: Row, x: X) -> float | None:
    if x != "bits":
        value: float | None = row.get(x)
        return value if value is None else value / _UNITS[x]
    bits = check_bit_pair(row["bits"])
    return fmean(log2(level_count(width)) for width in (bits.w, bits.a))


def _psnr(row: Row, bench: str) -> float | None:
    found = (each["psnr"] for each in row["scores"] if each["bench"] == bench)
    return next(found, None)


def print_plan(plan: StudyPlan, todo: Mapping[str, Sequence[str]]) -> None:
    """Print the cells of a study in their order, the stages that they share, and bad cells.

    Parameters
    ----------
    todo
        Parts that each cell lacks.
    """
    rows = [
        [
            cell.name,
            cell.fields["bits"] or "-",
            cell.fields["placement"] or "-",
            str(cell.chains[-1].steps if cell.chains[-1].requests else "-"),
            ", ".join(todo[cell.name]) or "finished",
        ]
        for cell in plan.rows
    ]
    print_table(["cell", "bits", "placement", "steps", "to do"], rows, texts=3)
    for chain, names in plan.stages().values():
        kind = "pretraining" if not chain.requests else "stage"
        say(f"{kind} {chain.title}, {chain.steps} steps, once for {len(names)}: {', '.join(names)}")
    for bad in plan.bad:
        say(f"{bad.name} cannot run: {bad.problem}")


def print_study(study: Study, rows: Sequence[Row]) -> None:
    """Print the tables of a study."""
    for table in study_tables(study, rows):
        headings, cells = as_cells(table)
        print_table(headings, cells, table.title, texts=len(table.labels))
        for note in table.notes:
            say(f"  {note}")
