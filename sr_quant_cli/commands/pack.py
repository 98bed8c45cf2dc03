"""``srq pack``: a copy of a model file for release."""

from dataclasses import dataclass
from pathlib import Path

from sr_quant_cli.errors import UsageError
from sr_quant_cli.lowering.kernel_program import kernel_program
from sr_quant_cli.modelfiles.modelfile import is_packed, load_model, pack_model, ship_program
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

    A quantized model gets a program for srq's own kernels, if they run it.

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
    load_model(model)  # nothing is written of a file that is not usable
    entries = {"name": request.name, "data": request.data, "licence": request.licence}
    changes = {key: value for key, value in entries.items() if value is not None}
    pack_model(model, output, changes, half=request.half)
    add_program(output)
    result(f"{model} -> {output}  {output.stat().st_size:,} bytes")


def add_program(path: Path) -> None:
    """Put a program for srq's own kernels into a model file, if they run its network.

    Files with float weights behind the codes stay as they are.

    Raises
    ------
    UsageError
        The file is no srq model file.
    FailedError
        It cannot be written.
    """
    if not is_packed(path):
        return
    network, header = load_model(path)
    program = kernel_program(network, header.card.name or path.stem)
    if program is not None:
        ship_program(path, program)
