"""``srq import``: a checkpoint of another project as a model file of srq."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from sr_quant_cli.errors import UsageError
from sr_quant_cli.lowering.verify import beside_bicubic
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.modelfiles.onnx_networks import OnnxHints, read_onnx
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.imported import Imported
from sr_quant_cli.runtimes.torch import TorchRuntime
from sr_quant_cli.system.files import check_outputs
from sr_quant_cli.system.reporting import note, result, warn


@dataclass(frozen=True)
class ImportRequest:
    """Request for ``import_model``.

    Attributes
    ----------
    output
        Model file; None: named after the checkpoint, in the working folder.
    hints
        What the checkpoint does not say.
    onnx_hints
        The same, of an ONNX file.
    name
        Name in tables; empty: that of the checkpoint.
    """

    checkpoint: Path
    output: Path | None = None
    hints: UserHints = field(default_factory=UserHints)
    onnx_hints: OnnxHints = field(default_factory=OnnxHints)
    name: str = ""
    licence: str = ""
    overwrite: bool = False


@dataclass(frozen=True)
class ImportedModel:
    """An imported model.

    Attributes
    ----------
    source
        Project that the checkpoint was taken to come from.
    quantization
        Method and bits, as ``pams w4a4``; empty: full precision.
    assumed
        What neither the checkpoint nor the hints say.
    psnr, bicubic
        PSNR of the model and of bicubic on a sample picture, dB.
    """

    checkpoint: Path
    path: Path
    source: str
    network: str
    scale: int
    quantization: str
    assumed: tuple[str, ...]
    psnr: float
    bicubic: float


def import_model(request: ImportRequest) -> ImportedModel:
    """Read a checkpoint of another project, and write it as a model file.

    The file is reported as a result, assumptions about the checkpoint as a note. A model that is
    worse than bicubic on a sample picture gives a warning.

    Raises
    ------
    UsageError
        The checkpoint is not usable, or the output exists.
    FailedError
        The output cannot be written.
    """
    checkpoint = request.checkpoint
    path = request.output or Path(f"{checkpoint.stem}.safetensors")
    check_outputs({"output": path}, [checkpoint])
    if path.exists() and not request.overwrite:
        raise UsageError(f"{path} exists; use `overwrite` to replace it")
    if checkpoint.exists() and identify(checkpoint).is_model_file:
        raise UsageError(f"{checkpoint} is an srq model file already")
    network, source, assumed, stated = _read(request)
    card = Card(name=request.name or checkpoint.stem, licence=request.licence, source=source)
    save_model(path, network, card)
    quantization = network.quantization
    method = f"{quantization.method.name} {quantization.bits}" if quantization else ""
    described = f"{network.config.name} x{network.scale} {method}".rstrip()
    result(f"{checkpoint} ({source}) -> {path}  {described}")
    if isinstance(network, Imported):
        note(network.summary)
    if assumed:
        note(f"assumed: {', '.join(assumed)}")
    psnr, bicubic = beside_bicubic(TorchRuntime(network, torch.device("cpu")), network.scale)
    if psnr < bicubic:
        causes = (*assumed, *stated)
        because = f"is {' or '.join(causes)} the reason?" if causes else "was it ever trained?"
        warn(
            f"{path} is worse than bicubic on a sample picture ({psnr:.2f} dB against "
            f"{bicubic:.2f}): {because}"
        )
    return ImportedModel(
        checkpoint,
        path,
        source,
        network.config.name,
        network.scale,
        method,
        assumed,
        psnr,
        bicubic,
    )


def _read(request: ImportRequest) -> tuple[Network, str, tuple[str, ...], tuple[str, ...]]:
    """Read a network, the project it comes from, what is assumed, and what the user says of it."""
    checkpoint, onnx_hints = request.checkpoint, request.onnx_hints
    if checkpoint.suffix.lower() == ".onnx":
        for name in ("method", "w", "a", "res_scale", "range", "project"):
            if getattr(request.hints, name) is not None:
                raise UsageError("only for checkpoints, not for ONNX files", field=name)
        read = read_onnx(checkpoint, replace(onnx_hints, scale=request.hints.scale))
        note(f"equal to ONNX Runtime within {read.difference:.1g} of 255 levels, on three pictures")
        return read.network, "ONNX", read.assumed, ()
    for name in ("input_range", "colours"):
        if getattr(onnx_hints, name) is not None:
            raise UsageError("only for ONNX files", field=name)
    return import_checkpoint(checkpoint, request.hints)
