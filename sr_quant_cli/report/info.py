"""Results of ``srq info`` on the terminal."""

from sr_quant_cli.commands.info import ModelInfo, QuantizationInfo
from sr_quant_cli.modelfiles.card import SetScore, TrainingRun
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


def print_info(info: ModelInfo) -> None:
    """Print the contents of a model file, without the recipes of its training history."""
    network, card = info.network, info.card
    several = len(info.depths) > 1
    at = f" at {info.depth} depth" if several else ""
    config = ", ".join(f"{key} {value}" for key, value in network.items() if key != "name")
    lines = {
        "file": f"{info.file}, {info.bytes:,} bytes",
        "name": card.name,
        "network": f"{network['name']} ({config})",
        "scale": str(info.scale),
        "parameters": f"{info.parameters:,}",
        "depths": ", ".join(info.depths) if several else "",
        "operations": (
            f"{info.macs_counted / 1e9:.1f} G multiply-accumulates for {info.output_size} out{at}, "
            f"{info.macs_per_output_pixel_counted:,} a pixel (counted)"
        ),
        "receptive field": f"{info.receptive_radius} LR pixels to each side",
        "input, output": info.input,
        "imported from": card.source,
        "trained on": card.data,
        "licence": card.licence,
        "written by": f"srq {info.version}" if info.version else "",
    }
    _print_lines({key: value for key, value in lines.items() if value})
    if info.quantization is not None:
        _print_quantization(info.quantization)
    for run in card.training:
        _print_run(run)
    if card.scores:
        _print_scores(card.scores)


def _print_lines(lines: dict[str, str]) -> None:
    for key, value in lines.items():
        say(f"{key + ':':17}{value}")


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
    _print_lines(lines)
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
    return {0: "", 32: "float"}.get(bits, f"{bits} bits")


def _print_run(run: TrainingRun) -> None:
    start = f" from {run.started_from}" if run.started_from else ""
    section = run.recipe.get("recipe")
    recipe = section.get("name") if isinstance(section, dict) else None
    psnr = "" if run.validation_psnr is None else f", validation {run.validation_psnr:.2f} dB"
    say(
        f"{run.task + ':':17}{run.steps} steps{start}, {run.seconds / 3600:.2f} h on {run.device} "
        f"({run.precision}), {run.photographs} photographs of {run.data}, "
        f"recipe {recipe or 'unknown'}{psnr}"
    )


def _print_scores(scores: list[SetScore]) -> None:
    rows = [
        (
            score.bench,
            score.protocol,
            score.lr,
            score.images,
            score.border,
            f"{score.psnr:.2f}",
            f"{score.ssim:.4f}",
        )
        for score in scores
    ]
    headings = ("set", "protocol", "LR", "pictures", "border", "PSNR (dB)", "SSIM")
    print_table(headings, rows, texts=3)
