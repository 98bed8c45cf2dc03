"""Cards of model files on the terminal."""

from sr_quant_cli.modelfiles.card import Card, SetScore, TrainingRun
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


def print_lines(lines: dict[str, str]) -> None:
    """Print values behind their labels, without empty ones."""
    for key, value in lines.items():
        if value:
            say(f"{key + ':':17}{value}")


def card_lines(card: Card) -> dict[str, str]:
    """Origin and licence of a model, with their labels."""
    return {"imported from": card.source, "trained on": card.data, "licence": card.licence}


def print_history(card: Card) -> None:
    """Print the training runs and scores of a model."""
    for run in card.training:
        _print_run(run)
    if card.scores:
        _print_scores(card.scores)


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
