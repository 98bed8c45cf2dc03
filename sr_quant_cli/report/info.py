"""What a model file holds, in plain values and as text."""

import re
from pathlib import Path
from typing import Any

from rich.table import Table

from sr_quant_cli.errors import UsageError
from sr_quant_cli.networks.modelfile import load_model
from sr_quant_cli.report.table import print_table


def describe(path: Path, output_size: str) -> dict[str, Any]:
    """Describe a model file.

    Parameters
    ----------
    output_size
        ``WIDTHxHEIGHT`` of the picture that operations are counted for.

    Raises
    ------
    UsageError
        The file is no model, or the size no size.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", output_size)
    network, header = load_model(path)
    scale = network.scale
    if match is None or min(map(int, match.groups())) < scale:
        raise UsageError(f"--size {output_size}: must be WIDTHxHEIGHT, as 1280x720")
    width, height = (int(side) for side in match.groups())
    macs = network.macs(height // scale, width // scale)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "format": header.format,
        "version": header.version,
        "network": header.network,
        "scale": scale,
        "input": header.input,
        "output": header.output,
        "parameters": network.parameter_count(),
        "receptive_radius": network.receptive_radius,
        "output_size": output_size,
        "macs_counted": macs,
        "macs_per_output_pixel_counted": round(macs / (height * width), 1),
        "card": header.card.model_dump(),
    }


def print_description(description: dict[str, Any]) -> None:
    """Print what ``describe`` returned, without the recipes of the training history."""
    network, card = description["network"], description["card"]
    config = ", ".join(f"{key} {value}" for key, value in network.items() if key != "name")
    lines = {
        "file": f"{description['file']}, {description['bytes']:,} bytes",
        "name": card["name"],
        "network": f"{network['name']} ({config})",
        "scale": description["scale"],
        "parameters": f"{description['parameters']:,}",
        "operations": (
            f"{description['macs_counted'] / 1e9:.1f} G multiply-accumulates for "
            f"{description['output_size']} out, "
            f"{description['macs_per_output_pixel_counted']:,} a pixel (counted)"
        ),
        "receptive field": f"{description['receptive_radius']} LR pixels to each side",
        "input, output": description["input"],
        "trained on": card["data"],
        "licence": card["licence"],
        "written by": f"srq {description['version']}",
    }
    for key, value in lines.items():
        if value != "":
            print(f"{key + ':':17}{value}")
    for run in card["training"]:
        start = f" from {run['started_from']}" if run["started_from"] else ""
        psnr = run["validation_psnr"]
        print(
            f"{run['task'] + ':':17}{run['steps']} steps{start}, {run['seconds'] / 3600:.2f} h on "
            f"{run['device']} ({run['precision']}), {run['photographs']} photographs of "
            f"{run['data']}, recipe {run['recipe']['recipe']['name']}"
            + (f", validation {psnr:.2f} dB" if psnr is not None else "")
        )
    if card["scores"]:
        table = Table("set", "pictures", "protocol", "border", "LR", "PSNR (dB)", "SSIM")
        for score in card["scores"]:
            table.add_row(
                score["bench"],
                str(score["images"]),
                score["protocol"],
                str(score["border"]),
                score["lr"],
                f"{score['psnr']:.2f}",
                f"{score['ssim']:.4f}",
            )
        print_table(table)
