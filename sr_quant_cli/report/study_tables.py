"""Tables of a study: from rows to labels, columns and mean values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from sr_quant_cli.data.benchmark import usual_name
from sr_quant_cli.recipe.study import AXES, SET_METRICS, Metric, Study, TableSection

FULL_PRECISION = "full precision"

Row = Mapping[str, Any]
"""Row of a study, as ``rows.jsonl`` has it."""

METRICS: dict[Metric, tuple[str, int, float]] = {
    "psnr": ("PSNR", 2, 1),
    "ssim": ("SSIM", 4, 1),
    "drop": ("drop", 2, 1),
    "published_psnr": ("published", 2, 1),
    "published_drop": ("published drop", 2, 1),
    "fab": ("FAB", 2, 1),
    "bytes": ("MB", 3, 1e6),
    "bitops": ("TBitOPs", 2, 1e12),
    "ms": ("ms", 1, 1),
    "steps": ("steps", 0, 1),
    "seconds": ("seconds", 0, 1),
}
"""Heading, decimals and unit of every metric."""
_SAME: tuple[Metric, ...] = ("published_psnr", "published_drop", "bytes", "bitops", "steps")
"""Metrics that do not vary with the seed."""


@dataclass(frozen=True)
class Value:
    """Mean of a metric over seeds, and its sample standard deviation; None: there is one seed."""

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Column:
    """A column: values of the fields that make columns, set (empty: of the model), metric."""

    group: tuple[str, ...]
    bench: str
    metric: Metric


@dataclass(frozen=True)
class StudyTable:
    """Table of a study.

    Attributes
    ----------
    labels
        Headings of the columns that say what a row is.
    rows
        For each row its labels, and a value for each column; None: it is not known.
    notes
        What makes the figures comparable, and cells that failed.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Value | None, ...]], ...]
    notes: tuple[str, ...]


def study_tables(study: Study, rows: Sequence[Row]) -> list[StudyTable]:
    """Make the tables that a study file asks for; without any, one of all cells."""
    return [_table(study, section, rows) for section in sections_of(study)]


def sections_of(study: Study) -> list[TableSection]:
    """List the tables that a study file asks for, else one of all cells."""
    return study.tables or [TableSection(name="all", title=study.description or study.name)]


def _table(study: Study, section: TableSection, rows: Sequence[Row]) -> StudyTable:
    shown = [row for row in rows if matches(row, section)]
    done = [row for row in shown if row["status"] == "done"]
    cells = [row for row in shown if row["method"] is not None]
    by_row = row_fields(section, cells)
    order = {axis: _order(study, axis, cells) for axis in AXES}

    def rank(fields: Sequence[str]) -> Callable[[Row], list[int]]:
        return lambda row: [order[axis].index(row[axis]) for axis in fields]

    groups = list(
        dict.fromkeys(
            key_of(row, section.columns) for row in sorted(cells, key=rank(section.columns))
        )
    )
    kept = {row["model"] for row in cells}
    full = [row for row in done if row["method"] is None and (row["model"] in kept or not cells)]
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in full:
        lines.setdefault(_full_key(row, by_row), []).append(row)
    for row in sorted(cells, key=rank(by_row)):
        lines.setdefault(key_of(row, by_row), []).append(row)
    columns = [
        Column(group, bench, metric)
        for group in groups or [()]
        for bench, metrics in _metrics_of(study, section)
        for metric in metrics
    ]
    body = [
        (key, tuple(_value(column, section, each) for column in columns))
        for key, each in lines.items()
    ]
    return StudyTable(
        section.name,
        section.title or section.name,
        tuple(by_row),
        tuple(columns),
        tuple(body),
        tuple(_notes(study, section, shown)),
    )


def matches(row: Row, section: TableSection) -> bool:
    """Tell if a table shows a row; a full-precision one has no value for many fields."""
    for axis in AXES:
        wanted = [str(value) for value in getattr(section.where, axis)]
        unset = row[axis] is None and row["method"] is None
        if wanted and not unset and str(row[axis]) not in wanted:
            return False
    return True


