"""Records of the cells of a study, one file each, and the rows that are made from them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr_quant_cli.commands.study_plan import PlannedCell, StudyPlan
from sr_quant_cli.errors import UsageError
from sr_quant_cli.recipe.published import find_published
from sr_quant_cli.recipe.study import AXES
from sr_quant_cli.system.files import finite, read_sealed, replacing, write_sealed

ROWS = "rows.jsonl"
"""File with the rows of a study, one JSON object a line."""
STAGES = "stages"
"""Folder of all trainings of a study."""
CALIBRATIONS = "calibrations"
"""Folder of the calibrations that cells share."""
CELLS = "cells"
"""Folder of the records and logs of the cells."""

_STATES = ("done", "failed")

Record = dict[str, Any]
"""What is known of a cell: parts ``model``, ``scores``, ``times`` and ``failed``, each with the
fingerprint of its inputs."""


@dataclass(frozen=True)
class Records:
    """Records of a study folder."""

    out: Path

    def read(self, name: str) -> Record:
        """Read the record of a cell; it is empty if there is none, or it is damaged."""
        found = read_sealed(self._path(name))
        return found if isinstance(found, dict) else {}

    def write(self, name: str, record: Record) -> None:
        """Replace the record of a cell.

        Raises
        ------
        FailedError
            The file cannot be written.
        """
        write_sealed(self._path(name), record)

    def log(self, name: str) -> Path:
        """File for what is reported while a cell or a stage runs."""
        return self.out / CELLS / f"{name}.log"

    def _path(self, name: str) -> Path:
        return self.out / CELLS / f"{name}.json"


def missing_parts(plan: StudyPlan, cell: PlannedCell, record: Record) -> list[str]:
    """List the parts of a cell that its record lacks, or has for other inputs."""
    parts = ["model", "scores", *(["times"] if plan.study.bench else [])]
    return [
        part
        for part in parts
        if record.get(part, {}).get("fingerprint") != plan.fingerprint(cell, part)
    ]


def study_rows(plan: StudyPlan, records: Records) -> list[dict[str, Any]]:
    """Make the rows of all cells that ran or failed, in order; others have none."""
    references = {cell.name: records.read(cell.name) for cell in plan.references}
    rows = []
    for cell in plan.rows:
        record = references.get(cell.name) or records.read(cell.name)
        if "scores" not in missing_parts(plan, cell, record):
            rows.append(_row(plan, cell, record, references[cell.reference]))
        elif record.get("failed", {}).get("fingerprint") == plan.fingerprint(cell, "scores"):
            reason = record["failed"]["reason"]
            rows.append({**_head(plan, cell.name, cell.fields, "failed"), "reason": reason})
    rows += [
        {**_head(plan, bad.name, bad.fields, "failed"), "reason": bad.problem} for bad in plan.bad
    ]
    return rows


def _head(plan: StudyPlan, name: str, fields: Mapping[str, Any], status: str) -> dict[str, Any]:
    stated = {axis: fields[axis] for axis in AXES}
    return {"study": plan.study.name, "cell": name, "status": status, **stated}


def _row(plan: StudyPlan, cell: PlannedCell, record: Record, reference: Record) -> dict[str, Any]:
    """Row of a cell that ran: its fields, and all figures."""
    model, full = record["model"], _scores(reference)
    fields = cell.fields
    published = fields["method"] and find_published(cell.config, fields["method"], fields["bits"])
    scores = []
    for score in record["scores"]["sets"]:
        bench = score["bench"]
        of_paper = {
            "published_psnr": published.psnr.get(bench) if published else None,
            "published_drop": published.drop.get(bench) if published else None,
        }
        above = full.get((bench, score["protocol"])) if fields["method"] else None
        drop = None if above is None else round(above - score["psnr"], 4)
        scores.append({**score, "drop": drop, **of_paper})
    row = {
        **_head(plan, cell.name, fields, "done"),
        **{key: model[key] for key in _MODEL if key in model},
        "scores": scores,
        "published_source": published.source if published else None,
    }
    times = record.get("times", {})
    if times.get("fingerprint") == plan.fingerprint(cell, "times") and plan.study.bench:
        row |= {
            "ms": min((each["ms"] for each in times["runtimes"] if each["ms"]), default=None),
            "times": {key: value for key, value in times.items() if key != "fingerprint"},
        }
    return row


_MODEL = ("steps", "complete", "seconds", "bytes", "bitops", "file", "version")
"""Fields of the model's part of a record that a row has."""


def _scores(record: Record) -> dict[tuple[str, str], float]:
    """PSNR by set and protocol."""
    sets: Sequence[Mapping[str, Any]] = record.get("scores", {}).get("sets", ())
    return {(each["bench"], each["protocol"]): each["psnr"] for each in sets}


def write_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows of a study, one JSON object a line.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    with replacing(out / ROWS) as temporary:
        lines = (json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text("".join(lines), encoding="utf-8")


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Read the rows of a study folder.

    Raises
    ------
    UsageError
        There are none, or the file is damaged.
    """
    path = out / ROWS
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if all(isinstance(row["cell"], str) and row["status"] in _STATES for row in rows):
            return rows
    except FileNotFoundError as error:
        raise UsageError(f"{out} is no study folder: {ROWS} is not there") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path}: holds no rows of a study") from error
    raise UsageError(f"{path}: holds no rows of a study")
