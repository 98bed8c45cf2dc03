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
    for column in ("model", "graph", "between them", "largest difference"):
        table.add_column(column, justify="right")
    for picture in found.pictures:
        between = "equal" if math.isinf(picture.psnr_between) else f"{picture.psnr_between:.2f}"
        table.add_row(
            picture.name,
            picture.size,
            f"{picture.psnr_model:.3f}",
            f"{picture.psnr_graph:.3f}",
            between,
            f"{picture.max_difference} of 255",
        )
    print_table(table)
    print(f"protocol {found.protocol}; between them: RGB, all pixels")
    print(
        f"{found.runtime} ran {found.integer_kernels} convolutions and products on integers, "
        f"{found.float_kernels} in float"
    )
    for note in deployed.notes:
        print(f"note: {note}")
