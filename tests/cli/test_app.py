"""Commands as a user runs them, in a separate process where that matters."""

import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from itertools import takewhile

import pytest
from typer.main import get_command

from sr_quant_cli import __version__
from sr_quant_cli.cli.app import main
from sr_quant_cli.cli.tree import app
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from tests.helpers import nearest_onnx, picture, ranked_quantsr_c
from tests.test_docs import commands, parse


def every_command(command, *names):
    """Yield the commands below one of Typer's and itself, each with its names."""
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, *names, name)


EVERY = dict(every_command(get_command(app)))
LEAVES = [names for names, command in EVERY.items() if not hasattr(command, "commands")]


def test_help_and_version_do_not_import_torch():
    code = """
import contextlib, io, json, sys
from sr_quant_cli.cli.app import main
for arguments in json.load(sys.stdin):
    sys.argv = ["srq", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, (arguments, ended.code)
    assert shown.getvalue(), arguments
    heavy = {"torch", "numpy", "rich", "pyvips", "matplotlib"} & set(sys.modules)
    assert not heavy, (arguments, heavy)
print("all")
"""
    given = [["--version"], *[[*names, "--help"] for names in EVERY]]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("all\n", 0), done.stderr


@pytest.mark.parametrize("names", LEAVES, ids=" ".join)
def test_every_command_has_examples_that_parse(srq, names):
    code, out, _ = srq(*names, "--help")
    assert code == 0
    examples = re.search(r"^ +Examples?:\n(.*?)^$", out, re.MULTILINE | re.DOTALL)
    assert examples
    typed = commands(textwrap.dedent(examples[1]))
    words = " ".join(("srq", *names)).removesuffix(" upscale" if names[0] == "bench" else "")
    assert any(" ".join(command).startswith(words) for command in typed)
    for command in typed:
        parse(list(takewhile(lambda word: word != ">", command[1:])))


@pytest.mark.parametrize("names", EVERY, ids=" ".join)
def test_every_command_refuses_nonsense_in_one_line(srq, names):
    code, out, err = srq(*names, "--nonsense")
    assert (code, out) == (2, "")
    assert err.startswith("srq: error: --nonsense: no such option")
    assert err.count("\n") == 1


def test_version(srq):
    assert srq("--version") == (0, f"srq {__version__}\n", "")


def test_bare_srq_shows_help(srq):
    code, out, _ = srq()
    assert code == 2
    assert "upscale" in out


def test_upscale_writes_picture_and_report(srq, tiny_model, tmp_path):
    write_rgb(tmp_path / "a.png", picture(12, 17))
    code, out, err = srq(
        *("upscale", tmp_path / "a.png", "--model", tiny_model, "--runtime", "torch"),
        *("--json", tmp_path / "r.json"),
    )
    assert (code, err) == (0, "")
    assert "a_x2.png" in out
    assert read_rgb(tmp_path / "a_x2.png").shape == (24, 34, 3)
    (entry,) = json.loads((tmp_path / "r.json").read_text())["pictures"]
    assert entry["status"] == "done"
    assert (entry["width"], entry["height"]) == (34, 24)


def test_a_batch_with_a_failure_exits_1_and_names_it(srq, tiny_model, tmp_path):
    folder = tmp_path / "in"
    write_rgb(folder / "a.png", picture(12, 17))
    (folder / "b.png").write_text("no picture")
    command = ("upscale", folder, "--model", tiny_model, "--runtime", "torch")
    code, _, err = srq(*command, "--json", tmp_path / "r.json")
    assert code == 1
    assert err == "srq: error: 1 of 2 failed: b.png\n"
    statuses = [p["status"] for p in json.loads((tmp_path / "r.json").read_text())["pictures"]]
    assert statuses == ["done", "failed"]


def test_eval_prints_table_protocol_and_json(srq, tiny_model, tmp_path):
    write_rgb(tmp_path / "data/Set5/HR/a.png", picture(40, 40))
    code, out, _ = srq(
        *("eval", tiny_model, "--bench", "Set5", "--data-root", tmp_path / "data"),
        *("--json", tmp_path / "e.json", "--record"),
    )
    assert code == 0
    for expected in (
        "bicubic",
        "tiny",
        "Set5 (1)",
        "protocol matlab",
        "border 2",
        "LR made by bicubic",
    ):
        assert expected in out
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["bicubic", "tiny"]
    assert [row["runtime"] for row in rows] == [None, "torch"]
    code, out, _ = srq("info", tiny_model, "--json", tmp_path / "i.json")
    assert code == 0
    info = json.loads((tmp_path / "i.json").read_text())
    assert info["card"]["scores"][0]["psnr"] == rows[1]["psnr"]
    assert info["bytes"] == tiny_model.stat().st_size
    assert "multiply-accumulates" in out


