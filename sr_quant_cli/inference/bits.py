"""Counted bits of a network: feature average bits (FAB) of the papers, and bit operations."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.imaging.tiling import Span
from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.networks.base import Network
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.quant.cost import FLOAT_BITS, Operation, bitops
from sr_quant_cli.quant.dynamic import dynamic_quantizers
from sr_quant_cli.quant.sites import TENSORS, Kind

IN_BLOCKS: tuple[Kind, ...] = ("block_first", "block", "linear")
"""kinds of sites over whose inputs FAB is the mean, for networks with fixed bits"""


@dataclass(frozen=True)
class Cost:
    """Cost of a picture, or the mean over several.

    Attributes
    ----------
    fab
        Feature average bits: mean bits of the counted inputs, over the tiles.
    bitops
        Bit operations of all tiles as they ran, overlap included.
    bitops_once
        Bit operations without overlap: for every tile only the share that is kept.
    """

    fab: float
    bitops: float
    bitops_once: float

    @classmethod
    def mean(cls, costs: Sequence[Self]) -> Self:
        """Mean over pictures."""
        return cls(*np.mean([astuple(cost) for cost in costs], axis=0).tolist())


class BitMeter:
    """Counter of the bits of a network, chosen or fixed.

    Parameters
    ----------
    network
        The network of the file: a folded copy has fewer multiply-accumulates.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._operations = lru_cache(maxsize=64)(self._count)
        self._layers = sum(site.kind not in TENSORS for site in network.sites())
        counted = self._chosen_inputs() if self.dynamic else self._fixed_inputs()
        self._fixed = float(np.mean(list(counted.values()))) if counted else float(FLOAT_BITS)
        kinds = {site.path: site.kind for site in network.sites()}
        self._kinds = list(dict.fromkeys(kinds[path] for path in counted))
        self._inputs = len(counted)

    @property
    def dynamic(self) -> bool:
        """True if the bits follow the picture."""
        return self._network.bit_provider is not None

    @property
    def candidates(self) -> tuple[int, ...]:
        """Bits that the network chooses from, ascending; empty for fixed bits."""
        provider = self._network.bit_provider
        return () if provider is None else provider.candidates

    @property
    def counted(self) -> str:
        """Description of the inputs that FAB covers."""
        if not self._inputs:
            return "no input in its blocks is quantized: 32 bits"
        return (
            f"mean bits of {self._inputs} inputs ({', '.join(self._kinds)}) of {self._layers} "
            "layers; weights, block_out and float layers are not counted"
        )

    def cost(self, tiles: Sequence[TileResult]) -> Cost:
        """Count the tiles of one picture."""
        fab = [self._fixed if tile.bits is None else float(tile.bits.mean()) for tile in tiles]
        whole = [self._bitops(tile) for tile in tiles]
        once = [ops * _kept(tile) for ops, tile in zip(whole, tiles, strict=True)]
        return Cost(float(np.mean(fab)), sum(whole), sum(once))

    def _bitops(self, tile: TileResult) -> float:
        operations = self._operations(_size(tile.rows), _size(tile.columns))
        if tile.bits is None:
            return bitops(operations)
        return bitops_of_choice(operations, self._sources(), tile.bits)

    def _count(self, height: int, width: int) -> tuple[Operation, ...]:
        return tuple(count_operations(self._network, height, width))

    def _sources(self) -> dict[str, int]:
        """Layers whose input has chosen bits, and the index of these bits among the choices.

        The first use of a layer that is used several times stands for all of them.
        """
        provider = self._network.bit_provider
        assert provider is not None
        # On a graph the provider itself has chosen nothing: every input has bits there.
        uses = Counter(name.partition("#")[0] for name in provider.choices)
        places, place = {}, 0
        for path in dynamic_quantizers(self._network):
            if uses[path] or not uses:
                places[path] = place
                place += uses[path] or 1
        followed = followed_inputs(self._network)
        return {layer: places[path] for layer, path in followed.items() if path in places}

    def _chosen_inputs(self) -> dict[str, int]:
        return {path: q.bits for path, q in dynamic_quantizers(self._network).items()}

    def _fixed_inputs(self) -> dict[str, int]:
        """Bits of the quantized inputs of layers in blocks, by the path of the layer."""
        plan = self._network.quantization.sites if self._network.quantization else ()
        widths = {entry.site.path: entry.input_bits for entry in plan}
        inputs = {}
        for entry in plan:
            path = entry.site.path
            if entry.site.kind in IN_BLOCKS:
                # A float input may come from a tensor site that is quantized.
                float_ = entry.input_bits == FLOAT_BITS
                inputs[path] = widths[entry.source] if float_ and entry.source else widths[path]
        return {path: width for path, width in inputs.items() if width != FLOAT_BITS}


def bitops_of_choice(
    operations: Sequence[Operation], sources: dict[str, int], bits: NDArray[np.float32]
) -> float:
    """Bit operations of a network some of whose inputs have chosen bits.

    Parameters
    ----------
    sources
        Index into ``bits`` of each operation whose input has chosen bits.
    bits
        ``[L]``
    """
    fixed = bitops(operation for operation in operations if operation.name not in sources)
    chosen = sum(
        2 * operation.macs * operation.weight_bits * float(bits[sources[operation.name]])
        for operation in operations
        if operation.name in sources
    )
    return fixed + chosen


def followed_inputs(network: Network) -> dict[str, str]:
    """Layers whose input has chosen bits, and the dynamic quantizer that these come from.

    It is the layer's own, or for a layer without one that of the tensor site in front of it.
    """
    dynamic = dynamic_quantizers(network)
    followed: dict[str, str] = {}
    for entry in network.quantization.sites if network.quantization else ():
        path, source = entry.site.path, entry.source
        if path in dynamic:
            source = path
        elif entry.input_bits != FLOAT_BITS and not entry.given:
            source = None
        if source in dynamic and entry.site.kind not in TENSORS:
            followed[path] = source
    return followed


def input_bits(network: Network) -> int:
    """Bits of the pictures that the first layer of a network computes with; 32: float."""
    quantization = network.quantization
    return FLOAT_BITS if quantization is None else quantization.sites[0].input_bits


def _size(span: Span) -> int:
    return span.stop - span.start


def _kept(tile: TileResult) -> float:
    """Share of the pixels of a tile that is kept."""
    rows, columns = tile.rows, tile.columns
    kept = (rows.last - rows.first) * (columns.last - columns.first)
    return kept / (_size(rows) * _size(columns))
