"""``srq pack``: a copy of a model file for release."""

from dataclasses import dataclass
from pathlib import Path

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.modelfile import pack_model
from sr_quant_cli.modelfiles.named import Named, identify
from sr_quant_cli.system.files import check_outputs
from sr_quant_cli.system.reporting import result


@dataclass(frozen=True)
class PackRequest:
    """Request for ``pack``.

    Attributes
    ----------
    half
        Store float weights as float16.
    name, data, licence
        New entries of the card; None: as they are.
    """

    model: Named
    output: Path
    half: bool = False
    name: str | None = None
    data: str | None = None
    licence: str | None = None
    overwrite: bool = False


def pack(request: PackRequest) -> None:
    """Copy a model file, with weights of half the size or entries of its card changed.

    Raises
    ------
    UsageError
        The model is no srq model file or has no such weights, or the output exists.
    FailedError
        The output cannot be written.
    """
    model, output = identify(request.model).path, request.output
    check_outputs({"output": output}, [model])
    if output.exists() and not request.overwrite:
        raise UsageError(f"{output} exists; use `overwrite` to replace it")
    entries = {"name": request.name, "data": request.data, "licence": request.licence}
    changes = {key: value for key, value in entries.items() if value is not None}
    pack_model(model, output, changes, half=request.half)
    result(f"{model} -> {output}  {output.stat().st_size:,} bytes")
