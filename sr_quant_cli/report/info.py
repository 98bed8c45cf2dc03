"""What a model file holds, on the terminal."""

from typing import Any

from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


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