def test_pretrain_runs_on_the_sample_photographs(srq, tmp_path):
    code, out, _ = srq(
        *("pretrain", "edsr", "--scale", 2, "--data", "sample", "--run", tmp_path / "run"),
        *("--set", "network.n_blocks=1", "--set", "network.n_feats=4", "--set", "train.iters=2"),
        *("--set", "train.batch=1", "--set", "data.patch_hr=32", "--json", tmp_path / "p.json"),
    )
    assert code == 0
    assert "step 2 of 2" in out
    report = json.loads((tmp_path / "p.json").read_text())
    assert report["complete"]
    assert (tmp_path / "run/model.safetensors").is_file()


def test_bench_train_prints_and_writes_its_times(srq, tmp_path):
    code, out, _ = srq(
        *("bench", "train", "--scale", 2, "--batch", 1, "--patch", 8, "--steps", 2),
        *("--set", "network.n_blocks=1", "--set", "network.n_feats=4", "--precision", "fp32"),
        *("--json", tmp_path / "b.json"),
    )
    assert code == 0
    for expected in ("plain", "srq fp32", "random tensors", "loader: ", "LR patch 8", "thread"):
        assert expected in out
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 3


def test_recipes_are_listed_shown_and_copied(srq, tmp_path):
    code, out, _ = srq("recipes", "list", "--json", tmp_path / "l.json")
    assert code == 0
    names = [entry["name"] for entry in json.loads((tmp_path / "l.json").read_text())["recipes"]]
    assert "pretrain-edsr" in names
    assert all(name in out for name in names)
    code, out, _ = srq("recipes", "show", "pretrain-edsr", "--set", "train.iters=7")
    assert "iters = 7" in out
    target = tmp_path / "my.toml"
    assert srq("recipes", "copy", "pretrain-edsr", target)[0] == 0
    code, _, err = srq("recipes", "copy", "pretrain-edsr", target)
    assert code == 2
    assert "--overwrite" in err


def test_pack_halves_and_labels(srq, tiny_model, tmp_path):
    target = tmp_path / "h.safetensors"
    code, _, _ = srq("pack", tiny_model, "-o", target, "--half", "--name", "other")
    assert code == 0
    assert target.stat().st_size < tiny_model.stat().st_size
    assert "other" in srq("info", target)[1]
    assert srq("pack", tiny_model, "-o", target)[0] == 2


