"""Messages about wrong command lines, and text from files that reaches the terminal."""

import re
import shutil

import numpy as np
import pytest
import torch
from skimage import data as samples

from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import read_header, save_model
from tests.helpers import nearest_onnx, picture, tiny_edsr
from tests.modelfiles.test_checkpoints import basicsr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["upscale", "x", "--width", "2.5"], "--width 2.5: must be a whole number"),
        (["upscale", "x", "--depth", "third"], "--depth third: must be one of 'full', 'half'"),
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


def test_commands_take_a_run_folder_for_its_model(srq, tiny_model, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tiny_model, run / "model.safetensors")
    write_rgb(tmp_path / "data/Set5/HR/a.png", picture(40, 40))
    lr, data = tmp_path / "a.png", ("--bench", "Set5", "--data-root", tmp_path / "data")
    write_rgb(lr, picture(12, 17))
    for arguments in (
        ("info", run),
        ("pack", run, "-o", tmp_path / "p.safetensors"),
        ("upscale", lr, "--model", run, "--runtime", "torch"),
        ("eval", run, *data, "--record"),
    ):
        code, _, err = srq(*arguments)
        assert (code, err) == (0, "")
    assert [s.bench for s in read_header(run / "model.safetensors").card.scores] == ["Set5"]
    (run / "model.safetensors").unlink()
    for arguments in (("info", run), ("export", run), ("bench", run), ("eval", run, *data)):
        code, out, err = srq(*arguments)
        assert (code, out) == (2, "")
        assert err == f"srq: error: {run} is no run folder: model.safetensors is not there\n"


def test_what_is_below_bicubic_is_asked_about(srq, tiny_model, tmp_path):
    write_rgb(tmp_path / "data/Set5/HR/a.png", np.ascontiguousarray(samples.coffee()[:80, :80]))
    data = ("--bench", "Set5", "--data-root", tmp_path / "data")
    torch.save(basicsr(tiny_edsr()), tmp_path / "net.pth")
    graph = nearest_onnx(tmp_path / "n.onnx")
    for model, question in (
        (graph, "n.onnx is below bicubic: does it take and give RGB 0..1? Put what BGR or 0..255"),
        (tmp_path / "net.pth", "net is below bicubic: was its residual factor or range another"),
    ):
        code, _, err = srq("eval", model, *data)
        assert code == 0
        assert f"srq: warning: {question}" in err
    code, _, err = srq("eval", tiny_model, *data)
    assert (code, err) == (0, "")  # srq's own may be trained too little


@pytest.mark.parametrize("command", [[], ["data"], ["recipes"], ["runs"]])
def test_the_list_of_commands_is_not_cut(srq, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    listed = srq(*command, "--help")[1].partition("Commands:\n")[2]
    assert listed
    assert "..." not in listed
    assert max(map(len, listed.splitlines())) <= 80


def test_help_of_bench_shows_its_options(srq):
    out = srq("bench", "--help")[1]
    for word in ("--size", "--runs", "--threads", "[MODEL]...", "'srq bench train'"):
        assert word in out


@pytest.mark.parametrize("command", ["eval", "export", "quantize", "bench", "pretrain", "distill"])
def test_usage_has_plain_brackets(srq, command):
    usage = srq(command, "--help")[1].partition("\n\n")[0]
    assert "[[" not in usage
    assert "]]" not in usage


@pytest.mark.parametrize("value", ["gpu", "0", "cuda:x", "tpu", ""])
@pytest.mark.parametrize("command", [["upscale", "x"], ["eval"], ["pretrain", "edsr"]])
def test_devices_are_told(srq, command, value):
    line = f"srq: error: --device {value}: must be auto, cpu, cuda or cuda:N, as cuda:1\n"
    assert srq(*command, "--device", value) == (2, "", line)


@pytest.mark.parametrize("value", ["99999999999999999999", "5000", "1e20", "0", "-1"])
@pytest.mark.parametrize(
    "command", [["upscale", "x"], ["eval"], ["bench"], ["bench", "train"], ["quantize"], ["export"]]
)
def test_threads_have_a_limit(srq, command, value):
    code, out, err = srq(*command, "--threads", value)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"srq: error: --threads {value}: must be .*\(see --help\)\n", err)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["bench", "--runs", "9" * 20], f"--runs {'9' * 20}: must be at most 10000"),
        (["bench", "train", "--steps", "9" * 20], f"--steps {'9' * 20}: must be at most 10000"),
        (
            ["bench", "--size", "99999x99999"],
            "--size 99999x99999: must be at most 4,194,304 pixels",
        ),
        (["bench", "train", "--batch", "9" * 20], f"--batch {'9' * 20}: must be 1 to 65536"),
        (["bench", "train", "--data", "2020"], "no training pictures in "),
        (
            ["quantize", "--method", "pams", "--iters", "9" * 20],
            f"--iters {'9' * 20}: must be 0 to",
        ),
        (["pretrain", "edsr", "--set", "recipe.task=distill"], "--set recipe.task=distill: recipe"),
    ],
)
def test_numbers_of_any_size_are_one_line(srq, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    code, out, err = srq(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"srq: error: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [["bench"], ["info", "fast"]])
def test_very_long_values_lose_their_middle_in_errors(srq, command):
    code, out, err = srq(*command, "--size", f"{'9' * 5000}x1")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"srq: error: --size 9+ \.\.\. 9+x1: must be WIDTHxHEIGHT[^\n]*\n", err)
    assert len(err) < 1000
