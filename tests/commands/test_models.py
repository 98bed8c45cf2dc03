"""Models that have names: listed, shown, added and removed, and taken by every command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import save_file

from sr_quant_cli.cli.options import complete_model
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.modelfiles.card import Card, SetScore
from sr_quant_cli.modelfiles.catalog import describe, named_models
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import embedded_models, identify
from sr_quant_cli.system.resources import models_dir
from tests.helpers import nearest_onnx, picture, tiny_edsr
from tests.modelfiles.test_checkpoints import basicsr

EMBEDDED = sorted(path.stem for path in models_dir().glob("*.safetensors"))


@pytest.fixture
def folder() -> Path:
    """The user's folder of models."""
    return Path(os.environ["SRQ_MODELS"])


def rows(srq, tmp_path, *options):
    """Models of ``srq models list``, by name."""
    report = tmp_path / "list.json"
    code, out, err = srq("models", "list", *options, "--json", report)
    assert code == 0, err
    models = {model["name"]: model for model in json.loads(report.read_text())["models"]}
    assert all(name in out for name in models)
    return models


def test_the_embedded_models_are_listed_with_all_that_their_files_say(srq, tmp_path):
    models = rows(srq, tmp_path)
    assert list(models) == EMBEDDED
    small = models["edsr-small-x4-w8a8"]
    assert (small["network"], small["scale"], small["bits"]) == ("edsr", 4, "w8a8")
    assert small["bytes"] == Path(small["path"]).stat().st_size
    assert small["sites"]["head"] == {"input": 8, "weight": 8, "dynamic": False}
    assert models["edsr-baseline-x2"]["bits"] == "float"
    out = srq("models", "list")[1]
    assert "; fast is edsr-small-x4-w8a8\n" in out
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["edsr-small-x4-w8a8"]]
    (score,) = [s for s in small["card"]["scores"] if s["bench"] == "Set14"]
    assert line.split()[5:8] == [f"{score['psnr']:.2f}", "Set14,", "matlab"]
    assert line.split()[-1] == "-"


