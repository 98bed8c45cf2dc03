"""``srq study``: a grid of models, methods and bits, as the tables of papers need it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sr_quant_cli.commands.study_plan import Chain, PlannedCell, StudyPlan, plan_study
from sr_quant_cli.commands.study_records import (
    CELLS,
    Records,
    missing_parts,
    study_rows,
    write_rows,
)
from sr_quant_cli.commands.study_work import Task
from sr_quant_cli.commands.study_workers import Workers
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.plugins import run_files
from sr_quant_cli.recipe.study import Study, load_study
from sr_quant_cli.system.files import sweep
from sr_quant_cli.system.processes import cores
from sr_quant_cli.system.reporting import progress, result, warn
from sr_quant_cli.training.run import TrainingOptions

_LOCK = ".lock"
_MOST_JOBS = 64


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """Options of ``srq study``.

    Parameters
    ----------
    file
        Study file.
    out
        Study folder.
    jobs
        Processes that work at the same time.
    threads
        CPU threads of each; None: an equal share of the cores.
    only
        Pattern of the names of the cells to run; None: all.
    data
        Folder or name of the training photographs; None: those of the file.
    device, data_root
        As in ``TrainingOptions``.
    """

    file: Path
    out: Path
    jobs: int = 1
    threads: int | None = None
    only: str | None = None
    data: str | None = None
    device: str = "auto"
    data_root: Path | None = None

    @property
    def threads_each(self) -> int:
        """CPU threads of each process."""
        return self.threads or max(cores() // self.jobs, 1)


@dataclass(frozen=True)
class StudyResult:
    """Rows of a study when its command ends.

    Attributes
    ----------
    rows
        Rows of all cells that have run or failed.
    failed
        Names of the cells that failed.
    pending
        Names of the cells that have not run.
    """

    study: Study
    out: Path
    rows: tuple[dict[str, Any], ...]
    failed: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "study": self.study.name,
            "rows": list(self.rows),
            "failed": list(self.failed),
            "pending": list(self.pending),
        }


def plan(request: StudyRequest) -> StudyPlan:
    """Plan a study; nothing is written.

    Raises
    ------
    UsageError
        The file has errors, a benchmark set is missing, or no cell can run.
    """
    if not 1 <= request.jobs <= _MOST_JOBS:
        raise UsageError(f"must be 1 to {_MOST_JOBS}", field="jobs", value=request.jobs)
    file = load_study(request.file)
    return plan_study(file, _options(request, file))


def _options(request: StudyRequest, file: Study) -> TrainingOptions:
    return TrainingOptions(
        data=request.data or file.data or None,
        device=request.device,
        threads=request.threads_each,
        data_root=request.data_root,
    )


def open_parts(request: StudyRequest, planned: StudyPlan) -> dict[str, list[str]]:
    """List what every cell of a study lacks: ``model``, ``scores``, ``times``."""
    records = Records(request.out)
    return {
        cell.name: missing_parts(planned, cell, records.read(cell.name)) for cell in planned.rows
    }


def study(request: StudyRequest, planned: StudyPlan) -> StudyResult:
    """Run the cells of a study that have not run, and write ``rows.jsonl`` after each.

    A cell that fails becomes a row with its reason, and the others go on. Whatever ends the
    process, the same call continues: finished cells are recognized by the hash of all their
    inputs, and trainings go on from their checkpoints.

    Raises
    ------
    UsageError
        The folder holds something else, or another study is running in it; or no cell has such a
        name.
    FailedError
        The folder cannot be written.
    """
    wanted = _wanted(planned, request.only)
    with _locked(request.out):
        records = Records(request.out)
        steps = list(_steps(planned, wanted, records, request))
        workers = Workers(request.jobs, request.out, run_files())
        scheduler = _Scheduler(workers, records, planned, steps)
        try:
            scheduler.run()
        finally:
            rows = study_rows(planned, records)
            write_rows(request.out, rows)
    failed = [row["cell"] for row in rows if row["status"] == "failed"]
    named = {row["cell"] for row in rows}
    return StudyResult(
        planned.study,
        request.out,
        tuple(rows),
        tuple(dict.fromkeys([*failed, *scheduler.problems])),
        tuple(cell.name for cell in planned.rows if cell.name not in named),
    )


@dataclass(frozen=True)
class _Step:
    """A task, and what comes before it.

    Attributes
    ----------
    label
        Name that is unique among all steps.
    needs
        Labels of the steps that come before.
    alone
        True if nothing else may run meanwhile, as it is timed.
    """

    label: str
    task: Task
    needs: tuple[str, ...]
    alone: bool = False


def _steps(
    planned: StudyPlan, wanted: Sequence[PlannedCell], records: Records, request: StudyRequest
) -> Iterator[_Step]:
    """Yield what is to do for cells, in order, stages before the cells that begin with them."""
    providers: dict[str, str] = {}  # labels of the steps that make models, by the models' keys
    for cell in wanted:
        missing = missing_parts(planned, cell, records.read(cell.name))
        make = partial(_task, planned, cell, request)
        if "model" in missing:
            for chain in cell.chains[:-1]:
                if not chain.is_given and chain.key not in providers:
                    name = f"{chain.title}-{chain.key}"
                    yield _Step(name, make(name, chain, ()), _before(cell, chain, providers))
                    providers[chain.key] = name
            providers.setdefault(cell.chains[-1].key, cell.name)
        last = cell.chains[-1]
        if parts := tuple(part for part in missing if part != "times"):
            needs = _before(cell, last, providers)
            yield _Step(cell.name, make(cell.name, last, parts), needs)
        if "times" in missing:
            task = make(cell.name, last, ("times",))
            yield _Step(f"times of {cell.name}", task, (cell.name,) * bool(parts), alone=True)


def _before(cell: PlannedCell, chain: Chain, providers: Mapping[str, str]) -> tuple[str, ...]:
    """Labels of the steps that make the stages before a model."""
    earlier = cell.chains[: cell.chains.index(chain)]
    return tuple(providers[each.key] for each in earlier if each.key in providers)


def _task(
    planned: StudyPlan,
    cell: PlannedCell,
    request: StudyRequest,
    name: str,
    chain: Chain,
    parts: tuple[str, ...],
) -> Task:
    file = planned.study
    return Task(
        name=name,
        chain=chain,
        parts=parts,
        fingerprints={part: planned.fingerprint(cell, part) for part in parts},
        sets=planned.sets[cell.fields["scale"]],
        evaluate=file.evaluate,
        bench=file.bench,
        minutes=file.budget.minutes if parts else None,
        options=_options(request, file),
    )


def _wanted(planned: StudyPlan, only: str | None) -> list[PlannedCell]:
    """Cells to run, behind the full-precision models that they are compared with."""
    cells = [cell for cell in planned.cells if only is None or fnmatch(cell.name, only)]
    if not cells:
        known = ", ".join(cell.name for cell in planned.cells)
        raise UsageError(f"no cell has such a name: {known}", field="only", value=only)
    used = {cell.reference for cell in cells}
    return [*(each for each in planned.references if each.name in used), *cells]


@dataclass
class _Scheduler:
    """Runs steps in order, as soon as those that they need are done."""

    workers: Workers
    records: Records
    planned: StudyPlan
    waiting: list[_Step]
    running: dict[str, _Step] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """reasons of the steps that failed, by their labels"""

    def run(self) -> None:
        """Run all steps; stop the workers whatever happens."""
        total, shown = len(self.waiting), 0
        try:
            with progress(total, "task") as bar:
                while self.waiting or self.running:
                    self._start()
                    if self.running:
                        self._finish()
                    write_rows(self.records.out, study_rows(self.planned, self.records))
                    done = total - len(self.waiting) - len(self.running)
                    bar.update(done - shown)
                    shown = done
        finally:
            self.workers.stop()

    def _start(self) -> None:
        """Start what can start now; drop what needs a step that failed."""
        for step in list(self.waiting):
            failed = next((label for label in step.needs if label in self.problems), None)
            if failed is not None:
                self.waiting.remove(step)
                reason = self.problems[failed]
                self._failed(step, reason if step.alone else f"{failed}: {reason}")
            elif self.workers.free and self._ready(step):
                self.waiting.remove(step)
                self.running[step.label] = step
                self.workers.start(step.task, self.records.log(step.task.name))

    def _ready(self, step: _Step) -> bool:
        open_ = {*(each.label for each in self.waiting), *self.running}
        if any(label in open_ for label in step.needs):
            return False
        if any(each.alone for each in self.running.values()):
            return False
        others = self.workers.count > 1 and not all(each.alone for each in self.waiting)
        return not step.alone or not (self.running or others)

    def _finish(self) -> None:
        """Wait for a step, and report it."""
        ended = self.workers.next_ended()
        step = next(each for each in self.running.values() if each.task is ended.task)
        del self.running[step.label]
        if ended.reason is not None:
            self._failed(step, ended.reason)
        elif not step.alone:
            result(f"{step.label}: {self._summary(step) or 'made'}")

    def _failed(self, step: _Step, reason: str) -> None:
        self.problems[step.label] = reason
        warn(f"{step.label}: {reason}")
        if step.task.parts and not step.alone:
            cell = next(each for each in self.planned.rows if each.name == step.label)
            failed = {
                "reason": reason,
                "fingerprint": self.planned.fingerprint(cell, "scores"),
            }
            record = self.records.read(step.label)
            self.records.write(step.label, {**record, "failed": failed})

    def _summary(self, step: _Step) -> str:
        sets = self.records.read(step.label).get("scores", {}).get("sets", ())
        if not step.task.parts:
            return ""
        return ", ".join(
            f"{each['bench']} {each['psnr']:.2f} / {each['ssim']:.4f}" for each in sets
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other studies out of a study folder, which is made if it does not exist."""
    if out.exists() and not (out / _LOCK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds other files and no study: name an empty folder by `out`")
    try:
        (out / CELLS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / _LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"another study is running in {out}: wait for it, or name another folder by `out`"
        ) from error
    except OSError as error:
        raise FailedError(f"cannot write in {out}: {error.strerror or error}") from error
    try:
        sweep(out)
        sweep(out / CELLS)
        yield
    finally:
        lock.release()
