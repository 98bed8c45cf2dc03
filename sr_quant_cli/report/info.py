"""What a model file holds, in plain values and as text."""

import re
from pathlib import Path
from typing import Any

from sr_quant_cli.errors import UsageError
from sr_quant_cli.inference.models import load_at_depth
from sr_quant_cli.inference.prepared import is_model_file
from sr_quant_cli.networks.base import Depth, Network
from sr_quant_cli.quant.apply import count_operations, plan_sites
from sr_quant_cli.quant.cost import bitops, operand_shares, operation_ratio, storage_bytes
from sr_quant_cli.quant.dynamic import dynamic_quantizers
from sr_quant_cli.report.table import print_table
from sr_quant_cli.terminal import say


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
    macs = network.macs(height // scale, width // scale)
    plain = network.twin()
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
    plan = plan_sites(plain, how.placement, how.bits)
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


def _print_quantization(quantization: dict[str, Any]) -> None:
    method = ", ".join(f"{key} {value}" for key, value in quantization["method"].items())
    shares = quantization["mac_shares_counted"]
    lines = {
        "quantized by": f"{method}; w{quantization['w']}a{quantization['a']}",
        "operands": (
            f"{shares['low']:.1%} of multiply-accumulates low-bit, {shares['int8']:.1%} 8-bit, "
            f"{shares['float']:.1%} with a float operand (counted)"
        ),
        "bit operations": f"{quantization['bitops_counted'] / 1e12:.2f} T (counted)",
        "papers' savings": (
            f"{quantization['operations_saved_counted']:.1%} of operations, by 2DQuant's rule "
            "(counted)"
        ),
        "papers' storage": f"{quantization['storage_bytes_counted']:,.0f} bytes (counted)",
    }
    for key, value in lines.items():
        say(f"{key + ':':17}{value}")
    rows = [
        (
            site["path"],
            site["kind"],
            " ".join(map(str, site["candidates"])) or _bits(site["input_bits"]),
            _bits(site["weight_bits"]),
            f"{site['mac_share_counted']:.2%}" if site["mac_share_counted"] else "",
        )
        for site in quantization["sites"]
    ]
    print_table(("site", "kind", "input", "weight", "MACs (counted)"), rows, texts=4)


def _bits(bits: int) -> str:
    return {0: "", 32: "float"}.get(bits, f"{bits} bits")


def print_description(description: dict[str, Any]) -> None:
    """Print what ``describe`` returned, without the recipes of the training history."""
    network, card = description["network"], description["card"]
    several = len(description["depths"]) > 1
    at = f" at {description['depth']} depth" if several else ""
    config = ", ".join(f"{key} {value}" for key, value in network.items() if key != "name")
    lines = {
        "file": f"{description['file']}, {description['bytes']:,} bytes",
        "name": card["name"],
        "network": f"{network['name']} ({config})",
        "scale": description["scale"],
        "parameters": f"{description['parameters']:,}",
        "depths": ", ".join(description["depths"]) if several else "",
        "operations": (
            f"{description['macs_counted'] / 1e9:.1f} G multiply-accumulates for "
            f"{description['output_size']} out{at}, "
            f"{description['macs_per_output_pixel_counted']:,} a pixel (counted)"
        ),
        "receptive field": f"{description['receptive_radius']} LR pixels to each side",
        "input, output": description["input"],
        "imported from": card["source"],
        "trained on": card["data"],
        "licence": card["licence"],
        "written by": f"srq {description['version']}" if description["version"] else "",
    }
    for key, value in lines.items():
        if value != "":
            say(f"{key + ':':17}{value}")
    if description["quantization"]:
        _print_quantization(description["quantization"])
    for run in card["training"]:
        start = f" from {run['started_from']}" if run["started_from"] else ""
        psnr = run["validation_psnr"]
        info = run["recipe"].get("recipe")
        recipe = info.get("name") if isinstance(info, dict) else None
        say(
            f"{run['task'] + ':':17}{run['steps']} steps{start}, {run['seconds'] / 3600:.2f} h on "
            f"{run['device']} ({run['precision']}), {run['photographs']} photographs of "
            f"{run['data']}, recipe {recipe or 'unknown'}"
            + (f", validation {psnr:.2f} dB" if psnr is not None else "")
        )
    if card["scores"]:
        rows = [
            (
                score["bench"],
                score["protocol"],
                score["lr"],
                score["images"],
                score["border"],
                f"{score['psnr']:.2f}",
                f"{score['ssim']:.4f}",
            )
            for score in card["scores"]
        ]
        headings = ("set", "protocol", "LR", "pictures", "border", "PSNR (dB)", "SSIM")
        print_table(headings, rows, texts=3)
