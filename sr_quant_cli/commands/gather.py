"""Facts about models for reports and plots: from run folders, model files and JSON reports."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sr_quant_cli.commands.info import InfoRequest, ModelInfo, info
from sr_quant_cli.commands.runs import Run, read_run
from sr_quant_cli.commands.study_records import ROWS, read_rows
from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.named import MODEL, RECIPE, Named, identify
from sr_quant_cli.quant.cost import FLOAT_BITS

_MOST_BYTES = 2**28
"""size of the largest JSON file that is read"""


BICUBIC = "bicubic"
"""Name of the rows that no model made."""


@dataclass(frozen=True)
class Column:
    """What makes scores comparable: set, scale and protocol."""

    bench: str
    scale: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.bench} x{self.scale}, {self.protocol}"


@dataclass(frozen=True)
class Score:
    """PSNR (dB) and SSIM on a benchmark set, with scale and protocol."""

    bench: str
    scale: int
    protocol: str
    psnr: float
    ssim: float

    @property
    def column(self) -> Column:
        """Scores with the same one are comparable."""
        return Column(self.bench, self.scale, self.protocol)


@dataclass(frozen=True)
class Setting:
    """What makes times comparable: size of the LR picture, and threads."""

    size: str
    threads: int

    def __str__(self) -> str:
        return f"{self.size}, threads: {self.threads}"


@dataclass(frozen=True)
class Time:
    """Milliseconds of one LR picture, ``size`` pixels, in a runtime: median of ``srq bench``."""

    variant: str
    size: str
    threads: int
    ms: float

    @property
    def setting(self) -> Setting:
        """Times with the same one are comparable."""
        return Setting(self.size, self.threads)


@dataclass
class Subject:
    """A model, and what is known of it.

    Attributes
    ----------
    info
        Contents of its file; None: only JSON reports name it.
    run
        Its run folder; None: it has none.
    """

    name: str
    info: ModelInfo | None = None
    run: Run | None = None
    scores: list[Score] = field(default_factory=list)
    times: list[Time] = field(default_factory=list)

    @property
    def path(self) -> Path | None:
        """Model file."""
        return None if self.info is None else Path(self.info.file)

    @property
    def bits(self) -> float | None:
        """Bits of weights, averaged with those of activations; 32: float; None: not known."""
        if self.info is None:
            return None
        quantization = self.info.quantization
        return FLOAT_BITS if quantization is None else (quantization.w + quantization.a) / 2

    @property
    def bytes(self) -> int | None:
        """Size of the model file."""
        return None if self.info is None else self.info.bytes

    @property
    def bitops(self) -> float | None:
        """Bit operations for the output size of ``info``, counted."""
        if self.info is None:
            return None
        quantization = self.info.quantization
        if quantization is None:
            return 2.0 * self.info.macs_counted * FLOAT_BITS * FLOAT_BITS
        return quantization.bitops_counted

    def ms(self, setting: Setting) -> float | None:
        """Shortest of the times at a setting; None: there are none."""
        return min((time.ms for time in self.times if time.setting == setting), default=None)

    def score(self, column: Column) -> Score | None:
        """Score of a column; None: it was not measured."""
        return next((score for score in self.scores if score.column == column), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "info": None if self.info is None else self.info.to_json(),
            "run": None if self.run is None else self.run.to_json(),
            "scores": [asdict(score) for score in self.scores],
            "times": [asdict(time) for time in self.times],
        }


def gather(named: Sequence[Named]) -> list[Subject]:
    """Collect what run folders, models and JSON reports say.

    Scores of an ``srq eval`` report and times of an ``srq bench`` report go to the models of the
    same name; models that only reports name follow the others. Of several scores of a model in a
    column, that of the last report counts, else that of the card.

    Parameters
    ----------
    named
        Run folders, study folders, what ``identify`` finds models by, and files ``*.json``.

    Raises
    ------
    UsageError
        Something is neither, or damaged.
    """
    reports = [Path(each) for each in named if str(each).lower().endswith(".json")]
    subjects: dict[str, Subject] = {}
    for each in named:
        if str(each).lower().endswith(".json"):
            continue
        for subject in _cells(Path(each)) if (Path(each) / ROWS).is_file() else [_subject(each)]:
            count = sum(name.partition(" (")[0] == subject.name for name in subjects)
            subjects[f"{subject.name} ({count + 1})" if count else subject.name] = subject
    for path in reports:
        report = _read(path)
        for row in report.rows:
            subject = subjects.setdefault(row.model, Subject(row.model))
            if isinstance(row, _TimeRow):
                size = f"{row.width}x{row.height}"
                subject.times.append(Time(row.variant, size, row.threads, 1000 * row.median))
            elif row.psnr is not None and row.ssim is not None:
                assert isinstance(report, _EvalReport)
                scale = report.scale or (subject.info.scale if subject.info else 0)
                score = Score(report.label(row), scale, report.protocol, row.psnr, row.ssim)
                subject.scores = [*(s for s in subject.scores if s.column != score.column), score]
    for name, subject in subjects.items():
        subject.name = name
    return list(subjects.values())


def columns(subjects: Iterable[Subject]) -> list[Column]:
    """List the columns that models have scores in, the most common ones first."""
    counts = Counter(score.column for subject in subjects for score in subject.scores)
    return [column for column, _ in counts.most_common()]


def settings(subjects: Iterable[Subject]) -> list[Setting]:
    """List the settings that models have times at, those of most models first."""
    counts = Counter(
        setting for subject in subjects for setting in {time.setting: 0 for time in subject.times}
    )
    return [setting for setting, _ in counts.most_common()]


def count_models(subjects: Iterable[Subject]) -> int:
    """Count subjects without bicubic interpolation, which reports of ``srq eval`` have."""
    return sum(subject.info is not None or subject.name != BICUBIC for subject in subjects)


def _subject(named: Named) -> Subject:
    folder = Path(named)
    run = read_run(folder) if (folder / RECIPE).is_file() else None
    if run is not None and not (folder / MODEL).is_file():
        return Subject(folder.resolve().name, run=run)
    found = info(InfoRequest(named))
    name = found.card.name or identify(named).path.stem
    scores = [Score(s.bench, s.scale, s.protocol, s.psnr, s.ssim) for s in found.card.scores]
    return Subject(name, found, run, scores)


def _cells(study: Path) -> Iterator[Subject]:
    """Yield the models of a study folder, with their scores and times there."""
    for row in read_rows(study):
        if row["status"] != "done":
            continue
        subject = _subject(study / row["file"])
        times = row.get("times", {})
        yield replace(
            subject,
            name=row["cell"],
            scores=[
                Score(each["bench"], row["scale"], each["protocol"], each["psnr"], each["ssim"])
                for each in row["scores"]
            ],
            times=[
                Time(each["runtime"], times["size"], times["threads"], each["ms"])
                for each in times.get("runtimes", ())
                if each["ms"] is not None
            ],
        )


class _Row(BaseModel):
    """Row of a report; fields that are not used are left out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    model: str


class _ScoreRow(_Row):
    bench: str
    psnr: float | None
    """None: the pictures equal their originals"""
    ssim: float | None


class _TimeRow(_Row):
    variant: str
    width: int
    height: int
    threads: int
    median: float


class _EvalReport(BaseModel):
    protocol: str
    scale: int = 0
    """0: not stated, as that of the model"""
    degrade: str = ""
    rows: Annotated[list[_ScoreRow], Field(min_length=1)]

    def label(self, row: _ScoreRow) -> str:
        """Name of the set of a row; a degraded set is another one."""
        return f"{row.bench} ({self.degrade})" if self.degrade else row.bench


class _BenchReport(BaseModel):
    rows: Annotated[list[_TimeRow], Field(min_length=1)]


def _read(path: Path) -> _EvalReport | _BenchReport:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} is larger than any report")
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    for kind in (_EvalReport, _BenchReport):
        with suppress(ValidationError):
            return kind.model_validate_json(text)
    raise UsageError(f"{path} is no report of srq eval or srq bench")
