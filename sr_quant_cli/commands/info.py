"""``srq info``: the contents of a model file."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.loading import load
from sr_quant_cli.modelfiles.named import Named, identify
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.counting import count_macs, float_twin
from sr_quant_cli.networks.imported import Imported
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.quant.cost import (
    FLOAT_BITS,
    bitops,
    operand_shares,
    operation_ratio,
    storage_bytes,
)
from sr_quant_cli.quant.dynamic import dynamic_quantizers
from sr_quant_cli.quant.widths import level_count
from sr_quant_cli.system.choices import Depth


@dataclass(frozen=True)
class InfoRequest:
    """Request for ``info``.

    Attributes
    ----------
    model
        What ``identify`` finds a model by.
    size
        ``WIDTHxHEIGHT`` of the output picture for which operations are counted.
    scale
        Scale to take from a checkpoint that holds several.
    depth
        Depth at which operations are counted.
    """

    model: Named
    size: str = "1280x720"
    scale: int | None = None
    depth: Depth = "full"


@dataclass(frozen=True)
class SiteInfo:
    """A quantization site: bits of its operands (0: none, 32: float), share of all products."""

    path: str
    kind: str
    input_bits: int
    candidates: tuple[int, ...]
    """bits to choose from where they follow the picture"""
    weight_bits: int
    mac_share_counted: float
    input_levels: int | None
    """levels of the input; None: it is float, or not there"""
    weight_levels: int | None
    """levels of the weight; None: it is float, or not there"""


@dataclass(frozen=True)
class QuantizationInfo:
    """The quantization of a network, and what it saves."""

    method: dict[str, Any]
    w: int
    a: int
    mac_shares_counted: dict[str, float]
    """share of all products by the widest operand: low, int8 or float"""
    bitops_counted: float
    storage_bytes_counted: float
    operations_saved_counted: float
    sites: tuple[SiteInfo, ...]
    exceptions: tuple[str, ...]
    """paths of the sites whose bits differ from those of their kind"""


@dataclass(frozen=True)
class ModelInfo:
    """Contents of a model file; figures ending in ``_counted`` follow from shapes alone."""

    quantization: QuantizationInfo | None
    file: str
    bytes: int
    format: int
    version: str | None
    """version of srq that wrote the file; None: it is not srq's"""
    network: dict[str, Any]
    scale: int
    input: str
    output: str
    parameters: int
    receptive_radius: int
    structure: str
    """what was found in an imported graph; empty: the network is a built-in one"""
    depths: tuple[Depth, ...]
    depth: Depth
    output_size: str
    macs_counted: int
    macs_per_output_pixel_counted: float
    card: Card

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "card": self.card.model_dump()}


def info(request: InfoRequest) -> ModelInfo:
    """Describe a model file.

    Raises
    ------
    UsageError
        The file is no model or has no such depth, or the size is no size.
    """
    source = identify(request.model, request.scale)
    network, header = load(source, request.depth)
    scale = network.scale
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", request.size)
    if match is None or min(map(int, match.groups())) < scale:
        raise UsageError("must be WIDTHxHEIGHT, as 1280x720", field="size", value=request.size)
    width, height = (int(side) for side in match.groups())
    macs = count_macs(network, height // scale, width // scale)
    plain = float_twin(network)
    return ModelInfo(
        quantization=_quantization(network, plain, height // scale, width // scale),
        file=str(source.path),
        bytes=source.path.stat().st_size,
        format=header.format,
        version=header.version if source.is_model_file else None,
        network=header.network,
        scale=scale,
        input=header.input,
        output=header.output,
        parameters=plain.parameter_count(),
        receptive_radius=network.receptive_radius,
        structure=network.summary if isinstance(network, Imported) else "",
        depths=network.depths,
        depth=request.depth,
        output_size=request.size,
        macs_counted=macs,
        macs_per_output_pixel_counted=round(macs / (height * width), 1),
        card=header.card,
    )


def _quantization(
    network: Network, plain: Network, height: int, width: int
) -> QuantizationInfo | None:
    """Quantization of a network, counted for an LR picture of that size; ``plain`` has none."""
    quantization = network.quantization
    if quantization is None:
        return None
    operations = count_operations(network, height, width)
    total = sum(operation.macs for operation in operations)
    weights = sum(operation.weights for operation in operations)
    shares = operand_shares(operations)
    macs = {operation.name: operation.macs for operation in operations}
    dynamic = dynamic_quantizers(network)
    candidates = network.bit_provider.candidates if network.bit_provider else ()
    return QuantizationInfo(
        method=quantization.method.model_dump(),
        w=quantization.bits.w,
        a=quantization.bits.a,
        mac_shares_counted={
            "low": round(shares.low, 4),
            "int8": round(shares.int8, 4),
            "float": round(shares.float, 4),
        },
        bitops_counted=bitops(operations),
        storage_bytes_counted=storage_bytes(operations, plain.parameter_count() - weights),
        operations_saved_counted=round(operation_ratio(operations), 4),
        sites=tuple(
            SiteInfo(
                path=entry.site.path,
                kind=entry.site.kind,
                input_bits=entry.input_bits,
                candidates=tuple(candidates) if entry.site.path in dynamic else (),
                weight_bits=entry.weight_bits,
                mac_share_counted=round(macs.get(entry.site.path, 0) / total, 5),
                input_levels=_levels(entry.input_bits),
                weight_levels=_levels(entry.weight_bits),
            )
            for entry in quantization.sites
        ),
        exceptions=tuple(entry.site.path for entry in quantization.exceptions()),
    )


def _levels(bits: int) -> int | None:
    return None if bits in (0, FLOAT_BITS) else level_count(bits)
