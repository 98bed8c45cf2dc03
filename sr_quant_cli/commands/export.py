"""``srq export``: a model file in, a graph file out, checked against the model."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from sr_quant_cli.data.photographs import find_photographs
from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import pack_pairs
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.inference.opening import GRAPHS
from sr_quant_cli.lowering.deploy import Deployed, Offsets, deploy
from sr_quant_cli.lowering.graph import describe, save_graph
from sr_quant_cli.lowering.onnx import Io
from sr_quant_cli.lowering.verify import Verification, verify
from sr_quant_cli.modelfiles.named import load_at_depth, name_of
from sr_quant_cli.passes.rows import at_row
from sr_quant_cli.runtimes.opening import open_file
from sr_quant_cli.runtimes.torch import TorchRuntime
from sr_quant_cli.system.choices import Depth
from sr_quant_cli.system.files import check_outputs
from sr_quant_cli.system.reporting import result

_CPU = torch.device("cpu")
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
MAX_LOSS = 0.01
"""dB of PSNR against HR, mean over the sample pictures, that a graph may lose."""


@dataclass(frozen=True)
class ExportRequest:
    """What ``srq export`` was asked for."""

    model: Path
    scale: int | None
    format: Literal["onnx", "openvino"]
    output: Path | None
    io: Io
    offsets: Offsets
    full_range: bool
    calibrate: str | None
    data_root: Path | None
    depth: Depth
    row: int | None
    threads: int | None
    overwrite: bool


@dataclass(frozen=True)
class Exported:
    """A graph file, and what is known of it."""

    path: Path
    deployed: Deployed
    verification: Verification

    def report(self) -> dict[str, Any]:
        """What ``--json`` writes, and the file's metadata holds."""
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


def run_export(request: ExportRequest, show: Callable[[Deployed, Verification], None]) -> Exported:
    """Write the graph of a model, after it was checked against the model.

    Parameters
    ----------
    show
        Shows what was found, before it is judged.

    Raises
    ------
    UsageError
        The model is not usable, or the output is not.
    FailedError
        The graph loses more than ``MAX_LOSS``, or a layer that should be on integers runs in float.
    """
    path = _target(request)
    network, header = load_at_depth(request.model, request.depth, request.scale)
    name = name_of(request.model, header, request.depth)
    if request.row is not None:
        try:
            network = at_row(network, request.row)
        except ValueError as error:
            raise UsageError(f"--row {request.row}: {request.model}: {error}") from error
        name = f"{name}, row {request.row}"
    deployed = deploy(
        network,
        name,
        request.io,
        offsets=request.offsets,
        full_range=request.full_range,
        calibration=_calibration(request, network.scale),
    )
    describe(deployed.model, deployed.traits)
    with TemporaryDirectory() as folder:
        draft = Path(folder) / f"graph{path.suffix}"
        save_graph(deployed.model, draft)
        runtime = open_file(GRAPHS[path.suffix.lower()], draft, request.threads, "fp32")
        model = TorchRuntime(network, _CPU)
        changed = None if deployed.changed is None else TorchRuntime(deployed.changed, _CPU)
        found = verify(model, runtime, network.scale, changed)
    exported = Exported(path, deployed, found)
    show(deployed, exported.verification)
    _judge(exported)
    describe(deployed.model, deployed.traits, **exported.report())
    save_graph(deployed.model, path)
    result(
        f"{request.model} -> {path}  {sum(file.stat().st_size for file in _files(path)):,} bytes"
    )
    return exported


def _target(request: ExportRequest) -> Path:
    suffix = SUFFIXES[request.format]
    path = request.output or Path(f"{request.model.stem}{suffix}")
    if path.suffix.lower() != suffix:
        raise UsageError(f"-o {path}: --format {request.format} is written to a {suffix} file")
    for file in _files(path):
        check_outputs({"output": file}, [request.model])
        if file.exists() and not request.overwrite:
            raise UsageError(f"{file} exists; use --overwrite to replace it")
    return path


def _calibration(request: ExportRequest, scale: int) -> list[Tensor] | None:
    """LR patches of photographs, the same for the same photographs."""
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
        advice="name others by --calibrate",
    )
    return [to_tensor(sampler.batch(0)[0], _CPU)]


def _files(path: Path) -> tuple[Path, ...]:
    return (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,)


def _judge(exported: Exported) -> None:
    found = exported.verification
    if exported.deployed.all_integer and found.kernels.floating:
        names = found.kernels.float_names
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise FailedError(
            f"{found.runtime} runs {len(names)} kernels in float that should be on integers: "
            f"{shown}; nothing was written"
        )
    if found.loss > MAX_LOSS:
        worst = max(found.pictures, key=lambda p: p.loss)
        raise FailedError(
            f"the graph loses {found.loss:.3f} dB on the sample pictures, allowed are {MAX_LOSS}; "
            f"most on {worst.name}, {worst.loss:.3f} dB; "
            "nothing was written"
        )
