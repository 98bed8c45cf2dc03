"""Tables of a study as texts: cells for Markdown and the terminal, CSV, LaTeX."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from sr_quant_cli.recipe.study import Metric
from sr_quant_cli.report.study_tables import METRICS, Column, StudyTable, Value

LATEX = b"% written by srq"
"""First bytes of every LaTeX table of srq."""
_PLUS_MINUS = r" \pm "


def as_cells(table: StudyTable) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as texts; the metrics of one set share a cell."""
    places = [
        [index for index, _ in part]
        for _, part in groupby(enumerate(table.columns), lambda pair: _place(pair[1]))
    ]
    headings = []
    for part in places:
        first = table.columns[part[0]]
        names = " / ".join(METRICS[table.columns[index].metric][0] for index in part)
        headings.append(" ".join(each for each in (*first.group, first.bench, names) if each))
    rows = [
        [
            *labels,
            *(
                " / ".join(_text(values[i], table.columns[i].metric) for i in part)
                for part in places
            ),
        ]
        for labels, values in table.rows
    ]
    return [*table.labels, *headings], rows


def _place(column: Column) -> tuple[tuple[str, ...], str]:
    """Key of the columns that share a cell: those of one set; one metric of the model."""
    return column.group, column.bench or column.metric


def _text(value: Value | None, metric: Metric, between: str = " ± ") -> str:
    if value is None:
        return "-"
    _, decimals, unit = METRICS[metric]
    mean = f"{value.mean / unit:z.{decimals}f}"
    return mean if value.spread is None else f"{mean}{between}{value.spread / unit:.{decimals}f}"


def markdown(table: StudyTable) -> str:
    """Write a table as Markdown, with its title and notes."""
    headings, rows = as_cells(table)
    count = len(table.labels)
    aligned = ["---"] * count + ["---:"] * (len(headings) - count)
    lines = [headings, aligned, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"* {note}" for note in table.notes)
    return f"\n# {table.title}\n\n{text}\n\n{notes}\n"


def csv_rows(table: StudyTable) -> tuple[list[str], list[list[object]]]:
    """Headings and rows for a CSV file: a column for every metric, and one for its spread.

    The first column has the name of the table.
    """
    headings = ["table", *table.labels]
    rows: list[list[object]] = [[table.name, *labels] for labels, _ in table.rows]
    for index, column in enumerate(table.columns):
        name = "_".join(each for each in (*column.group, column.bench, column.metric) if each)
        values = [each[index] for _, each in table.rows]
        parts = {name: [None if value is None else value.mean for value in values]}
        spreads = [None if value is None else value.spread for value in values]
        if any(spread is not None for spread in spreads):
            parts[f"{name}_std"] = spreads
        for heading, figures in parts.items():
            headings.append(heading)
            for row, figure in zip(rows, figures, strict=True):
                row.append(None if figure is None else round(figure, 5))
    return headings, rows


def latex(table: StudyTable) -> str:
    """Write a table for LaTeX with the package booktabs; every metric is a column."""
    count = len(table.labels)
    names = [*table.labels, *(METRICS[column.metric][0] for column in table.columns)]
    lines = [
        LATEX.decode(),
        *(f"% {note}" for note in table.notes),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(table.title)}}}",
        rf"\begin{{tabular}}{{{'l' * count}{'r' * len(table.columns)}}}",
        r"\toprule",
        *_spanning(table),
        _line(map(_escaped, names)),
        r"\midrule",
    ]
    for labels, values in table.rows:
        figures = (
            _in_latex(value, column.metric)
            for value, column in zip(values, table.columns, strict=True)
        )
        lines.append(_line([*map(_escaped, labels), *figures]))
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _spanning(table: StudyTable) -> Iterator[str]:
    """Yield the headings above several columns: values of fields, then sets."""
    heads = [(*column.group, column.bench) for column in table.columns]
    for depth in range(1, len(heads[0]) + 1):
        cells, rules = [""] * len(table.labels), []
        place = len(cells) + 1
        for head, part in groupby(head[:depth] for head in heads):
            width = len(list(part))
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_escaped(head[-1])}}}")
            if head[-1]:
                rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
            place += width
        if rules:
            yield _line(cells)
            yield " ".join(rules)


def _in_latex(value: Value | None, metric: Metric) -> str:
    if value is None:
        return "--"
    return f"${_text(value, metric, _PLUS_MINUS)}$"


def _line(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _escaped(text: str) -> str:
    r"""Escape what LaTeX takes for commands.

    >>> print(_escaped("2dquant_a & b"))
    2dquant\_a \& b
    """
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
