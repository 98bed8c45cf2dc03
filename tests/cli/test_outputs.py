"""Outputs never replace an input, or a file that srq did not write."""

import json
from pathlib import Path

import pytest

from sr_quant_cli import __version__
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.recipe.pages import method_pages
from tests.helpers import picture


@pytest.fixture
def place(tiny_model, tmp_path, monkeypatch):
    """A working folder with a model, a photograph and a recipe."""
    monkeypatch.chdir(tmp_path)
    write_rgb(Path("p.png"), picture(12, 17))
    Path("r.toml").write_text("# mine\n[recipe]\n")
    Path("notes.txt").write_text("mine")
    Path("own.json").write_text('{"mine": 1}')
    return tmp_path


def contents():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


MODEL = "tiny.safetensors"
UPSCALE = ("upscale", "p.png", "--model", MODEL, "--runtime", "torch")


@pytest.mark.parametrize("taken", ["INPUT", "notes.txt", "own.json"])
@pytest.mark.parametrize(
    ("command", "given"),
    [
        (("info", MODEL), MODEL),
        (("eval", MODEL, "--bench", "Set5"), MODEL),
        (("export", MODEL), MODEL),
        (("bench", MODEL), MODEL),
        (UPSCALE, "p.png"),
        (("pretrain", "edsr", "--recipe", "r.toml"), "r.toml"),
        (("quantize", MODEL, "--method", "minmax"), MODEL),
        (("distill", MODEL, "--teacher", MODEL), MODEL),
        (("runs", "list"), "p.png"),
        (("data", "list"), "p.png"),
        (("recipes", "list"), "p.png"),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_a_report_never_replaces_what_is_none(srq, place, command, given, taken):
    path = given if taken == "INPUT" else taken
    before = contents()
    code, out, err = srq(*command, "--json", path)
    assert (code, out) == (2, "")  # before any work
    assert err == (
        f"srq: error: --json: {path} exists, and srq did not write it: choose another name\n"
    )
    assert contents() == before


def test_a_report_replaces_an_earlier_one(srq, place):
    for command in (("data", "list"), ("recipes", "list"), ("info", MODEL)):
        assert srq(*command, "--json", "report.json")[0] == 0
        assert json.loads(Path("report.json").read_text())["srq"] == __version__


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ((*UPSCALE, "-o", "p.png", "--overwrite"), "--output p.png: is an input of this command"),
        (
            ("pack", MODEL, "-o", MODEL, "--overwrite"),
            f"--output {MODEL}: is an input of this command",
        ),
        (
            ("import", MODEL, "-o", MODEL, "--overwrite"),
            f"--output {MODEL}: is an input of this command",
        ),
        (
            (*UPSCALE, "-o", "q.png", "--json", "q.png"),
            "--json q.png: is what --output writes, too",
        ),
        (
            ("export", MODEL, "-o", "q.onnx", "--json", "q.onnx"),
            "--json q.onnx: is what --output writes",
        ),
        (("runs", "show", ".", "-o", "q.png", "--json", "q.png"), "--json q.png: is what --output"),
    ],
)
def test_outputs_are_no_inputs_whatever_is_asked_for(srq, place, command, message):
    before = contents()
    code, out, err = srq(*command)
    assert (code, out) == (2, "")
    assert err.startswith(f"srq: error: {message}")
    assert err.count("\n") == 1
    assert contents() == before


def test_the_weights_beside_a_graph_are_an_output_too(srq, place):
    Path(MODEL).rename("net.bin")
    before = contents()
    command = ("export", "net.bin", "--format", "openvino", "-o", "net.xml", "--overwrite")
    code, _, err = srq(*command)
    assert (code, err) == (2, "srq: error: --output net.bin: is an input of this command\n")
    assert contents() == before


def test_a_report_does_not_replace_another_output_of_the_command(srq, place):
    """The name of the other output is only known once the work is done."""
    code, out, err = srq(*UPSCALE, "--json", "p_x2.png")
    assert "p_x2.png" in out
    assert (code, err.count("\n")) == (2, 1)
    assert Path("p_x2.png").read_bytes().startswith(b"\x89PNG")


def test_curves_and_maps_of_others_are_kept(srq, place):
    Path("curves.png").write_text("mine")
    code, _, err = srq("runs", "show", ".")
    assert (code, err) == (
        2,
        "srq: error: curves.png exists, and srq did not write it: choose another name\n",
    )
    Path("maps/Set5").mkdir(parents=True)
    Path("p.png").rename("maps/Set5/p_bits.png")
    before = contents()
    code, out, err = srq("eval", MODEL, "--bench", "Set5", "--patchwise", "--bit-maps", "maps")
    assert (code, out) == (2, "")
    assert "p_bits.png exists, and srq did not write it" in err
    assert contents() == before


def test_built_in_recipes_alone_are_copied(srq, place):
    for name in ("../notes.txt", "./r.toml", "r.toml"):
        code, _, err = srq("recipes", "copy", name, "copy.toml")
        assert code == 2
        assert f"unknown recipe '{name}'" in err
    assert not Path("copy.toml").exists()


@pytest.mark.slow
def test_pages_of_methods_replace_such_pages_alone(srq, place):
    Path("README.md").write_text("# My project\n")
    before = contents()
    code, _, err = srq("recipes", "methods", ".")
    assert code == 2
    assert "README.md exists, and srq did not write it" in err
    assert contents() == before
    for _ in range(2):
        assert srq("recipes", "methods", "pages")[0] == 0
    assert Path("pages/README.md").read_text() == method_pages()["README.md"]
