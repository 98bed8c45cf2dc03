"""From a network, float or quantized, to the graph that runtimes take."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import onnx

from sr_quant_cli.lowering.integer import lower
from sr_quant_cli.lowering.onnx import Io, least_side, to_onnx
from sr_quant_cli.lowering.spec import QuantSpec, freeze, reduce_range, snap
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import fold_exactly
from sr_quant_cli.runtimes.base import Facts
from sr_quant_cli.runtimes.torch import facts_of_network

Offsets = Literal["exact", "snap"]


@dataclass(frozen=True)
class Deployed:
    """A graph, and what became of the network in it."""

    model: onnx.ModelProto
    facts: Facts
    integer_layers: int
    """convolutions and matrix products that are on integers"""
    notes: tuple[str, ...]
    """what is float for some reason, and what was changed for the kernels' sake; a line each"""


def deploy(
    network: Network,
    name: str,
    io: Io,
    *,
    offsets: Offsets = "exact",
    full_range: bool = False,
    folded: bool = True,
) -> Deployed:
    """Make the graph of a network, which stays as it is.

    A float network is folded, exactly. Of a quantized one all is put on integers that can be.

    Parameters
    ----------
    offsets
        Of ranges that start at a real number: exact, by window sums and other biases at the border;
        or moved to a multiple of the step (snap), with which integers alone remain.
    full_range
        Keep weights of 8 bits that kernels of older processors would saturate with.
    folded
        False: keep the layers of a float network as they are.

    Raises
    ------
    torch.onnx.OnnxExporterError
        The network has operations that a graph does not.
    """
    notes: list[str] = []
    layers = 0
    if network.quantization is None:
        lowered = fold_exactly(network) if folded else deepcopy(network)
    else:
        spec = freeze(network)
        notes += spec.obstacles
        if offsets == "snap":
            spec = _told(spec, snap(spec), "moved to a multiple of its step", notes)
        if not full_range:
            spec = _told(spec, reduce_range(spec), "8-bit weights reduced to 7 bits", notes)
        lowered = lower(network, spec)
        layers = sum(site.on_integers for site in spec.sites)
    facts = facts_of_network(lowered, name, least_side(lowered))
    return Deployed(to_onnx(lowered, io), facts, layers, tuple(notes))


def _told(before: QuantSpec, after: QuantSpec, what: str, notes: list[str]) -> QuantSpec:
    changed = sum(a is not b for a, b in zip(before.sites, after.sites, strict=True))
    if changed:
        notes.append(f"{what} at {changed} of {len(after.sites)} sites")
    return after
