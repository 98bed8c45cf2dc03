"""What a model file holds, in plain values."""

import re
from pathlib import Path
from typing import Any

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.named import is_model_file, load_at_depth
from sr_quant_cli.networks.base import Depth, Network
from sr_quant_cli.networks.counting import count_macs, float_twin
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.quant.cost import bitops, operand_shares, operation_ratio, storage_bytes
from sr_quant_cli.quant.dynamic import dynamic_quantizers
from sr_quant_cli.quant.plan import plan_sites


def describe(
    path: Path, output_size: str, depth: Depth = "full", scale: int | None = None
) -> dict[str, Any]:
    """Describe a model file.

    Parameters
    ----------
    output_size
        ``WIDTHxHEIGHT`` of the picture that operations are counted for.
    depth
        At which operations are counted.
    scale
        Which to take of a checkpoint that holds several.

    Raises
    ------
    UsageError
        The file is no model or has no such depth, or the size is no size.
    """
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", output_size)
    network, header = load_at_depth(path, depth, scale)
    scale = network.scale
    if match is None or min(map(int, match.groups())) < scale:
        raise UsageError(f"--size {output_size}: must be WIDTHxHEIGHT, as 1280x720")
    width, height = (int(side) for side in match.groups())
    macs = count_macs(network, height // scale, width // scale)
    plain = float_twin(network)
    return {
        **_quantization(network, plain, height // scale, width // scale),
        "file": str(path),
        "bytes": path.stat().st_size,
        "format": header.format,
        "version": header.version if is_model_file(path) else None,
        "network": header.network,
        "scale": scale,
        "input": header.input,
        "output": header.output,
        "parameters": plain.parameter_count(),
        "receptive_radius": network.receptive_radius,
        "depths": list(network.depths),
        "depth": depth,
        "output_size": output_size,
        "macs_counted": macs,
        "macs_per_output_pixel_counted": round(macs / (height * width), 1),
        "card": header.card.model_dump(),
    }


def _quantization(network: Network, plain: Network, height: int, width: int) -> dict[str, Any]:
    """What was quantized and what it saves, counted for an LR picture of that size.

    ``plain`` is the same network without its quantizers.
    """
    how = network.quantization
    if how is None:
        return {"quantization": None}
    operations = count_operations(network, height, width)
    total = sum(operation.macs for operation in operations)
    weights = sum(operation.weights for operation in operations)
    shares = operand_shares(operations)
    macs = {operation.name: operation.macs for operation in operations}
    plan = plan_sites(plain.sites(), how.placement, how.bits)
    dynamic = dynamic_quantizers(network)
    candidates = list(network.bit_provider.candidates) if network.bit_provider else []
    return {
        "quantization": {
            "method": how.method.model_dump(),
            "w": how.bits.w,
            "a": how.bits.a,
            "mac_shares_counted": {
                "low": round(shares.low, 4),
                "int8": round(shares.int8, 4),
                "float": round(shares.float, 4),
            },
            "bitops_counted": bitops(operations),
            "storage_bytes_counted": storage_bytes(operations, plain.parameter_count() - weights),
            "operations_saved_counted": round(operation_ratio(operations), 4),
            "sites": [
                {
                    "path": entry.site.path,
                    "kind": entry.site.kind,
                    "input_bits": entry.input_bits,
                    "candidates": candidates if entry.site.path in dynamic else [],
                    "weight_bits": entry.weight_bits,
                    "mac_share_counted": round(macs.get(entry.site.path, 0) / total, 5),
                }
                for entry in plan
            ],
        }
    }
