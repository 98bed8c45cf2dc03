"""What is told of wrong words on the command line, and of text that files bring to the terminal."""

import re

import pytest

from sr_quant_cli.networks.modelfile import Card, save_model
from tests.helpers import tiny_edsr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["upscale", "x", "--scale", "2.5"], "--scale 2.5: must be a whole number"),
        (["upscale", "x", "--runtime", "cuda"], "--runtime cuda: must be one of 'auto', 'torch'"),
        (["upscale", "x", "--threads", "0"], "--threads 0: must be 1 or more"),
        (["upscale", "x", "--scale"], "--scale: needs a value"),
        (["upscale", "x", "--patchwise=3"], "--patchwise: takes no value"),
        (["upscale", "x", "--runtim", "torch"], "--runtim: no such option, did you mean --runtime"),
        (["upscale"], "IMAGE|FOLDER is missing"),
        (["pretrain"], "NETWORK is missing"),
        (["distill", "x"], "--teacher is missing"),
        (["import", "x", "--w", "9"], "--w 9: must be at most 8"),
        (["nonsense"], "no such command 'nonsense'"),
    ],
)
def test_the_command_line_is_told_in_plain_words(srq, arguments, line):
    code, out, err = srq(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"srq: error: {line}")
    assert err.endswith("(see --help)\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["upscale"], ["bench"], ["data"], ["data", "get"]])
def test_h_is_help(srq, command):
    assert srq(*command, "-h") == srq(*command, "--help")
    assert srq(*command, "-h")[0] == 0


LONG = "a" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ["upscale", LONG],
        ["upscale", ".", "--model", LONG],
        ["eval", LONG],
        ["eval", "--bench", LONG],
        ["eval", "--bench", "Set5", "--data-root", LONG],
        ["info", LONG],
        ["info", "MODEL", "--json", LONG],
        ["pack", LONG, "-o", "b"],
        ["pack", "MODEL", "-o", LONG],
        ["import", LONG],
        ["export", LONG],
        ["export", "MODEL", "-o", f"{LONG}.onnx"],
        ["bench", LONG],
        ["bench", "train", "--data", LONG],
        ["quantize", LONG, "--method", "pams"],
        ["quantize", "--recipe", f"{LONG}.toml"],
        ["pretrain", "edsr", "--init", LONG],
        ["pretrain", "edsr", "--recipe", f"{LONG}.toml"],
        ["distill", LONG, "--teacher", "x"],
        ["runs", "list", LONG],
        ["runs", "show", LONG],
        ["recipes", "copy", "pretrain-edsr", f"{LONG}.toml"],
        ["recipes", "show", f"{LONG}.toml"],
        ["recipes", "methods", LONG],
        ["data", "check", "Set5", "--data-root", LONG],
        ["data", "make", "Test2K", "--from", LONG],
    ],
)
def test_a_path_that_is_too_long_is_told_in_one_line(
    srq, tiny_model, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    code, _, err = srq(*(tiny_model if word == "MODEL" else word for word in arguments))
    assert code in (1, 2)
    assert err.startswith("srq: error: ")
    assert err.count("\n") == 1


STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
EVIL = "\x1b]0;title\x07\x1b[31mred\r\u202egnp\x9b2J [bold]x"


def test_names_in_model_files_do_not_steer_the_terminal(srq, tmp_path):
    model = tmp_path / "\x1b[31mm.safetensors"
    save_model(model, tiny_edsr(), Card(name=EVIL, data=EVIL, licence=EVIL, source=EVIL))
    for arguments in (["info", model], ["pack", model, "-o", tmp_path / "\x1b[32mp.safetensors"]):
        code, out, err = srq(*arguments)
        assert (code, err) == (0, "")
        assert "\\x1b[3" in out
        assert not STEERING.search(out)


def test_names_in_errors_do_not_steer_the_terminal(srq, tmp_path):
    recipe = tmp_path / "\x1b[31mr.toml"
    recipe.write_text(
        '"\\u001b[31m\\u009b" = 1\n[recipe]\ntask = "pretrain"\nname = "\\u001b[31m"\n'
    )
    for arguments in (
        ["upscale", tmp_path / "\x1b[31m\x9b2Jnone.png"],
        ["pretrain", "\x1b[31m"],
        ["pretrain", "edsr", "--recipe", recipe],
        ["upscale", "x", f"--{EVIL}"],
        ["info", recipe],
        ["recipes", "show", "pretrain-edsr", "--set", f"{EVIL}=1"],
    ):
        code, out, err = srq(*arguments)
        assert (code, out) == (2, "")
        assert "\\x1b" in err
        assert not STEERING.search(err)
