"""``srq export``: a graph file made from a model and checked against it."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from sr_quant_cli.data.photographs import find_photographs
from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import pack_pairs
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.lowering.deploy import Deployed, Offsets, deploy
from sr_quant_cli.lowering.graph import describe, save_graph
from sr_quant_cli.lowering.onnx import Io
from sr_quant_cli.lowering.verify import Verification, verify
from sr_quant_cli.modelfiles.loading import load, name_of
from sr_quant_cli.modelfiles.named import Named, Source, identify
from sr_quant_cli.passes.rows import at_row
from sr_quant_cli.runtimes.registry import RuntimeEntry, format_runtime, formats
from sr_quant_cli.runtimes.torch import TorchRuntime
from sr_quant_cli.system.choices import Depth
from sr_quant_cli.system.files import check_outputs
from sr_quant_cli.system.reporting import progress

_CPU = torch.device("cpu")
MAX_LOSS = 0.01
"""largest loss of PSNR against HR, in dB, mean over the sample pictures"""


@dataclass(frozen=True)
class ExportRequest:
    """Request for ``export``.

    Attributes
    ----------
    model
        What ``identify`` finds a model by.
    format
        A registered format of graph files.
    output
        None: named after the model, in the working folder.
    calibrate
        Photographs by which ranges or bits that follow the picture are fixed; None: they follow it.
    data_root
        Folder of the data sets; None: ``SRQ_DATA``, else ``datasets``.
    row
        Row of bits to fix, for a network whose bits follow the picture; None: the network as it is.
    """

    model: Named | None = None
    scale: int | None = None
    format: str = "onnx"
    output: Path | None = None
    io: Io = "float"
    offsets: Offsets = "exact"
    full_range: bool = False
    calibrate: str | None = None
    data_root: Path | None = None
    depth: Depth = "full"
    row: int | None = None
    threads: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Exported:
    """A graph file, and the results of checking it."""

    source: Path
    path: Path
    deployed: Deployed
    verification: Verification
    bytes: int = 0
    """size of its files; 0: nothing was written"""

    def to_json(self) -> dict[str, Any]:
        """Report, which the metadata of the file holds, too."""
        checks = asdict(self.verification)
        for picture in checks["pictures"]:
            if math.isinf(picture["psnr_between"]):
                picture["psnr_between"] = None
        return {
            "integer_layers": self.deployed.integer_layers,
            "notes": list(self.deployed.notes),
            "verification": {
                **checks,
                "cost": self.verification.cost,
                "loss": self.verification.loss,
            },
        }


class RefusedGraphError(FailedError):
    """A graph did not pass its checks, and was not written."""

    def __init__(self, problem: str, exported: Exported) -> None:
        super().__init__(f"{problem}; nothing was written")
        self.exported = exported


def export(request: ExportRequest) -> Exported:
    """Make the graph of a model, check it against the model, and write it.

    Raises
    ------
    UsageError
        The model or the output is not usable.
    RefusedGraphError
        The graph loses more than ``MAX_LOSS``, or a layer that should run on integers does not.
    FailedError
        The graph cannot be made or written.
    """
    runtime = _runtime(request.format)
    source = identify(request.model, request.scale)
    path = _target(request, source, runtime)
    network, header = load(source, request.depth)
    name = name_of(source, header, request.depth)
    if request.row is not None:
        try:
            network = at_row(network, request.row)
        except ValueError as error:
            raise UsageError(f"{source.path}: {error}", field="row", value=request.row) from error
        name = f"{name}, row {request.row}"
    calibration = _calibration(request, network.scale)
    with progress(1, "graph", f"tracing {name}"):
        deployed = deploy(
            network,
            name,
            request.io,
            offsets=request.offsets,
            full_range=request.full_range,
            calibration=calibration,
        )
    describe(deployed.model, deployed.traits)
    with TemporaryDirectory() as folder:
        draft = Path(folder) / f"graph{path.suffix}"
        save_graph(deployed.model, draft)
        graph = runtime.open(draft, request.threads, "fp32")
        model = TorchRuntime(network, _CPU)
        changed = None if deployed.changed is None else TorchRuntime(deployed.changed, _CPU)
        found = verify(model, graph, network.scale, changed)
    exported = Exported(source.path, path, deployed, found)
    _check(exported)
    describe(deployed.model, deployed.traits, **exported.to_json())
    save_graph(deployed.model, path)
    return replace(exported, bytes=sum(file.stat().st_size for file in _files(path, runtime)))


def _runtime(format_: str) -> RuntimeEntry:
    """Runtime whose own format that is."""
    runtime = format_runtime(format_)
    if runtime is None:
        allowed = ", ".join(formats())
        raise UsageError(f"must be one of {allowed}", field="format", value=format_)
    return runtime


def _target(request: ExportRequest, source: Source, runtime: RuntimeEntry) -> Path:
    suffix = runtime.suffixes[0]
    path = request.output or Path(f"{source.path.stem}{suffix}")
    if path.suffix.lower() != suffix:
        raise UsageError(
            f"`format` {request.format} is written to a {suffix} file", field="output", value=path
        )
    for file in _files(path, runtime):
        check_outputs({"output": file}, [source.path])
        if file.exists() and not request.overwrite:
            raise UsageError(f"{file} exists; use `overwrite` to replace it")
    return path


def _calibration(request: ExportRequest, scale: int) -> list[Tensor] | None:
    """LR patches of the photographs to calibrate with; the same photographs give the same ones."""
    if request.calibrate is None:
        return None
    photographs = find_photographs(request.calibrate, scale, root=request.data_root)
    store = pack_pairs(photographs.train, scale)
    sampler = PatchSampler(
        store,
        seed=0,
        batch=32,
        patch_hr=64 * scale,
        augment=(),
        advice="name others by `calibrate`",
    )
    return [to_tensor(sampler.batch(0)[0], _CPU)]


def _files(path: Path, runtime: RuntimeEntry) -> tuple[Path, ...]:
    """Files of a graph, ``path`` first."""
    return (path, *(path.with_suffix(suffix) for suffix in runtime.beside))


def _check(exported: Exported) -> None:
    """Refuse a graph that is not what it should be."""
    found = exported.verification
    if exported.deployed.all_integer and found.kernels.floating:
        names = found.kernels.float_names
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise RefusedGraphError(
            f"{found.runtime} runs {len(names)} kernels in float that should be on integers: "
            f"{shown}",
            exported,
        )
    if found.loss > MAX_LOSS:
        worst = max(found.pictures, key=lambda p: p.loss)
        raise RefusedGraphError(
            f"the graph loses {found.loss:.3f} dB on the sample pictures, allowed are {MAX_LOSS}; "
            f"most on {worst.name}, {worst.loss:.3f} dB",
            exported,
        )