IN_TORCH = ("--model", "MODEL", "--runtime", "torch")
WRONG = [
    (["nonsense"], "nonsense"),
    (["upscale"], "IMAGE|FOLDER"),
    (["upscale", "none.png", *IN_TORCH], "no such picture or folder: none.png"),
    (["upscale", "TEXT", *IN_TORCH], "cannot read"),
    (["upscale", "TEXT", "--model", "TEXT"], "text.png is a text file. srq reads its own model"),
    (["upscale", "TEXT", "--model", "none.safetensors"], "no such model file"),
    (["upscale", "TEXT", "--scale", "1"], "must be more than 1, and at most 16"),
    (["upscale", "TEXT", "--scale", "nan"], "must be a factor such as 4, 2.5 or 1.5x1"),
    (["upscale", "TEXT", "--scale", "big"], "--scale"),
    (["upscale", "TEXT", "--model", "MODEL", "--precision", "int1"], "--precision"),
    (["eval", "MODEL", "--bench", "Set6"], "Set5"),
    (["eval", "MODEL", "--bench", "Set5", "--data-root", "nowhere"], "srq data get Set5"),
    (["eval", "MODEL", "--protocol", "mathlab"], "did you mean 'matlab'"),
    (["pretrain", "esdr"], "did you mean 'edsr'"),
    (["pretrain", "edsr", "--scale", "7"], "--scale 7"),
    (["pretrain", "edsr", "--set", "train.itres=1"], "did you mean train.iters?"),
    (
        ["pretrain", "edsr", "--data", "nowhere"],
        "nowhere: there is no such folder; name one with --data",
    ),
    (["bench", "train", "--network", "esdr"], "did you mean 'edsr'"),
    (["bench", "train", "--steps", "0"], "--steps"),
    (["bench", "train", "--precision", "int8"], "--precision"),
    (
        ["bench", "train", "--data", "nowhere"],
        "nowhere: there is no such folder; name one with --data",
    ),
    (["info", "TEXT"], "text.png is a text file"),
    (["info", "MODEL", "--size", "huge"], "WIDTHxHEIGHT"),
    (["recipes", "show", "edsr-pretrain"], "unknown recipe"),
    (["data", "get", "Set6"], "Set5"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_usage_is_one_line_and_exit_2(
    srq, tiny_model, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture, no model")
    names = {"MODEL": tiny_model, "TEXT": "text.png"}
    before = sorted(tmp_path.rglob("*"))
    code, out, err = srq(*(names.get(argument, argument) for argument in arguments))
    assert code == 2
    assert out == ""
    assert err.startswith("srq: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_defect_keeps_its_traceback(srq, monkeypatch, tiny_model):
    def broken(*_args):
        raise ZeroDivisionError

    monkeypatch.setattr("sr_quant_cli.commands.info.info", broken)
    monkeypatch.setattr(sys, "argv", ["srq", "info", str(tiny_model)])
    with pytest.raises(ZeroDivisionError):
        main()


def test_data_check_names_what_is_missing(srq, tmp_path):
    write_rgb(tmp_path / "benchmark/Set5/HR/a.png", picture(8, 8))
    code, out, err = srq("data", "check", "Set5", "--data-root", tmp_path, "--json", tmp_path / "c")
    assert code == 1
    assert "HR: 1 of 5 pictures" in out
    assert "srq data get Set5" in err
    assert [part["ok"] for part in json.loads((tmp_path / "c").read_text())["parts"]] == [
        False,
        *[True] * 3,
    ]
    code, _, err = srq("data", "check", "Manga109", "--data-root", tmp_path)
    assert code == 1
    assert "manga109.org" in err


@pytest.mark.slow
def test_a_terminated_training_is_saved_and_goes_on(tmp_path):
    command = [
        *(sys.executable, "-m", "sr_quant_cli", "pretrain", "edsr", "--scale", "2"),
        *("--data", "sample", "--run", str(tmp_path / "run"), "--max-time", "120s"),
        *("--set", "network.n_blocks=1", "--set", "network.n_feats=4", "--set", "train.batch=1"),
        *("--set", "data.patch_hr=32", "--set", "train.log_every=1"),
    ]
    log = tmp_path / "run/log.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        while training.poll() is None and not log.is_file():
            time.sleep(0.05)
        training.send_signal(signal.SIGTERM)
        out, _ = training.communicate(timeout=60)
    assert training.returncode == 143
    assert "run the same command again to continue" in out
    (checkpoint,) = (tmp_path / "run").glob("step-*.ckpt")
    assert int(checkpoint.stem.removeprefix("step-")) >= 1


def test_scores_are_not_recorded_in_an_onnx_file(srq, tmp_path):
    model = nearest_onnx(tmp_path / "n.onnx")
    write_rgb(tmp_path / "data/Set5/HR/a.png", picture(40, 40))
    code, out, err = srq(
        "eval", model, "--bench", "Set5", "--data-root", tmp_path / "data", "--record"
    )
    assert (code, out) == (2, "")  # before anything is measured
    assert "--record" in err
    assert "n.onnx" in err
    assert err.count("\n") == 1


def test_a_model_of_several_depths_is_used_at_each(srq, tmp_path):
    model = tmp_path / "m.safetensors"
    save_model(model, ranked_quantsr_c(), Card(name="deep"))
    write_rgb(tmp_path / "data/Set5/HR/a.png", picture(40, 40))
    write_rgb(tmp_path / "a.png", picture(12, 17))
    made, psnr, macs = [], [], []
    for depth in ("full", "half", "quarter"):
        at, report = ("--depth", depth), tmp_path / f"{depth}.json"
        output = tmp_path / f"{depth}.png"
        command = ("upscale", tmp_path / "a.png", "--model", model, "--runtime", "torch")
        code, _, _ = srq(*command, "-o", output, *at)
        assert code == 0
        made.append(read_rgb(output).tobytes())
        data = ("--bench", "Set5", "--data-root", tmp_path / "data")
        code, _, _ = srq("eval", model, *data, *at, "--json", report)
        assert code == 0
        row = json.loads(report.read_text())["rows"][1]
        assert row["model"] == ("deep" if depth == "full" else f"deep, {depth} depth")
        psnr.append(row["psnr"])
        code, out, _ = srq("info", model, *at, "--json", report)
        assert code == 0
        assert f"out at {depth} depth" in out
        macs.append(json.loads(report.read_text())["macs_counted"])
    assert len(set(made)) == len(set(psnr)) == 3
    # Two blocks less, then one: each has two 3x3 convolutions of 4 features.
    block = 2 * 9 * 4 * 4 * 640 * 360
    assert (macs[0] - macs[1], macs[1] - macs[2]) == (2 * block, block)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "TINY"], "this edsr runs at full depth only"),
        (["upscale", ".", "--model", "TINY"], "this edsr runs at full depth only"),
        (["eval", "TINY", "--bench", "Set5"], "this edsr runs at full depth only"),
        (["eval", "net.onnx", "--bench", "Set5"], "net.onnx is a graph, whose depth is fixed"),
        (["eval", "--bench", "Set5"], "name a model that runs at several depths"),
        (["eval", "TINY", "--record"], "--record stores scores of full depth only"),
    ],
)
def test_a_depth_that_is_not_there_is_refused(
    srq, tiny_model, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    nearest_onnx(tmp_path / "net.onnx")
    given = [tiny_model if word == "TINY" else word for word in arguments]
    code, out, err = srq(*given, "--depth", "half")
    assert (code, out) == (2, "")
    assert err.startswith("srq: error: --depth half: ")
    assert message in err
    assert err.count("\n") == 1
