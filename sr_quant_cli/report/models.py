"""Results of ``srq models`` on the terminal."""

from sr_quant_cli.commands.models import PICTURE, ModelList
from sr_quant_cli.modelfiles.catalog import NamedModel
from sr_quant_cli.quant.widths import describe
from sr_quant_cli.report.card import card_lines, print_history, print_lines
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


def print_models(found: ModelList) -> None:
    """Print a row for each model, and then what is wrong with others."""
    rows = [_row(model) for model in found.models if not model.problem]
    headings = ("name", "network", "scale", "bits", "bytes", "PSNR (dB)", "measured on", "ms")
    print_table(headings, rows, texts=2)
    for model in found.models:
        if model.problem:
            say(f"{model.name}: {model.problem}")
    say(f"ms: {PICTURE}")
    say(f"your models: {found.folder}")


def print_model(model: NamedModel) -> None:
    """Print what the header of a model's file says."""
    ms = model.milliseconds
    lines = {
        "name": model.name,
        "file": f"{model.path}, {model.bytes:,} bytes",
        "kind": {"graph": "graph", "checkpoint": "checkpoint of another project"}.get(
            model.kind, "srq model file"
        ),
        "network": model.network or "",
        "scale": "" if model.scale is None else str(model.scale),
        "bits": " ".join(filter(None, (model.bits, model.method and f"by {model.method}"))),
        "time here": "" if ms is None else f"{ms:.1f} ms ({PICTURE})",
        "written by": f"srq {model.version}" if model.version else "",
        **card_lines(model.card),
    }
    print_lines(lines)
    if model.sites:
        rows = [
            (path, _bits(bits.input) + ", dynamic" * bits.dynamic, _bits(bits.weight))
            for path, bits in model.sites
        ]
        print_table(("site", "input", "weight"), rows, texts=3)
    print_history(model.card)


def _row(model: NamedModel) -> tuple[str, ...]:
    score = model.score
    return (
        model.name,
        model.network or model.kind,
        "-" if model.scale is None else str(model.scale),
        model.bits or "-",
        f"{model.bytes:,}",
        "-" if score is None else f"{score.psnr:.2f}",
        "-" if score is None else f"{score.bench}, {score.protocol}",
        "-" if model.milliseconds is None else f"{model.milliseconds:.1f}",
    )


def _bits(bits: int | None) -> str:
    return "-" if bits is None else describe(bits)
