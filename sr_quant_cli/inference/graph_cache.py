"""Graphs prepared from model files and kept in the cache, so that upscaling needs no torch.

For each model file srq makes the graph that runtimes read, once, and measures the model itself on a
small real picture. Files that are damaged, that other users can change, or that other versions
made, are made anew.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.modelfiles.loading import load, name_of, note_source
from sr_quant_cli.modelfiles.named import Source, plugin_versions
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.base import GraphRuntime, ModelTraits
from sr_quant_cli.runtimes.registry import get_runtime, runtimes
from sr_quant_cli.scales import check_enlargement
from sr_quant_cli.system.cached import claim, mark_used, prune, trusted
from sr_quant_cli.system.choices import Depth, PrecisionChoice
from sr_quant_cli.system.files import cache_dir, read_sealed, scratch, write_sealed
from sr_quant_cli.system.processor import features, has_vnni
from sr_quant_cli.system.reporting import note, warn
from sr_quant_cli.system.terminal import printable

if TYPE_CHECKING:
    from sr_quant_cli.lowering.onnx import Io

MAKERS = (
    "inference/graph_cache.py",
    "kernels",
    "lowering",
    "methods",
    "modelfiles",
    "networks",
    "passes",
    "quant",
    "runtimes",
)
"""files and folders of srq whose code decides what a graph looks like, and which runtime is best"""

_PACKAGES = ("onnx", "onnx-ir", "onnxscript")
"""packages that make graphs, beside those of the runtimes"""


@record
class Prepared:
    """A folder of the cache: ``graph.onnx``, ``model.json``, and files that runtimes keep."""

    folder: Path
    traits: ModelTraits
    psnr: float
    """PSNR of the model itself on the small picture, dB"""
    source: str
    """project that a checkpoint was taken to come from; empty for srq's own files"""
    input_bits: int = 32
    """bits of the input of its first layer; 32: float"""

    @property
    def graph(self) -> Path:
        """Path of the graph."""
        return self.folder / "graph.onnx"


def prepare(
    source: Source, depth: Depth = "full", row: int | None = None, io: "Io" = "uint8"
) -> Prepared:
    """Find the graph of a model in the cache, or make it.

    Parameters
    ----------
    io
        Input and output of the graph: ``uint8`` for pictures of 8 bits, ``unrounded`` for others.
    row
        Row of bits for a network whose bits follow the picture; None: the network as it is.

    Raises
    ------
    UsageError
        The file is not usable, or its network has another scale or cannot run at that depth.
    FailedError
        The cache cannot be written, or the network has operations that graphs do not have.
    """
    path = source.path
    folder = folder_of(source, depth, row, io)
    found = _read(folder)
    if found is None:
        folder = _writable(folder)
        with alone(folder):
            found = _read(folder)
            if found is None:
                _make(source, depth, row, io, folder)
                found = _read(folder)
                prune(folder.parent)
        if found is None:
            raise FailedError(f"{folder}: what was written there does not come back")
    elif not source.is_model_file:
        note_source(path, found.source, found.traits.scale)
    check_enlargement(found.traits.name, found.traits.scale, source.scale)
    return found


def kept(source: Source) -> Prepared | None:
    """Find the graph of a model for 8-bit pictures in the cache; None: it is not made yet.

    Raises
    ------
    UsageError
        The file is not readable.
    """
    return _read(folder_of(source))


def folder_of(
    source: Source, depth: Depth = "full", row: int | None = None, io: "Io" = "uint8"
) -> Path:
    """Folder of a graph, whose name is a hash of all that decides what the graph looks like.

    Raises
    ------
    UsageError
        The file is not readable.
    """
    path = source.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"no such model file: {path}") from error
    # A checkpoint of another project may hold several scales, or have its scale in its name.
    which = [depth, row, io, None if source.is_model_file else (source.scale, path.name)]
    packages = sorted({*_PACKAGES, *(entry.package for entry in runtimes())})
    makers = [fingerprint(), features(), has_vnni(), *map(_version, packages)]
    if source.is_model_file:
        makers += plugin_versions(path)
    key = sha256(content + repr((which, makers)).encode()).hexdigest()[:20]
    return cache_dir() / "graphs" / key


