"""Plugins: methods, networks, runtimes and recipes from other packages, and from single files.

A plugin is a module that registers what it adds when it is imported. An installed package names it
in its metadata, one entry point for each name::

    [project.entry-points."srq.methods"]
    tqt = "srq_tqt"

The entry points of all packages take tens of milliseconds to read. They are read when a name is
met that is not registered, and for lists; then the module that offers the name is imported.
"""

import re
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Literal

from sr_quant_cli.errors import SrqError, UsageError, first_line
from sr_quant_cli.records import record
from sr_quant_cli.system.reporting import warn

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind = Literal["method", "network", "runtime", "recipe"]

_ERRORS = (Exception, SystemExit)
"""What modules of others may raise when they are imported."""


@record
class Origin:
    """Source of something that a plugin registered: a package, or a file.

    Examples
    --------
    >>> str(Origin("srq-tqt", "1.0")), str(Origin(file="my_method.py"))
    ('srq-tqt 1.0', 'my_method.py')
    """

    package: str = ""
    version: str = ""
    file: str = ""

    def __str__(self) -> str:
        return self.file or f"{self.package} {self.version}"

    @property
    def advice(self) -> str:
        """Name of the source, and the way to get it, for the error of a reader without it."""
        if self.file:
            return f"the file {self.file}: name it with `plugin`"
        return f"the package {self}: install it, or name its file with `plugin`"


@record
class Offer:
    """Something that an installed package adds, by its entry point."""

    kind: Kind
    name: str
    origin: Origin


_origins: dict[tuple[Kind, str], Origin] = {}
_tried: set[tuple[Kind, str]] = set()
_files: dict[Path, str] = {}
"""Hashes of the files that were run, by their paths."""
_lock = RLock()
_current: ContextVar[Origin | None] = ContextVar("plugin", default=None)
"""Source of the module that is being imported; None: it is no plugin."""


def note_origin(kind: Kind, name: str) -> None:
    """Note where something comes from that is being registered; called by every registry."""
    if origin := _current.get():
        _origins[kind, name] = origin


def origin_of(kind: Kind, name: str) -> Origin | None:
    """Source of something that is not srq's own; None: a program registered it by itself."""
    if found := _origins.get((kind, name)):
        return found
    point = _entry_points(kind).get(name)
    return None if point is None else _origin(point)


def load(kind: Kind, name: str, registered: Container[str]) -> bool:
    """Import the module by which an installed package offers a name.

    A module that cannot be imported, or does not register the name, is warned of once.

    Parameters
    ----------
    registered
        Registered names, which the module adds to.

    Returns
    -------
    True if the name is registered now.
    """
    with _lock:
        point = _entry_points(kind).get(name)
        if point is not None and name not in registered and (kind, name) not in _tried:
            _tried.add((kind, name))
            problem = _import(point)
            if not problem and name not in registered:
                problem = f"{point.value} does not register it"
            if problem:
                warn(f"{kind} '{name}' of {_origin(point)} cannot be used: {problem}")
        return name in registered


def load_all(kind: Kind, registered: Container[str]) -> None:
    """Import the modules of all installed packages that offer something of a kind."""
    for name in list(_entry_points(kind)):
        load(kind, name, registered)


def offers(kind: Kind) -> list[Offer]:
    """List what installed packages offer of a kind, without importing it."""
    return [Offer(kind, name, _origin(point)) for name, point in _entry_points(kind).items()]


def run_file(path: Path) -> None:
    """Run a Python file that registers something, once.

    Raises
    ------
    UsageError
        There is no such file, it fails, or it registers nothing.
    """
    from hashlib import sha256
    from importlib.util import module_from_spec, spec_from_file_location

    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    if path.suffix != ".py":
        raise _refused(path, "must be a Python file, *.py")
    place = path.resolve()
    if place in _files:
        return
    digest = sha256(content).hexdigest()
    warn(f"{path} runs as a part of srq: use files that you trust")
    name = f"srq_plugin_{re.sub(r'[^0-9a-zA-Z]', '_', path.stem)}_{digest[:8]}"
    spec = spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    before = dict(_origins)
    sys.modules[name] = module = module_from_spec(spec)
    try:
        with _lock, _from(Origin(file=path.name)):
            spec.loader.exec_module(module)
    except _ERRORS as error:
        del sys.modules[name]
        raise _refused(path, _told(error, place)) from error
    if _origins == before:
        raise _refused(path, "registers no method, network, runtime or recipe")
    _files[place] = digest


def run_files() -> tuple[Path, ...]:
    """Python files that this process has run as plugins, in order."""
    return tuple(_files)


def versions(origins: list[Origin]) -> list[str]:
    """Versions of packages as they are installed, and hashes of files that were run."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for origin in origins:
        if origin.file:
            found += [digest for path, digest in _files.items() if path.name == origin.file]
            continue
        try:
            found.append(version(origin.package))
        except (PackageNotFoundError, ValueError):
            found.append("")
    return found


@cache
def _entry_points(kind: Kind) -> "dict[str, EntryPoint]":
    """Entry points of a kind by their names; of several with one name, the first on the path."""
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"srq.{kind}s"):
        first = found.setdefault(point.name, point)
        if first != point:
            warn(f"{kind} '{point.name}' is that of {_origin(first)}, not of {_origin(point)}")
    return found


def _origin(point: "EntryPoint") -> Origin:
    assert point.dist is not None
    return Origin(point.dist.name, point.dist.version)


def _import(point: "EntryPoint") -> str:
    """Import the module of an entry point; return the problem, empty if there is none."""
    try:
        with _from(_origin(point)):
            point.load()
    except _ERRORS as error:
        return _told(error)
    return ""


@contextmanager
def _from(origin: Origin) -> Iterator[None]:
    token = _current.set(origin)
    try:
        yield
    finally:
        _current.reset(token)


def _told(error: BaseException, path: Path | None = None) -> str:
    """Put the error of a plugin into words, with its line in the file."""
    from traceback import extract_tb

    frames = extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if path and frame.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    where = f"line {lines[-1]}: " if lines and path else ""
    kind = "" if isinstance(error, SrqError) else f"{type(error).__name__}: "
    return f"{where}{kind}{first_line(error)}"


def _refused(path: Path, problem: str) -> UsageError:
    return UsageError(problem, field="plugin", value=path)
