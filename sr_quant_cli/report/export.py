"""Results of ``srq export`` on the terminal."""

import math

from sr_quant_cli.commands.export import Exported
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


def print_export(exported: Exported) -> None:
    """Print the comparison with the model, the kernels, all changes, and the file."""
    deployed, found = exported.deployed, exported.verification
    changed = any(picture.psnr_changed is not None for picture in found.pictures)
    headings = ["picture", "LR size", "model", *["as changed"] * changed, "graph", "between them"]
    rows = [
        (
            picture.name,
            picture.size,
            f"{picture.psnr_model:.3f}",
            *([] if picture.psnr_changed is None else [f"{picture.psnr_changed:.3f}"]),
            f"{picture.psnr_graph:.3f}",
            "equal" if math.isinf(picture.psnr_between) else f"{picture.psnr_between:.2f}",
            f"{picture.max_difference} of 255",
        )
        for picture in found.pictures
    ]
    title = f"{deployed.traits.name} and its graph, PSNR in dB"
    print_table([*headings, "largest difference"], rows, title, texts=2)
    last = "the last two" if changed else "them"
    say(f"protocol {found.protocol}; between {last}: RGB, all pixels")
    say(
        f"{found.runtime} ran {found.kernels.integer} convolutions and products on integers, "
        f"{found.kernels.floating} in float"
    )
    if found.kernels.integer < deployed.integer_layers:
        say(
            f"note: {deployed.integer_layers} layers at full depth have integer operands; "
            f"{found.runtime} may run in float what gives a float output"
        )
    for note in deployed.notes:
        say(f"note: {note}")
    if changed:
        say(f"note: what was changed costs {found.cost:.3f} dB, mean of the pictures")
    if exported.bytes:
        say(f"{exported.source} -> {exported.path}  {exported.bytes:,} bytes")
