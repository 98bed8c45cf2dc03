"""Graphs prepared from model files, kept in the cache: what upscaling starts from without torch.

Of a model file srq makes, once, the graph that runtimes take, and measures the model itself on a
small real picture. What is damaged there, or was made by other versions, is made anew.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.modelfiles.named import is_model_file, load_at_depth, name_of, say_source
from sr_quant_cli.runtimes.base import GraphRuntime, ModelTraits, RuntimeName
from sr_quant_cli.runtimes.opening import Precision, open_file
from sr_quant_cli.scales import check_enlargement
from sr_quant_cli.system.files import cache_dir, read_sealed, scratch, write_sealed
from sr_quant_cli.system.processor import features, has_vnni
from sr_quant_cli.system.reporting import note, warn
from sr_quant_cli.system.terminal import printable

if TYPE_CHECKING:
    from sr_quant_cli.networks.base import Depth


MAKERS = (
    "inference/graph_cache.py",
    "lowering",
    "methods",
    "modelfiles",
    "networks",
    "passes",
    "quant",
    "runtimes",
)
"""Files and folders of srq that decide what a graph is."""

_PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnxscript", "openvino", "torch")
"""Packages that do, or that decide how it runs."""


@dataclass(frozen=True)
class Prepared:
    """A folder of the cache: ``graph.onnx``, ``model.json``, and what runtimes keep."""

    folder: Path
    traits: ModelTraits
    psnr: float
    """of the model itself, dB, on the small picture"""
    source: str
    """what it was trained on, or taken for"""

    @property
    def graph(self) -> Path:
        """The graph, between uint8 pictures."""
        return self.folder / "graph.onnx"


def prepare(
    model: Path, depth: "Depth", scale: int | None = None, row: int | None = None
) -> Prepared:
    """Find the graph of a model file, or make it.

    Parameters
    ----------
    scale
        That it must enlarge by; None: by any.
    row
        Of the bits that follow the picture; None: they are fixed.

    Raises
    ------
    UsageError
        The file is not usable, its network has another scale, or cannot run at that depth.
    FailedError
        The cache cannot be written, or the network has operations that a graph does not have.
    """
    try:
        content = model.read_bytes()
    except OSError as error:
        raise UsageError(f"no such model file: {model}") from error
    own = is_model_file(model)
    # A checkpoint of another project may hold several scales, or have its scale in its name.
    which = [depth, row, None if own else (scale, model.name)]
    full_range = has_vnni()
    makers = [fingerprint(), features(), full_range, *map(_version, _PACKAGES)]
    key = sha256(content + repr((which, makers)).encode()).hexdigest()[:20]
    folder = cache_dir() / "graphs" / key
    found = _read(folder)
    if found is None:
        folder = _writable(folder)
        with alone(folder):
            found = _read(folder)
            if found is None:
                _make(model, depth, scale, row, folder, full_range=full_range)
                found = _read(folder)
        if found is None:
            raise FailedError(f"{folder}: what was written there does not come back")
    elif not own:
        say_source(model, found.source, found.traits.scale)
    check_enlargement(found.traits.name, found.traits.scale, scale)
    return found


@cache
def fingerprint() -> str:
    """Hash of the sources of srq that decide what a graph is."""
    package = Path(__file__).parent.parent
    digest = sha256()
    for maker in MAKERS:
        place = package / maker
        for file in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from a folder of the cache; nobody can from one without writers."""
    lock = FileLock(folder / ".lock")
    try:
        with suppress(OSError):
            lock.acquire()
        yield
    finally:
        lock.release()


def open_graph(
    name: RuntimeName, prepared: Prepared, threads: int | None, precision: Precision
) -> GraphRuntime:
    """Load a prepared graph in a runtime.

    Raises
    ------
    UsageError
        The runtime has no such precision.
    """
    return open_file(name, prepared.graph, threads, precision, prepared.folder / "compiled")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _read(folder: Path) -> Prepared | None:
    """None: it is not there, or not what was written."""
    known = read_sealed(folder / "model.json")
    try:
        found = Prepared(folder, ModelTraits.of(known["facts"]), known["psnr"], known["source"])
        intact = sha256(found.graph.read_bytes()).hexdigest() == known["graph"]
    except (OSError, TypeError, KeyError, ValueError):
        return None
    return found if intact else None


def _writable(folder: Path) -> Path:
    """The folder itself, or one that goes with this process."""
    try:
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
"""Removed as the process ends."""


def _make(
    model: Path,
    depth: "Depth",
    scale: int | None,
    row: int | None,
    folder: Path,
    *,
    full_range: bool,
) -> None:
    """Trace a model; takes seconds, and torch."""
    # torch makes a folder as it traces, elsewhere unless it is told.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    import torch

    from sr_quant_cli.lowering.deploy import deploy
    from sr_quant_cli.lowering.graph import save_graph
    from sr_quant_cli.lowering.samples import sample_pairs
    from sr_quant_cli.metrics import rgb_psnr
    from sr_quant_cli.runtimes.torch import TorchRuntime

    network, header = load_at_depth(model, depth, scale)
    name = printable(name_of(model, header, depth))
    if row is not None:
        from sr_quant_cli.passes.rows import at_row

        network, name = at_row(network, row), f"{name}, row {row}"
    note(f"preparing {name} for the runtimes here, once")
    deployed = deploy(network, name, "uint8", full_range=full_range)
    _, lr, hr = sample_pairs(network.scale)[0]
    psnr = rgb_psnr(TorchRuntime(network, torch.device("cpu"))(lr), hr)
    save_graph(deployed.model, folder / "graph.onnx")
    known = {
        "facts": asdict(deployed.traits),
        "psnr": psnr,
        "source": header.card.source,
        "graph": sha256((folder / "graph.onnx").read_bytes()).hexdigest(),
    }
    write_sealed(folder / "model.json", known)
