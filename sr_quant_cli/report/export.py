"""What ``srq export`` tells on the terminal."""

import math

from rich.table import Table

from sr_quant_cli.lowering.deploy import Deployed
from sr_quant_cli.lowering.verify import Verification
from sr_quant_cli.report.table import print_table


def print_export(deployed: Deployed, found: Verification) -> None:
    """Print the comparison with the model, the kernels, and what was changed or left in float."""
    table = Table(title=f"{deployed.facts.name} and its graph, PSNR in dB")
    for column in ("picture", "LR size"):
        table.add_column(column)
    changed = deployed.changed is not None
    columns = ["model", *["as changed"] * changed, "graph", "between them", "largest difference"]
    for column in columns:
        table.add_column(column, justify="right")
    for picture in found.pictures:
        between = "equal" if math.isinf(picture.psnr_between) else f"{picture.psnr_between:.2f}"
        table.add_row(
            picture.name,
            picture.size,
            f"{picture.psnr_model:.3f}",
            *([] if picture.psnr_changed is None else [f"{picture.psnr_changed:.3f}"]),
            f"{picture.psnr_graph:.3f}",
            between,
            f"{picture.max_difference} of 255",
        )
    print_table(table)
    last = "the last two" if changed else "them"
    print(f"protocol {found.protocol}; between {last}: RGB, all pixels")
    print(
        f"{found.runtime} ran {found.kernels.integer} convolutions and products on integers, "
        f"{found.kernels.floating} in float"
    )
    if found.kernels.integer < deployed.integer_layers:
        print(
            f"note: {deployed.integer_layers} layers at full depth have integer operands; "
            f"{found.runtime} may run in float what gives a float output"
        )
    for note in deployed.notes:
        print(f"note: {note}")
    if changed:
        print(f"note: what was changed costs {found.cost:.3f} dB, mean of the pictures")
