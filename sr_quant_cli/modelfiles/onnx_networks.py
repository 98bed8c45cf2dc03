"""ONNX files as networks: the graph becomes nodes, what srq must know of it is measured.

The result is compared with ONNX Runtime's before it is given out.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from pydantic import ValidationError

from sr_quant_cli.errors import UsageError, first_line
from sr_quant_cli.modelfiles.onnx_graph import Graph, read_graph
from sr_quant_cli.modelfiles.onnx_nodes import nodes_of
from sr_quant_cli.modelfiles.onnx_probe import (
    OnnxHints,
    Probe,
    fixed_size,
    layout,
    natural_pictures,
    round_up,
)
from sr_quant_cli.modelfiles.onnx_simplify import simplify
from sr_quant_cli.networks import build
from sr_quant_cli.networks.imported import Imported

__all__ = ["OnnxHints", "OnnxNetwork", "read_onnx"]

TOLERANCE = 2e-3
"""largest difference from ONNX Runtime, in levels of 255, of a network in float32"""
HALF_TOLERANCE = 2.0
"""the same of a graph in float16, which is computed in float32 here"""


@dataclass(frozen=True)
class OnnxNetwork:
    """A network from an ONNX file, in evaluation mode.

    Attributes
    ----------
    difference
        Largest difference from ONNX Runtime on pictures of odd sizes, in levels of 255.
    assumed
        What neither the file nor the hints say.
    """

    network: Imported
    difference: float
    assumed: tuple[str, ...] = ()


def read_onnx(path: Path, hints: OnnxHints | None = None) -> OnnxNetwork:
    """Read an ONNX file of one picture in and one out.

    Raises
    ------
    UsageError
        It is none, has an operation that srq lacks, is no network for super-resolution, or differs
        from what ONNX Runtime makes of it.
    """
    hints = hints or OnnxHints()
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    graph = read_graph(path)
    try:
        simplify(graph)
        nodes, state = nodes_of(graph)
        probe = Probe(graph, nodes, state)
        config, assumed = probe.config(hints)
        network = build(config)
        network.load_state_dict(probe.state_of(network), strict=True)
    except ValidationError as error:
        raise UsageError(f"{path}: {error.errors()[0]['msg']}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {first_line(error)}") from error
    except Exception as error:  # a graph whose operations do not take their operands
        raise UsageError(f"{path} is no valid network: {first_line(error)}") from error
    assert isinstance(network, Imported)
    network.eval()
    difference = _compare(path, graph, network)
    half = graph.given.type == _HALF or any(a.dtype == np.float16 for a in graph.constants.values())
    if difference > (HALF_TOLERANCE if half else TOLERANCE):
        raise UsageError(
            f"{path}: srq reads it as a network that differs from ONNX Runtime by {difference:.2g} "
            "of 255 levels"
        )
    return OnnxNetwork(network, difference, assumed)


_HALF = 10
_BYTES = 2
"""types of ONNX: float16, uint8"""


@torch.no_grad()
def _compare(path: Path, graph: Graph, network: Imported) -> float:
    """Largest difference from ONNX Runtime on three pictures, in levels of 255."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors are of several kinds
        raise UsageError(f"{path}: ONNX Runtime does not take it: {first_line(error)}") from error
    config = network.config
    low, high = config.input_range
    dtype = {_HALF: np.float16, _BYTES: np.uint8}.get(graph.given.type, np.float32)
    worst = 0.0
    _, last = layout(graph)
    fixed = fixed_size(graph, last)
    channels = 1 if "luma" in config.colours else 3
    for height, width in [fixed] if len(fixed) == 2 else [(37, 45), (61, 33), (49, 71)]:
        sides = [max(round_up(side, config.multiple), config.least) for side in (height, width)]
        x = natural_pictures(channels, *sides)[:1] * (high - low) + low
        if dtype is np.uint8:
            x = x.round()
        own = network.core(x).float()
        given = x.permute(0, 2, 3, 1) if last else x
        try:
            (theirs,) = session.run(None, {graph.given.name: given.numpy().astype(dtype)})
        except Exception as error:
            raise UsageError(f"{path}: ONNX Runtime cannot run it: {first_line(error)}") from error
        other = torch.from_numpy(np.asarray(theirs, np.float32))
        other = other.permute(0, 3, 1, 2) if last else other
        if other.shape != own.shape:
            return float("inf")
        span = config.output_range[1] - config.output_range[0]
        worst = max(worst, float((own - other).abs().max()) * 255 / span)
    return worst
