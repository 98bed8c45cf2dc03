"""The registered runtimes; every list, choice, help text and error of runtimes comes from here."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_quant_cli.errors import UsageError
from sr_quant_cli.plugins import load, load_all, note_origin
from sr_quant_cli.records import record
from sr_quant_cli.system.choices import Precision, PrecisionChoice
from sr_quant_cli.system.processes import thread_limit

if TYPE_CHECKING:
    from sr_quant_cli.runtimes.base import GraphRuntime

TORCH = "torch"
"""The runtime that executes networks themselves, not graphs: the reference for all others."""

AUTO = "auto"
"""The choice that leaves the runtime to srq."""


@record
class RuntimeEntry:
    """A registered runtime.

    Attributes
    ----------
    name
        Its name in options, reports and messages.
    factory
        ``module:class``, imported when the runtime is first used.
    package
        Python package that it needs.
    suffixes
        Suffixes of the graph files that it reads. It runs files with the first one by default; the
        others may be the first of another runtime. Empty: it reads no files.
    beside
        Suffixes of the files that belong to a graph file of its own format.
    format
        Name of its own file format in ``srq export``; empty: it has none.
    precisions
        Arithmetic that it offers for what does not run on integers.
    races
        True if ``auto`` tries it. Of the runtimes that it tries, ``auto`` prefers those that were
        registered first, unless a later one is clearly faster.
    partial
        True if it has only some operations of graphs. Other runtimes come before it for files that
        srq did not make.
    condition
        ``module:function`` that tells why the runtime cannot run here, empty if it can; empty: it
        can wherever the package is.
    """

    name: str
    factory: str
    package: str
    suffixes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    format: str = ""
    precisions: tuple[Precision, ...] = ("fp32",)
    races: bool = False
    partial: bool = False
    condition: str = ""

    @property
    def installed(self) -> bool:
        """True if it can run here."""
        return not self.missing

    @property
    def missing(self) -> str:
        """Reason why it cannot run here; empty: it can."""
        if find_spec(self.package) is None:
            return f"it is not installed; 'pip install {self.package}' does"
        if not self.condition:
            return ""
        module, _, name = self.condition.partition(":")
        return str(getattr(import_module(module), name)())

    def offers(self, precision: PrecisionChoice) -> bool:
        """True if it has this precision."""
        return precision == "auto" or precision in self.precisions

    def check_precision(self, precision: PrecisionChoice) -> None:
        """Refuse a precision that the runtime does not have.

        Raises
        ------
        UsageError
            With the precisions that it has.
        """
        if not self.offers(precision):
            allowed = " and ".join(("auto", *self.precisions))
            raise UsageError(
                f"{self.name} has none; allowed are {allowed}", field="precision", value=precision
            )

    def load(self) -> Any:
        """Import the class of the runtime.

        Raises
        ------
        UsageError
            It cannot run here.
        """
        if missing := self.missing:
            raise UsageError(missing, field="runtime", value=self.name)
        module, _, name = self.factory.partition(":")
        return getattr(import_module(module), name)

    def open(
        self,
        path: Path,
        threads: int | None,
        precision: PrecisionChoice,
        cache: Path | None = None,
    ) -> "GraphRuntime":
        """Load a graph file.

        Parameters
        ----------
        threads
            None: one for each core, or this process's part of them.
        cache
            Folder in which the runtime may keep what it compiled; None: nowhere.

        Raises
        ------
        UsageError
            The file is not usable, or the runtime is not installed or has no such precision.
        FailedError
            There is not enough memory.
        """
        self.check_precision(precision)
        opened = self.load()
        if path.suffix.lower() not in self.suffixes:
            takes = f"takes {' and '.join(self.suffixes)} files" if self.suffixes else "reads none"
            raise UsageError(f"{takes}, not {path}", field="runtime", value=self.name)
        runtime: GraphRuntime = opened.open(path, thread_limit(threads), precision, cache)
        return runtime


_known: dict[str, RuntimeEntry] = {}


def register(entry: RuntimeEntry) -> None:
    """Add a runtime, behind those that are there.

    Raises
    ------
    ValueError
        Its name or the name of its format is taken; nothing is changed.
    """
    if entry.name in _known or entry.name == AUTO:
        raise ValueError(f"runtime '{entry.name}' is registered twice")
    if entry.format and entry.format in formats():
        raise ValueError(f"format '{entry.format}' is registered twice")
    _known[entry.name] = entry
    note_origin("runtime", entry.name)


def load_plugins() -> None:
    """Register the runtimes that installed packages add."""
    load_all("runtime", _known)


def runtimes() -> list[RuntimeEntry]:
    """All runtimes, in order of preference."""
    return list(_known.values())


def graph_runtimes() -> list[RuntimeEntry]:
    """Runtimes that read ONNX files, in order of preference."""
    return [entry for entry in runtimes() if ".onnx" in entry.suffixes]


def choices() -> list[str]:
    """Values of the option ``runtime``."""
    return [AUTO, *_known]


def get_runtime(name: str) -> RuntimeEntry:
    """Find a runtime by its name.

    Raises
    ------
    UsageError
        With the names that there are.
    """
    if not _has(name):
        load_plugins()
        raise _unknown(name, list(_known))
    return _known[name]


def check_choice(name: str) -> None:
    """Refuse a value of the option ``runtime`` that is none of ``choices()``.

    Raises
    ------
    UsageError
        With the values that there are.
    """
    if name != AUTO and not _has(name):
        load_plugins()
        raise _unknown(name, choices())


def formats() -> dict[str, RuntimeEntry]:
    """Formats of graph files, by name, each with the runtime whose own it is."""
    return {entry.format: entry for entry in runtimes() if entry.format}


def format_runtime(name: str) -> RuntimeEntry | None:
    """Runtime whose own format has a name; None: there is no such format."""
    if name not in formats():
        load_plugins()
    return formats().get(name)


def is_graph(path: Path) -> bool:
    """True if the suffix of a path is one of graph files."""
    return _reader(path) is not None


def runtime_of(path: Path) -> RuntimeEntry:
    """Runtime that runs a graph file by default.

    Raises
    ------
    UsageError
        No runtime reads such files.
    """
    entry = _reader(path)
    if entry is None:
        raise UsageError(f"no runtime reads {path}")
    return entry


def _has(name: str) -> bool:
    return name in _known or load("runtime", name, _known)


def _unknown(name: str, known: list[str]) -> UsageError:
    return UsageError(f"must be one of {', '.join(known)}", field="runtime", value=name)


def _reader(path: Path) -> RuntimeEntry | None:
    """Runtime whose first suffix a path has, else the first one that reads it."""
    suffix = path.suffix.lower()
    if suffix and not any(suffix in entry.suffixes for entry in runtimes()):
        load_plugins()
    readers = [entry for entry in runtimes() if suffix in entry.suffixes and not entry.partial]
    own = [entry for entry in readers if entry.suffixes[0] == suffix]
    return next(iter(own or readers), None)
