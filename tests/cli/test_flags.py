"""Parameters in messages, shown as options of the command line."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from sr_quant_cli.cli.tree import app
from sr_quant_cli.cli.usage import _flags, in_flags
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture

PACKAGE = Path(__file__).parents[2] / "sr_quant_cli"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            str(UsageError("must be 2, 3 or 4", field="scale", value=5)),
            "--scale 5: must be 2, 3 or 4",
        ),
        (
            str(UsageError("only with `patchwise`", field="bit_map")),
            "--bit-map: only with --patchwise",
        ),
        ("no such file: `own`.png", "no such file: own.png"),
    ],
)
def test_parameters_are_named_as_options(message, shown):
    assert in_flags(str(message), get_command(app)) == shown


def test_a_parameter_is_the_same_option_in_all_commands():
    flags = {}
    for name, flag in _flags(get_command(app)):
        assert flags.setdefault(name, flag) == flag
    assert flags["max_time"] == "--max-time"


END_TO_END = [
    (["upscale", "p.png", "--scale", "17"], "--scale 17: must be more than 1, and at most 16"),
    (["upscale", "p.png", "--width", "9"], "17x12 already: --width 9 would not enlarge it"),
    (["upscale", "p.png", "--fit", "1000001x9"], "and at most 1000000 pixels a side"),
    (["upscale", "p.png", "--fit", "1000000x1000000"], "--fit 1000000x1000000 would enlarge it"),
    (["upscale", "p.png", "--fit", "900x900"], "--fit 900x900 would enlarge it 52.9 times"),
    (["upscale", "p.png", "--max-pixels", "3K"], "more than --max-pixels 3,000 allows"),
    (["upscale", "p.png", "--width", "90", "--fit", "9x9"], "--width and --fit: give only one"),
    (["upscale", "p.png", "--region", "9,9,9,9"], "--region 9,9,9,9: goes beyond the picture"),
    (["upscale", "p.png", "--overwrite", "--skip-existing"], "--skip-existing: cannot be combined"),
    (["upscale", "p.png", "--format", "bmp2"], "unknown format 'bmp2': known: png, jpg"),
    (["eval", "--scale", "9", "--bench", "Set5"], "--scale 9: must be one of 2, 3, 4"),
    (["upscale", "p.png", "--model", "MODEL", "--patch", "8"], "--patch 8: only with --patchwise"),
    (["eval", "MODEL", "--step", "8"], "--step 8: only with --patchwise"),
    (["upscale", "p.png", "--model", "MODEL", "-o", "p.png"], "--output p.png: is an input of"),
    (["runs", "show", ".", "-o", "q.png", "--json", "q.png"], "--json q.png: is what --output wri"),
    (["data", "make", "Test2K", "--from", "none"], "--from none: no such folder"),
    (["data", "make", "Test2K", "--from", "."], "--from .: none of the pictures 1201 to 1300 of"),
    (["eval", "MODEL", "--bench", "Set5"], "name its root by --data-root or SRQ_DATA"),
    (["pretrain", "edsr", "--data", "none"], "name one with --data, or a set: sample"),
    (["upscale", "p.png", "--device", "cuda:99"], "--device cuda:99: "),
]


@pytest.mark.parametrize(("arguments", "message"), END_TO_END)
def test_errors_name_the_options_that_were_typed(
    srq, tiny_model, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SRQ_DATA", raising=False)
    write_rgb(Path("p.png"), picture(12, 17))
    given = [tiny_model.name if word == "MODEL" else word for word in arguments]
    code, out, err = srq(*given)
    assert (code, out) == (2, "")
    assert message in err
    assert "`" not in err
    assert err.count("\n") == 1


def texts(tree):
    """Yield the strings of a module that are not docstrings."""
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        constant = isinstance(node, ast.Constant) and id(node) not in statements
        if constant and isinstance(node.value, str):
            yield node.value


def test_options_are_named_by_the_command_line_alone():
    pages = [PACKAGE / "recipe/pages.py", PACKAGE / "recipe/reference.py"]
    typed = [
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.is_relative_to(PACKAGE / "cli") and path not in pages
        for text in texts(ast.parse(path.read_text(encoding="utf-8")))
        if re.search(r"(?<![\w-])--[a-z]", text)
    ]
    assert typed == []
