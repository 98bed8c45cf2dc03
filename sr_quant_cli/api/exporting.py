"""Graph files for other runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sr_quant_cli.api.model import Model, load_model
from sr_quant_cli.api.progress import ProgressCallback, quietly
from sr_quant_cli.errors import UsageError, check_one_of
from sr_quant_cli.modelfiles.named import Named
from sr_quant_cli.runtimes.registry import formats, is_graph

if TYPE_CHECKING:
    from sr_quant_cli.commands.export import Exported


def export(
    model: Model | Named | None,
    path: str | Path,
    *,
    io: Literal["float", "uint8"] = "float",
    offsets: Literal["exact", "snap"] = "exact",
    full_range: bool = False,
    row: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> "Exported":
    """Write a model as a graph for other programs, and compare it with the model first.

    Parameters
    ----------
    model
        A ``Model``, or what ``load_model`` takes.
    path
        ``.onnx`` for ONNX Runtime, ``.xml`` for OpenVINO.
    io
        ``float``: RGB 0..1 ``[1, 3, h, w]``; ``uint8``: pixels ``[1, h, w, 3]``.
    offsets
        Real-valued zero points: keep them exactly, or snap them to integers.
    full_range
        Keep 8-bit weights, which overflow on processors without VNNI.
    row
        Row of bits to fix, for a network whose bits follow the picture.
    threads
        CPU threads of the comparison; None: one for each core.
    overwrite
        Replace existing files.
    progress
        Called with a ``Progress``.

    Raises
    ------
    UsageError
        The model, the path or an option is not usable.
    FailedError
        The graph loses more than 0.01 dB, or a layer that should run on integers does not; nothing
        is written.
    """
    from sr_quant_cli.commands.export import ExportRequest
    from sr_quant_cli.commands.export import export as run

    check_one_of("io", io, ("float", "uint8"))
    check_one_of("offsets", offsets, ("exact", "snap"))
    path = Path(path)
    is_graph(path)  # finds the plugin for the suffix
    by_suffix = {entry.suffixes[0]: name for name, entry in formats().items()}
    if path.suffix.lower() not in by_suffix:
        allowed = ", ".join(by_suffix)
        raise UsageError(f"must end in one of {allowed}", field="path", value=path)
    given = model if isinstance(model, Model) else load_model(model)
    with quietly(progress), given.file() as file:
        return run(
            ExportRequest(
                model=file,
                scale=given.wanted_scale,
                format=by_suffix[path.suffix.lower()],
                output=path,
                io=io,
                offsets=offsets,
                full_range=full_range,
                depth=given.options.depth,
                row=row,
                threads=threads,
                overwrite=overwrite,
            )
        )
