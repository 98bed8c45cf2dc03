"""Results of ``srq compare`` on the terminal."""

from sr_quant_cli.commands.compare import Comparison
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


def print_comparison(found: Comparison) -> None:
    """Print the scores, the crop, and the path of the figure."""
    if found.protocol is not None:
        rows = [
            (row.model, f"{row.psnr:.2f} / {row.ssim:.4f}", row.runtime or "") for row in found.rows
        ]
        title = f"{found.image}, x{found.scale}, protocol {found.protocol}"
        print_table(("model", "PSNR / SSIM", "runtime"), rows, title)
    say(f"{found.image} -> {found.sheet}  crop {','.join(map(str, found.crop))}")
