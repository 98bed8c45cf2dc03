"""Graphs prepared from model files, kept in the cache: what upscaling starts from without torch.

Of a model file srq makes, once, the graph that runtimes take, and measures the model itself on a
small real picture. Which runtime is the fastest that does as well is measured once, too, for each
number of threads.
"""

import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from sr_quant_cli import __version__
from sr_quant_cli.engine.distributed import thread_limit, warn, world
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.files import cache_dir, replacing
from sr_quant_cli.runtimes.base import Facts, GraphRuntime, RuntimeName
from sr_quant_cli.runtimes.processor import has_vnni
from sr_quant_cli.scales import check_enlargement

if TYPE_CHECKING:
    from sr_quant_cli.networks.base import Depth

Precision = Literal["auto", "fp32", "bf16"]

FORMAT = 3
"""Of the folders; another number makes srq prepare all models anew."""

_HEADER = 2**24
"""Bytes of a file's header in which its metadata end."""

AGREES = 0.05
"""dB of PSNR, RGB: how much a runtime may lose against the model on the small picture."""


@dataclass(frozen=True)
class Prepared:
    """A folder of the cache: ``graph.onnx``, ``model.json``, measured choices."""

    folder: Path
    facts: Facts
    psnr: float
    """of the model itself, dB, on the small picture"""

    @property
    def graph(self) -> Path:
        """The graph, between uint8 pictures."""
        return self.folder / "graph.onnx"


def is_model_file(path: Path) -> bool:
    """Tell a model file of srq from a checkpoint of another project; asks without torch.

    Raises
    ------
    UsageError
        There is no such file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return b'"srq":' in file.read(min(size, _HEADER))
    except OSError as error:
        raise UsageError(f"no such model file: {path}") from error


def say_source(path: Path, source: str, scale: int) -> None:
    """Tell the user what a checkpoint of another project was taken for, once for all processes."""
    if world().rank == 0:
        print(f"{path}: taken for {source}, x{scale}", file=sys.stderr)


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
    which = "" if own else f" {scale} {model.name}"
    if row is not None:
        which += f" row {row}"
    full_range = has_vnni()
    if full_range:
        which += " full range"
    key = sha256(content + f"{FORMAT} {__version__} {depth}{which}".encode()).hexdigest()[:20]
    folder = cache_dir() / "graphs" / key
    made = (folder / "model.json").is_file()
    if not made:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedError(
                f"cannot write {folder}: {error.strerror}; set SRQ_CACHE to a folder that can be"
            ) from error
        with FileLock(folder / ".lock"):
            if not (folder / "model.json").is_file():
                _make(model, depth, scale, row, folder, full_range=full_range)
    found = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    facts = Facts(**found["facts"])
    check_enlargement(facts.name, facts.scale, scale)
    if made and not own:
        say_source(model, found["source"], facts.scale)
    return Prepared(folder, facts, found["psnr"])


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


def open_file(
    name: RuntimeName,
    path: Path,
    threads: int | None,
    precision: Precision,
    cache: Path | None = None,
) -> GraphRuntime:
    """Load a graph file in a runtime.

    Raises
    ------
    UsageError
        The file is not usable, or the runtime is not installed or has no such precision.
    """
    if not find_spec(name):
        raise UsageError(f"--runtime {name}: it is not installed; 'pip install {name}' does")
    if name == "onnxruntime":
        from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime

        check_precision(precision)
        if path.suffix.lower() != ".onnx":
            raise UsageError(f"--runtime onnxruntime: takes .onnx files, not {path}")
        return OnnxRuntime(path, thread_limit(threads))
    from sr_quant_cli.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(path, thread_limit(threads), precision, cache)


def check_precision(precision: Precision) -> None:
    """Refuse what ONNX Runtime does not have.

    Raises
    ------
    UsageError
        With what it has.
    """
    if precision == "bf16":
        raise UsageError("--precision bf16: onnxruntime has none; allowed are auto and fp32")


def fastest(prepared: Prepared, threads: int | None, precision: Precision) -> RuntimeName:
    """The fastest runtime whose enlargement is as good as the model's own; else torch.

    Measured once, by a small picture, for a number of threads and a precision.
    """
    count = thread_limit(threads) or os.cpu_count()
    record = prepared.folder / f"choice-{count}-{precision}.json"
    if not record.is_file():
        tried = [_try(name, prepared, threads, precision) for name in _names(precision)]
        _write(record, [asdict(trial) for trial in tried if trial is not None])
    trials = [Trial(**trial) for trial in json.loads(record.read_text(encoding="utf-8"))]
    agreeing = [trial for trial in trials if trial.loss <= AGREES and find_spec(trial.runtime)]
    return min(agreeing, key=lambda trial: trial.seconds).runtime if agreeing else "torch"


@dataclass(frozen=True)
class Trial:
    """How a runtime did on the small picture."""

    runtime: RuntimeName
    seconds: float
    """median of three"""
    loss: float
    """dB of PSNR (RGB) less than the model's own"""


def _names(precision: Precision) -> tuple[RuntimeName, ...]:
    names: tuple[RuntimeName, ...] = ("openvino", "onnxruntime")
    if precision == "bf16":
        names = ("openvino",)
    return tuple(name for name in names if find_spec(name))


def _try(
    name: RuntimeName, prepared: Prepared, threads: int | None, precision: Precision
) -> Trial | None:
    """None: the runtime cannot run it on this machine, which is told."""
    from sr_quant_cli.lowering.samples import sample_pairs
    from sr_quant_cli.metrics import rgb_psnr

    _, lr, hr = sample_pairs(prepared.facts.scale)[0]
    try:
        runtime = open_graph(name, prepared, threads, precision)
        psnr = rgb_psnr(runtime(lr), hr)
    except UsageError as error:
        warn(f"{name} is left out here: {error}")
        return None
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        runtime(lr)
        times.append(time.perf_counter() - begun)
    return Trial(name, statistics.median(times), prepared.psnr - psnr)


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
    import torch

    from sr_quant_cli.inference.models import load_at_depth, name_of
    from sr_quant_cli.lowering.deploy import deploy
    from sr_quant_cli.lowering.graph import save_graph
    from sr_quant_cli.lowering.samples import sample_pairs
    from sr_quant_cli.metrics import rgb_psnr
    from sr_quant_cli.runtimes.torch import TorchRuntime

    network, header = load_at_depth(model, depth, scale)
    name = name_of(model, header, depth)
    if row is not None:
        from sr_quant_cli.quant.dynamic import at_row

        network, name = at_row(network, row), f"{name}, row {row}"
    if world().rank == 0:
        print(f"preparing {name} for the runtimes here, once", file=sys.stderr)
    deployed = deploy(network, name, "uint8", full_range=full_range)
    _, lr, hr = sample_pairs(network.scale)[0]
    psnr = rgb_psnr(TorchRuntime(network, torch.device("cpu"))(lr), hr)
    save_graph(deployed.model, folder / "graph.onnx")
    known = {"facts": asdict(deployed.facts), "psnr": psnr, "source": header.card.data}
    _write(folder / "model.json", known)


def _write(path: Path, values: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values), encoding="utf-8")
