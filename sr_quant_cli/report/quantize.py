"""Report of ``srq quantize`` on the terminal."""

from sr_quant_cli.commands.quantize_report import DeploymentReport
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say

_SHOWN = 10
"""Largest number of layers in float that are listed."""


def print_deployment(report: DeploymentReport) -> None:
    """Print quality, size and times before and after, and the layers that stay float."""
    drop = report.psnr_before - report.psnr_after
    part = f"central {report.crop_hr} pixels of " if report.crop_hr else ""
    say(
        f"PSNR {report.psnr_before:.3f} -> {report.psnr_after:.3f} dB, a drop of {drop:z.3f} "
        f"(protocol {report.protocol}, {part}{report.photographs} held-out photographs)"
    )
    say(f"file {report.bytes_before:,} -> {report.bytes_after:,} bytes")
    baseline = report.times[0].ms
    rows = []
    for time in report.times:
        if time.ms is None:
            rows.append((time.runtime, time.network, "-", time.problem))
        else:
            faster = "" if baseline is None else f"{baseline / time.ms:.2f}"
            rows.append((time.runtime, time.network, f"{time.ms:.1f}", faster))
    title = f"{report.side}x{report.side} pixels"
    print_table(("runtime", "network", "ms", "times as fast"), rows, title, texts=2)
    left = report.float_layers
    say(f"{report.layers - len(left)} of {report.layers} layers and products are quantized")
    for path, reason in left[:_SHOWN]:
        say(f"  {path} stays float: {reason}")
    if len(left) > _SHOWN:
        say(f"  and {len(left) - _SHOWN} others")
