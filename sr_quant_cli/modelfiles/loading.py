"""From a model that a user named to a network; torch is imported when one is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.named import Source
from sr_quant_cli.scales import check_enlargement
from sr_quant_cli.system.choices import Depth
from sr_quant_cli.system.reporting import note

if TYPE_CHECKING:
    from sr_quant_cli.modelfiles.modelfile import Header
    from sr_quant_cli.networks.base import Network


def load(source: Source, depth: Depth = "full") -> "tuple[Network, Header]":
    """Load a model file, or a checkpoint of another project as if it were one.

    A checkpoint that holds several scales is loaded at x4 unless the source asks for another.

    Returns
    -------
    The network, in evaluation mode on the CPU, and the header of its file.

    Raises
    ------
    UsageError
        The file is not usable, or its network has another scale or cannot run at that depth.
    """
    from sr_quant_cli.modelfiles.card import Card
    from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
    from sr_quant_cli.modelfiles.modelfile import header_of, load_model

    if source.is_model_file:
        network, header = load_model(source.path)
        check_enlargement(name_of(source, header), network.scale, source.scale)
    elif source.kind == "graph":
        network, header = _load_graph(source)
    else:
        network, project, assumed, _ = import_checkpoint(source.path, UserHints(scale=source.scale))
        note_source(source.path, project, network.scale, assumed)
        header = header_of(network, Card(name=source.path.stem, source=project))
    try:
        network.set_depth(depth)
    except ValueError as error:
        raise UsageError(f"{source.path}: {error}", field="depth", value=depth) from error
    return network, header


def _load_graph(source: Source) -> "tuple[Network, Header]":
    """Read an ONNX file as a network."""
    from sr_quant_cli.modelfiles.card import Card
    from sr_quant_cli.modelfiles.modelfile import header_of
    from sr_quant_cli.modelfiles.onnx_networks import OnnxHints, read_onnx
    from sr_quant_cli.modelfiles.reading import GRAPH

    if source.path.suffix.lower() != ".onnx":
        raise UsageError(f"{source.path} is {GRAPH}")
    read = read_onnx(source.path, OnnxHints(scale=source.scale))
    note_source(source.path, "ONNX", read.network.scale, read.assumed)
    return read.network, header_of(read.network, Card(name=source.path.stem, source="ONNX"))


def name_of(source: Source, header: "Header", depth: Depth = "full") -> str:
    """Name of a model in tables."""
    name = header.card.name or source.path.stem
    return name if depth == "full" else f"{name}, {depth} depth"


_noted: set[tuple[Path, str, int]] = set()
"""checkpoints about which the user knows already"""


def note_source(path: Path, project: str, scale: int, assumed: Sequence[str] = ()) -> None:
    """Note which project a checkpoint was taken to come from, once for each process group.

    Parameters
    ----------
    assumed
        What the file does not say, with the options of ``srq import`` that do.
    """
    if (path, project, scale) not in _noted:
        _noted.add((path, project, scale))
        more = f"; assumed, srq import changes it: {', '.join(assumed)}" if assumed else ""
        note(f"{path}: taken for {project}, x{scale}{more}")