def test_listing_needs_neither_torch_nor_a_cache(tmp_path):
    code = """
import sys
from sr_quant_cli.cli.app import main
sys.argv = ["srq", "models", "list"]
try:
    main()
finally:
    print({"torch", "onnx", "onnxruntime", "openvino", "skimage"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
    assert not list(Path(os.environ["SRQ_CACHE"]).iterdir())


def test_times_are_measured_once_and_kept(srq, tmp_path, folder, tiny_model):
    for name in ("tiny", "mine"):
        srq("models", "add", tiny_model, "--name", name)
    nearest_onnx(folder / "graph.onnx")
    assert rows(srq, tmp_path)["tiny"]["milliseconds"] is None
    write_rgb(tmp_path / "a.png", picture(24, 24))
    assert srq("upscale", tmp_path / "a.png", "--model", "tiny")[0] == 0
    models = rows(srq, tmp_path)
    assert models["tiny"]["milliseconds"] > 0
    assert models["graph"]["milliseconds"] is None
    assert models["edsr-baseline-x4"]["milliseconds"] is None


def test_time_measures_the_models_that_have_none(srq, tmp_path, folder, tiny_model, monkeypatch):
    monkeypatch.setattr("sr_quant_cli.modelfiles.catalog.embedded_models", dict)
    nearest_onnx(folder / "graph.onnx")
    save_model(folder / "tiny.safetensors", tiny_edsr(), Card())
    (folder / "broken.onnx").write_bytes(b"no graph")
    models = rows(srq, tmp_path, "--time")
    assert models["tiny"]["milliseconds"] > 0
    assert models["graph"]["milliseconds"] > 0
    assert models["graph"]["scale"] == 2
    assert models["broken"]["milliseconds"] is None


@pytest.mark.skipif(
    not kernels.available() or kernels.available()[0] == kernels.PORTABLE,
    reason="the kernels have no vectors here",
)
def test_programs_are_measured_as_they_are_and_the_time_is_kept(srq, tmp_path, folder, monkeypatch):
    path = embedded_models()["edsr-small-x4-w8a8"]
    monkeypatch.setattr("sr_quant_cli.modelfiles.catalog.embedded_models", lambda: {"fast": path})
    monkeypatch.setattr("sr_quant_cli.commands.models.prepare", None)
    assert rows(srq, tmp_path)["fast"]["milliseconds"] is None
    measured = rows(srq, tmp_path, "--time")["fast"]["milliseconds"]
    assert measured > 0
    monkeypatch.setattr("sr_quant_cli.commands.models.open_model", None)
    for again in ((), ("--time",)):
        assert rows(srq, tmp_path, *again)["fast"]["milliseconds"] == measured


def test_a_model_is_shown_with_its_card_and_sites(srq, tmp_path):
    code, out, _ = srq("models", "show", "edsr-baseline-x4-w8a8", "--json", tmp_path / "s.json")
    assert code == 0
    for expected in (
        "licence:         MIT",
        "bits:            w8a8 by dobi",
        "matlab",
        "body.3.conv2",
    ):
        assert expected in out
    shown = json.loads((tmp_path / "s.json").read_text())
    assert shown["name"] == "edsr-baseline-x4-w8a8"
    assert len(shown["sites"]) == 85
    assert shown["card"]["licence"] == "MIT"


def test_every_embedded_model_is_read_by_its_name(srq):
    for name in EMBEDDED:
        assert describe(name, identify(name)).card.name == name
        code, out, _ = srq("models", "show", name)
        assert (code, f"{name}.safetensors" in out) == (0, True)


def test_an_own_model_is_added_used_replaced_and_removed(srq, tmp_path, folder, tiny_model):
    assert srq("models", "add", tiny_model, "--name", "mine") == (
        0,
        f"{tiny_model} -> {folder}/mine.safetensors  {tiny_model.stat().st_size:,} bytes\n",
        "",
    )
    assert (folder / "mine.safetensors").read_bytes() == tiny_model.read_bytes()
    assert srq("info", "mine")[0] == 0
    code, _, err = srq("models", "add", tiny_model, "--name", "mine")
    assert (code, err.count("\n")) == (2, 1)
    assert "--name mine: is taken by" in err
    assert "use --overwrite" in err
    graph = tmp_path / "other.onnx"
    nearest_onnx(graph)
    assert srq("models", "add", graph, "--name", "mine", "--overwrite")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["mine.onnx"]
    code, _, err = srq("models", "remove", "mien")
    assert (code, err) == (2, f"srq: error: no model in {folder}: mien; did you mean 'mine'?\n")
    assert srq("models", "remove", "mine") == (0, f"removed {folder}/mine.onnx\n", "")
    assert not list(folder.iterdir())


def test_files_beside_a_graph_come_and_go_with_it(srq, tmp_path, folder, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert srq("export", tiny_model, "--format", "openvino", "-o", "graph.xml")[0] == 0
    assert srq("models", "add", "graph.xml", "--name", "ov")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["ov.bin", "ov.xml"]
    write_rgb(tmp_path / "a.png", picture(24, 24))
    assert srq("upscale", "a.png", "--model", "ov")[0] == 0
    assert srq("models", "add", tiny_model, "--name", "ov", "--overwrite")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["ov.safetensors"]


def test_a_run_folder_gives_its_name(srq, tmp_path, folder):
    save_model(tmp_path / "edsr-run/model.safetensors", tiny_edsr(), Card())
    assert srq("models", "add", tmp_path / "edsr-run")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["edsr-run.safetensors"]


def test_a_checkpoint_of_another_project_can_be_added(srq, tmp_path, folder):
    torch.save(basicsr(tiny_edsr(4)), tmp_path / "net.weights")
    assert srq("models", "add", tmp_path / "net.weights", "--name", "basic")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["basic.pt"]
    assert srq("info", "basic")[0] == 0


WRONG = [
    (("TEXT",), "is a text file"),
    (("none.pt",), "no such model file: none.pt"),
    (("BROKEN",), "is no readable"),
    (("MODEL", "--name", "a/b"), "--name a/b: must be letters"),
    (("MODEL", "--name", "a b"), "--name a b: must be letters"),
    (("MODEL", "--name", ""), "--name : must be letters"),
    (("MODEL", "--name", "-x"), "--name -x: must be letters"),
    (("MODEL", "--name", ".."), "--name ..: must be letters"),
    (("MODEL", "--name", "x.onnx"), "without the suffix of a model file"),
    (("MODEL", "--name", "fast", "--overwrite"), "--name fast: is the name of an embedded model"),
    (("edsr-baseline-x4", "--overwrite"), "edsr-baseline-x4: is the name of an embedded model"),
]


@pytest.mark.parametrize(("arguments", "expected"), WRONG, ids=lambda value: " ".join(value)[:30])
def test_what_cannot_be_added_is_one_line(srq, tmp_path, folder, tiny_model, arguments, expected):
    (tmp_path / "text.pt").write_text("no model")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    places = {"TEXT": tmp_path / "text.pt", "MODEL": tiny_model, "BROKEN": tmp_path / "broken.onnx"}
    code, out, err = srq("models", "add", *(places.get(word, word) for word in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err
    assert not list(folder.iterdir())


def test_a_graph_with_weights_elsewhere_is_not_added(srq, tmp_path, folder):
    nearest_onnx(tmp_path / "graph.onnx")
    model = onnx.load(tmp_path / "graph.onnx")
    tensor = onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), "unused")
    model.graph.initializer.append(tensor)
    onnx.save(
        model, tmp_path / "graph.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    code, _, err = srq("models", "add", tmp_path / "graph.onnx")
    assert (code, "its weights are in w; save it as one file" in err) == (2, True)
    assert not list(folder.iterdir())


def test_a_checkpoint_keeps_the_name_that_says_its_scale(srq, real_data, folder):
    idn = real_data / "checkpoints/idn_x3.safetensors"
    code, _, err = srq("models", "add", idn, "--name", "idn")
    assert (code, "the name idn_x3.safetensors says the scale, and idn does not" in err) == (
        2,
        True,
    )
    assert not list(folder.iterdir())
    assert srq("models", "add", idn, "--name", "mine_x3")[0] == 0


@pytest.mark.parametrize("name", ["fast", "edsr-baseline-x4"])
def test_embedded_models_stay(srq, name):
    code, _, err = srq("models", "remove", name)
    assert (code, err) == (2, f"srq: error: {name} is a part of srq and cannot be removed\n")
    assert identify(name).path.is_file()


def test_damaged_files_are_listed_with_what_is_wrong(srq, folder):
    good = {"version": "1", "network": {"name": "edsr", "scale": 2}, "card": {}}
    for name, header in {
        "text": "{",
        "nothing": "{}",
        "scale": json.dumps(good | {"network": {"name": "edsr", "scale": "two"}}),
        "deep": "[" * 100_000,
        "good": json.dumps(good),
    }.items():
        tensors = {"a": np.zeros(1, np.float32)}
        save_file(tensors, folder / f"{name}.safetensors", metadata={"srq": header})
    (folder / "short.safetensors").write_bytes(b'\xff\xff\xff\xff\xff\xff\xff\xff{"srq":')
    code, out, _ = srq("models", "list")
    assert code == 0
    problems = {model.name: model.problem for model in named_models()}
    assert not problems["good"]
    for name in ("text", "nothing", "scale", "deep", "short"):
        assert f"{folder}/{name}.safetensors" in problems[name]
        assert f"{name}: {problems[name]}" in out
    code, _, err = srq("models", "show", "scale")
    assert (code, "network.scale must be a whole number" in err) == (2, True)


def test_names_that_are_taken_twice_or_hidden_are_told(srq, folder, tiny_model):
    for name in ("twice.pt", "twice.onnx", "edsr-baseline-x4.pt"):
        (folder / name).touch()
    code, out, err = srq("models", "list")
    assert code == 0
    assert "twice.pt shares its name with twice.onnx: rename one" in out
    assert f"{folder}/edsr-baseline-x4.pt: its name is that of an embedded model" in err


def test_the_score_to_compare_by_is_set14s():
    def score(bench, protocol):
        return SetScore(
            bench=bench, images=1, scale=2, protocol=protocol, border=2, lr="x", psnr=1, ssim=1
        )

    scores = [score("Mine", "rgb"), score("Set5", "matlab"), score("Set14", "rgb")]
    model = describe("fast", identify("fast"))
    for expected in (("Set14", "rgb"), ("Set5", "matlab"), ("Mine", "rgb")):
        card = Card(scores=scores)
        chosen = type(model)("x", model.path, "user", "model", 1, card=card).score
        assert (chosen.bench, chosen.protocol) == expected
        scores.remove(chosen)


def test_names_and_files_are_completed(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (folder / "mine.onnx").touch()
    for place in ("maps/a.pt", "maps/b.pt", "edsr.pt", ".hidden"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).touch()
    assert complete_model("mi") == ["mine"]
    assert complete_model("m") == ["mine", "maps/"]
    assert complete_model("maps/b") == ["maps/b.pt"]
    assert complete_model("./e") == ["./edsr.pt"]
    assert complete_model("edsr-s") == ["edsr-small-x4-w8a8"]
    assert complete_model("f") == ["fast"]
    assert ".hidden" not in complete_model("")
    assert complete_model("none/") == []
    monkeypatch.setenv("SRQ_MODELS", "edsr.pt")
    assert complete_model("edsr-baseline-x2") == []


def test_the_shell_completes_names_without_torch():
    for words in ("srq info edsr-small", "srq distill x --teacher edsr-small"):
        code = """
import sys
from sr_quant_cli.cli.app import main
sys.argv = ["srq"]
try:
    main()
finally:
    print("torch" in sys.modules)
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ
            | {
                "_SRQ_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == ["edsr-small-x4-w8a8", "False"], done.stderr
