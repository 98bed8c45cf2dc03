"""Results of ``srq info`` on the terminal."""

from sr_quant_cli.commands.info import ModelInfo, QuantizationInfo
from sr_quant_cli.quant.widths import describe
from sr_quant_cli.report.card import card_lines, print_history, print_lines
from sr_quant_cli.report.table import print_table


def print_info(info: ModelInfo) -> None:
    """Print the contents of a model file, without the recipes of its training history."""
    network, card = info.network, info.card
    several = len(info.depths) > 1
    at = f" at {info.depth} depth" if several else ""
    config = ", ".join(f"{key} {value}" for key, value in network.items() if key != "name")
    lines = {
        "file": f"{info.file}, {info.bytes:,} bytes",
        "name": card.name,
        # What the configuration of an imported network means is in its structure.
        "network": f"{network['name']} ({config})" if not info.structure else network["name"],
        "found": info.structure,
        "scale": str(info.scale),
        "parameters": f"{info.parameters:,}",
        "depths": ", ".join(info.depths) if several else "",
        "operations": (
            f"{info.macs_counted / 1e9:.1f} G multiply-accumulates for {info.output_size} out{at}, "
            f"{info.macs_per_output_pixel_counted:,} a pixel (counted)"
        ),
        "receptive field": f"{info.receptive_radius} LR pixels to each side",
        "input, output": info.input,
        **card_lines(card),
        "written by": f"srq {info.version}" if info.version else "",
    }
    print_lines(lines)
    if info.quantization is not None:
        _print_quantization(info.quantization)
    print_history(card)


def _print_quantization(quantization: QuantizationInfo) -> None:
    method = ", ".join(f"{key} {value}" for key, value in quantization.method.items())
    shares = quantization.mac_shares_counted
    lines = {
        "quantized by": f"{method}; w{quantization.w}a{quantization.a}",
        "operands": (
            f"{shares['low']:.1%} of multiply-accumulates low-bit, {shares['int8']:.1%} 8-bit, "
            f"{shares['float']:.1%} with a float operand (counted)"
        ),
        "bit operations": f"{quantization.bitops_counted / 1e12:.2f} T (counted)",
        "papers' savings": (
            f"{quantization.operations_saved_counted:.1%} of operations, by 2DQuant's rule "
            "(counted)"
        ),
        "papers' storage": f"{quantization.storage_bytes_counted:,.0f} bytes (counted)",
    }
    if quantization.exceptions:
        lines["own bits"] = f"{', '.join(quantization.exceptions)}; other sites as their kind"
    print_lines(lines)
    rows = [
        (
            site.path,
            site.kind,
            " ".join(map(str, site.candidates)) or _bits(site.input_bits),
            _bits(site.weight_bits),
            f"{site.mac_share_counted:.2%}" if site.mac_share_counted else "",
        )
        for site in quantization.sites
    ]
    print_table(("site", "kind", "input", "weight", "MACs (counted)"), rows, texts=4)


def _bits(bits: int) -> str:
    return {0: "", 32: "float"}[bits] if bits in (0, 32) else describe(bits)
