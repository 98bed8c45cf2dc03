"""Layers of ``srq info --layers`` on the terminal."""

from math import isinf

from sr_quant_cli.commands.layers import RUNS, Layer, Layers
from sr_quant_cli.passes.statistics import OperandStatistics
from sr_quant_cli.quant.widths import describe
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


def print_layers(found: Layers) -> None:
    """Print a row for each operand of each layer."""
    measured = any(layer.drop is not None for layer in found.layers)
    headings = [
        *("layer", "kind", "M MACs", "ms", "operand", "width", "bounds", "clipped", "SQNR dB"),
        *(["loss dB"] if measured else []),
    ]
    rows = [row[: len(headings)] for layer in found.layers for row in _rows(layer)]
    print_table(headings, rows, texts=2)
    side = found.side
    say(
        f"measured on {found.photographs} photographs of {found.data}, central {side}x{side} LR "
        f"pixels; MACs: counted; ms: {side}x{side} in ONNX Runtime, fastest of {RUNS} runs; "
        "clipped: share of values outside the bounds; SQNR: signal to quantization noise, - where "
        "the values are levels already" + ("; loss: PSNR over all colours" if measured else "")
    )


def _rows(layer: Layer) -> list[list[str]]:
    own = [
        layer.path,
        layer.kind,
        f"{layer.macs_counted / 1e6:.1f}" if layer.macs_counted else "",
        "" if layer.ms is None else f"{layer.ms:.2f}",
    ]
    drop = "" if layer.drop is None else f"{layer.drop:z.3f}"
    cells = [_operand(each) for each in layer.operands] or [["", "float", "", "", ""]]
    rows = [[*own, *cells[0], drop]]
    rows += [["", "", "", "", *each, ""] for each in cells[1:]]
    return rows


def _operand(operand: OperandStatistics) -> list[str]:
    return [
        operand.operand,
        describe(operand.bits),
        f"{operand.lower:z.4g} .. {operand.upper:z.4g}",
        f"{operand.clipped:.2%}",
        "-" if isinf(operand.sqnr) else f"{operand.sqnr:z.1f}",
    ]
