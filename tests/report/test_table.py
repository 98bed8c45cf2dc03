"""Tables on a terminal of 80 columns: nothing is cut, names are folded."""

import io
import re
import sys

import pytest

from sr_quant_cli.commands.bench_train import TrainTimings
from sr_quant_cli.commands.bench_upscale import UpscaleTiming, UpscaleTimings
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.recipe.schema import PretrainRecipe
from sr_quant_cli.report.bench import print_training_times, print_upscale_times
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import TerminalReporter
from sr_quant_cli.system.timing import Row

NAME = "edsr-baseline-x4-dbdc_pac-w4a4-full"
SCORE = "31.21 / 0.8797"


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Lines that were printed on a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")

    def lines():
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()

    return lines


def column(lines, start, end):
    """Text between two columns, without line breaks."""
    return "".join(line[start:end].strip() for line in lines)


def row(model, variant, psnr):
    return {
        **{"model": model, "variant": variant, "psnr": psnr, "median": 12.345, "minimum": 12.0},
        **{"speedup": 12.34, "integer_kernels": 137, "float_kernels": 11, "times": [1.0] * 7},
        **{"bitops_counted": 63e13, "steps_per_second": 0.081},
    }


MACHINE = {
    "device": "cpu",
    "processor": "A processor",
    "threads": 2,
    "torch": "2.13",
    "features": [],
}


@pytest.mark.parametrize(
    ("headings", "cells", "texts"),
    [
        (("model", "Set5 (5)", "Set14 (14)", "B100 (100)", "Urban100 (100)"), [SCORE] * 4, 1),
        (
            ("model", "set", "PSNR / SSIM", "FAB", "T BitOPs"),
            ["Urban100", SCORE, "5.2", "9 / 8"],
            2,
        ),
        (
            ("run", "task", "step", "loss", "best (dB)", "state", "written"),
            [f"quantize {NAME}", "12000 / 300000", "12.34", "28.12", "not started", "2026-01-01"],
            2,
        ),
        (
            (
                "picture",
                "size",
                "model",
                "as changed",
                "graph",
                "between them",
                "largest difference",
            ),
            ["101x73", "31.123", "31.120", "31.119", "58.11", "3 of 255"],
            2,
        ),
    ],
)
def test_tables_fit_and_lose_nothing(terminal, headings, cells, texts):
    print_table(headings, [[NAME, *cells], ["bicubic", *cells]], "a title", texts=texts)
    lines = terminal()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    text = "\n".join(lines)
    for heading in headings[texts:]:
        assert all(word in text for word in heading.split())
    for cell in cells[texts - 1 :]:
        assert all(text.count(part) >= 2 for part in cell.split(" / "))
    folded = lines[lines.index(next(line for line in lines if NAME[:12] in line)) :]
    width = 2 + max(len(NAME[:12]), len(folded[0].split()[0]))
    assert column(folded, 0, width).startswith(NAME)


def test_times_of_two_models_fit(terminal):
    times = Row("", 12.345, 12.0, 0.081, 12.34, [1.0] * 7)
    rows = [
        UpscaleTiming(*(model, variant, 320, 180, 2, times, psnr, 137, 11, 63 * 10**13, 0.9, 10**9))
        for model, variant, psnr in (
            (NAME, "torch fp32, folded", 48.21),
            (NAME, "onnxruntime fp32, folded", 48.21),
            (f"{NAME}-2", "openvino int8", None),
        )
    ]
    print_upscale_times(UpscaleTimings(tuple(rows), 4, MACHINE))
    lines = terminal()
    table = lines[: lines.index(next(line for line in lines if line.startswith("7 runs each")))]
    assert max(map(len, table)) <= 80
    assert sum("onnxruntime fp32, folded" in line for line in table) == 1
    assert sum("openvino int8" in line for line in table) == 1
    assert column(table, 0, 30).count(NAME) == 2
    assert not any("…" in line for line in table)


def test_times_of_training_fit(terminal):
    rows = [
        Row(name, 12.345, 12.0, 0.081, 12.34, [1.0] * 7)
        for name in ("plain", "srq fp32", "random tensors")
    ]
    recipe = load_recipe("pretrain-swinir_light", (), PretrainRecipe)
    print_training_times(TrainTimings(tuple(rows), recipe, "sample", 4, MACHINE, 1.0))
    lines = terminal()
    table = lines[: lines.index(next(line for line in lines if line.startswith("loader")))]
    assert max(map(len, table)) <= 80
    assert any("random tensors" in line for line in table)


def test_a_table_in_a_file_is_as_wide_as_it_needs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_table(["model", *["Set5 (5)"] * 8], [[NAME, *[SCORE] * 8]])
    assert any(
        line.count(SCORE) == 8 and NAME in line for line in capsys.readouterr().out.split("\n")
    )


def test_cells_are_neither_markup_nor_steer_the_terminal(capsys):
    print_table(["model [bold]"], [["[red]\x1b[31mx"]], "[i]title\x1b")
    out = capsys.readouterr().out
    assert "[red]\\x1b[31mx" in out
    assert "[i]title\\x1b" in out
    assert "\x1b" not in out


class Terminal(io.StringIO):
    """A terminal as wide as the environment says."""

    def isatty(self):
        return True


def test_a_training_s_bar_shows_loss_and_psnr_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with TerminalReporter().progress(300_000, "step", done=123_456) as bar:
        bar.show(loss="12.345", PSNR="28.12")
    last = terminal.getvalue().rstrip("\n").split("\r")[-1]
    assert len(last) <= 80
    assert last.startswith("123456/300000 |")
    assert last.endswith("loss=12.345, PSNR=28.12")