@cache
def fingerprint() -> str:
    """Hash of the code of srq that decides what a graph looks like."""
    package = Path(__file__).parent.parent
    digest = sha256()
    for maker in MAKERS:
        place = package / maker
        for file in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder of the cache; one that cannot be written needs no lock."""
    lock = FileLock(folder / ".lock")
    try:
        with suppress(OSError):
            lock.acquire()
        yield
    finally:
        lock.release()


def open_graph(
    name: str, prepared: Prepared, threads: int | None, precision: PrecisionChoice
) -> GraphRuntime:
    """Load a prepared graph in a runtime.

    Raises
    ------
    UsageError
        The runtime is not installed, or has no such precision.
    """
    kept = prepared.folder / "compiled"
    return get_runtime(name).open(prepared.graph, threads, precision, kept)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _read(folder: Path) -> Prepared | None:
    """Read a folder of the cache; None: it is missing, damaged or incomplete."""
    if not trusted(folder):
        return None
    known = read_sealed(folder / "model.json")
    try:
        traits = ModelTraits.of(known["facts"])
        found = Prepared(folder, traits, known["psnr"], known["source"], known["input_bits"])
        intact = known["key"] == folder.name
        intact = intact and sha256(found.graph.read_bytes()).hexdigest() == known["graph"]
    except (OSError, TypeError, KeyError, ValueError):
        return None
    if not intact:
        return None
    mark_used(folder)
    return found


def _writable(folder: Path) -> Path:
    """The folder itself, or one that is removed when this process ends."""
    try:
        if not claim(folder):
            return _passing(f"{folder} can be changed by other users") / folder.name
        with scratch(folder):
            return folder
    except OSError as error:
        return _passing(f"cannot write {cache_dir()}: {error.strerror}") / folder.name


@cache
def _passing(reason: str) -> Path:
    try:
        _passing_folders.append(tempfile.TemporaryDirectory(prefix="srq-"))
    except OSError as error:
        raise FailedError(f"{reason}, nor a temporary folder: {error.strerror}") from error
    warn(f"{reason}; what is prepared is not kept: set SRQ_CACHE to a folder that can be written")
    return Path(_passing_folders[-1].name)


_passing_folders: list[tempfile.TemporaryDirectory[str]] = []
"""removed when the process ends"""


def _make(source: Source, depth: Depth, row: int | None, io: "Io", folder: Path) -> None:
    """Trace a model; this takes seconds and imports torch."""
    # torch makes a folder of its own while it traces.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    import torch

    from sr_quant_cli.inference.bits import input_bits
    from sr_quant_cli.lowering.deploy import deploy
    from sr_quant_cli.lowering.graph import save_graph
    from sr_quant_cli.lowering.samples import sample_pairs
    from sr_quant_cli.metrics import rgb_psnr
    from sr_quant_cli.runtimes.torch import TorchRuntime

    network, header = load(source, depth)
    name = printable(name_of(source, header, depth))
    if row is not None:
        from sr_quant_cli.passes.rows import at_row

        network, name = at_row(network, row), f"{name}, row {row}"
    note(f"preparing {name} for the runtimes here, once")
    deployed = deploy(network, name, io, full_range=has_vnni())
    _, lr, hr = sample_pairs(network.scale)[0]
    psnr = rgb_psnr(TorchRuntime(network, torch.device("cpu"))(lr), hr)
    save_graph(deployed.model, folder / "graph.onnx")
    known = {
        "key": folder.name,
        "facts": asdict(deployed.traits),
        "psnr": psnr,
        "source": header.card.source,
        "input_bits": input_bits(network),
        "graph": sha256((folder / "graph.onnx").read_bytes()).hexdigest(),
    }
    write_sealed(folder / "model.json", known)