def row_fields(section: TableSection, cells: Sequence[Row]) -> list[str]:
    """Fields that make rows: those of the table, and what else tells cells apart."""
    fields: list[str] = list(section.rows)
    others = [axis for axis in AXES if axis not in (*fields, *section.columns, "seed")]
    for axis in others:
        values: dict[tuple[str, ...], set[Any]] = {}
        for row in cells:
            values.setdefault(key_of(row, [*fields, *section.columns]), set()).add(row[axis])
        if any(len(each) > 1 for each in values.values()):
            fields.append(axis)
    return fields


def _order(study: Study, axis: str, cells: Sequence[Row]) -> list[Any]:
    """Values of a field, in the order of the file, then as they come."""
    stated = [getattr(cell, axis) for cell in study.all_cells()]
    stated = [str(value) if axis == "bits" and value is not None else value for value in stated]
    return list(dict.fromkeys([*stated, *(row[axis] for row in cells)]))


def key_of(row: Row, fields: Sequence[str]) -> tuple[str, ...]:
    """Values of fields as labels; a field without a value is a dash."""
    return tuple("-" if row[axis] is None else str(row[axis]) for axis in fields)


def _full_key(row: Row, fields: Sequence[str]) -> tuple[str, ...]:
    """Labels of a full-precision row: it has no method."""
    key = list(key_of(row, fields))
    unset = [index for index, axis in enumerate(fields) if row[axis] is None]
    if unset:
        named = fields.index("method") if "method" in fields else unset[0]
        key[named] = FULL_PRECISION
    return tuple(key)


def _metrics_of(study: Study, section: TableSection) -> Iterator[tuple[str, list[Metric]]]:
    """Yield the sets with the metrics that a table has for each, then those of the model."""
    of_sets: list[Metric] = [metric for metric in section.metrics if metric in SET_METRICS]
    of_model: list[Metric] = [metric for metric in section.metrics if metric not in SET_METRICS]
    if of_sets:
        for bench in map(usual_name, section.bench or study.evaluate.bench):
            yield bench, of_sets
    if of_model:
        yield "", of_model


def _value(column: Column, section: TableSection, rows: Sequence[Row]) -> Value | None:
    """Mean of a metric over the rows of one place in a table."""
    values = []
    for row in rows:
        here = all(
            row[axis] is None or str(row[axis]) == value
            for axis, value in zip(section.columns, column.group, strict=False)
        )
        if not here or row["status"] != "done":
            continue
        value = row.get(column.metric)
        if column.bench:
            scores = (each for each in row["scores"] if each["bench"] == column.bench)
            value = next((each.get(column.metric) for each in scores), None)
        if value is not None:
            values.append(value)
    if not values:
        return None
    varies = len(values) > 1 and column.metric not in _SAME
    return Value(fmean(values), stdev(values) if varies else None)


def _notes(study: Study, section: TableSection, rows: Sequence[Row]) -> Iterator[str]:
    done = [row for row in rows if row["status"] == "done"]
    part = ", patch-wise" if study.evaluate.patchwise else ""
    yield f"protocol {study.evaluate.protocol}{part}; PSNR and drop in dB"
    seeds = {row["seed"] for row in done if row["seed"] is not None}
    if len(seeds) > 1:
        yield f"mean ± standard deviation over {len(seeds)} seeds, where a cell has several"
    if "ms" in section.metrics:
        timed = [row["times"] for row in done if row.get("times")]
        yield from dict.fromkeys(
            f"ms: {each['size']} LR pixels, threads: {each['threads']}, {each['processor']}, the "
            f"fastest of {', '.join(one['runtime'] for one in each['runtimes'])}"
            for each in timed
        )
    if "bitops" in section.metrics:
        yield "bit operations counted for an output of 1280x720"
    if {"published_psnr", "published_drop"} & set(section.metrics):
        sources: dict[str, dict[str, None]] = {}
        for row in done:
            if row["published_source"]:
                sources.setdefault(row["published_source"], {})[row["method"]] = None
        for source, methods in sources.items():
            yield (
                f"published figures of {', '.join(methods)}: {source}; protocol and quantized "
                "sites may differ from those here"
            )
    for row in rows:
        if row["status"] == "failed":
            yield f"{row['cell']} failed: {row['reason']}"
