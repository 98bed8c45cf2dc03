"""A runtime is one registration: every command, list, help text and error knows it then."""

import json
import subprocess
import sys

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.inference.choice import choose
from sr_quant_cli.inference.graph_cache import prepare
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.runtimes import registry
from sr_quant_cli.runtimes.registry import (
    RuntimeEntry,
    choices,
    formats,
    get_runtime,
    is_graph,
    register,
    runtime_of,
)
from sr_quant_cli.system.files import read_sealed
from tests.helpers import nearest_onnx, picture
from tests.runtimes.toy import ENTRY


@pytest.fixture
def toy(monkeypatch):
    """Registers the toy runtime, for one test."""
    monkeypatch.setattr(registry, "_known", dict(registry._known))
    register(ENTRY)


@pytest.mark.slow
def test_upscale_and_eval_run_a_registered_runtime(srq, toy, tiny_model, tmp_path):
    write_rgb(tmp_path / "a.png", picture(12, 17))
    write_rgb(tmp_path / "data/Set5/HR/a.png", picture(40, 40))
    graph = nearest_onnx(tmp_path / "n.onnx")
    for model in (tiny_model, graph):
        code, out, err = srq(
            *("upscale", tmp_path / "a.png", "--model", model, "--runtime", "toy"),
            *("-o", tmp_path / f"{model.stem}.png"),
        )
        assert code == 0, err
        assert out.endswith(" s, toy\n")
        assert read_rgb(tmp_path / f"{model.stem}.png").shape == (24, 34, 3)
        report = tmp_path / f"{model.stem}.json"
        code, _, err = srq(
            *("eval", model, "--runtime", "toy", "--bench", "Set5", "--json", report),
            *("--data-root", tmp_path / "data"),
        )
        assert code == 0, err
        rows = json.loads(report.read_text())["rows"]
        assert [row["runtime"] for row in rows] == [None, "toy"]


@pytest.mark.slow
def test_bench_times_a_registered_runtime(srq, toy, tiny_model, tmp_path):
    code, out, err = srq(
        *("bench", tiny_model, "--size", "16x16", "--runs", 1, "--threads", 1),
        *("--json", tmp_path / "b.json"),
    )
    assert code == 0, err
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert "toy fp32" in [row["variant"] for row in rows]
    assert "toy fp32" in out


@pytest.mark.slow
def test_a_registered_runtime_races(toy, tiny_model):
    prepared = prepare(identify(tiny_model))
    chosen = choose(prepared, "fp32")
    (record,) = prepared.folder.glob("choice-*.json")
    tried = [trial["runtime"] for trial in read_sealed(record)["trials"]]
    assert tried == ["openvino", "onnxruntime", "toy"]
    assert chosen in (*tried, "torch")


def test_errors_name_a_registered_runtime(srq, toy, tiny_model, tmp_path):
    write_rgb(tmp_path / "a.png", picture(12, 17))
    graph = nearest_onnx(tmp_path / "n.onnx")
    known = "auto, torch, srq, openvino, onnxruntime, toy"
    upscale = ("upscale", tmp_path / "a.png", "--model")
    for arguments, line in (
        ((*upscale, tiny_model, "--runtime", "tvm"), f"--runtime tvm: must be one of {known}"),
        (("eval", tiny_model, "--runtime", "tvm"), f"--runtime tvm: must be one of {known}"),
        (
            (*upscale, graph, "--runtime", "torch"),
            f"--runtime torch: {graph} is a graph; "
            "it runs by srq or openvino or onnxruntime or toy",
        ),
        (
            (*upscale, tiny_model, "--runtime", "toy", "--precision", "bf16"),
            "--precision bf16: toy has none; allowed are auto and fp32",
        ),
    ):
        assert srq(*arguments) == (2, "", f"srq: error: {line}\n")


@pytest.mark.parametrize("command", ["upscale", "eval"])
def test_help_lists_a_registered_runtime(command):
    """In a process of its own: plug-ins are registered before the command line is imported."""
    code = (
        "import sys; sys.argv = ['srq', *sys.argv[1:]]\n"
        "from sr_quant_cli.runtimes.registry import RuntimeEntry, register\n"
        "register(RuntimeEntry('toy', 'toy:Toy', 'toy', ('.toy',)))\n"
        "from sr_quant_cli.cli.app import main\n"
        "main()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "[auto|torch|srq|openvino|onnxruntime|toy]" in shown
    assert ".toy" in shown


def test_graph_files_belong_to_the_runtime_whose_own_they_are(toy, tmp_path):
    names = {"a.onnx": "onnxruntime", "a.XML": "openvino", "a.toy": "toy"}
    assert {name: runtime_of(tmp_path / name).name for name in names} == names
    assert not is_graph(tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"no runtime reads .*a\.pth"):
        runtime_of(tmp_path / "a.pth")
    assert identify(nearest_onnx(tmp_path / "n.toy")).kind == "graph"


def test_a_name_is_taken_once(toy):
    before = choices()
    for entry in (
        ENTRY,
        RuntimeEntry("auto", "toy:Toy", "toy"),
        RuntimeEntry("other", "toy:Toy", "toy", (".other",), format="onnx"),
    ):
        with pytest.raises(ValueError, match="registered twice"):
            register(entry)
    assert choices() == before
    assert list(formats()) == ["openvino", "onnx"]


def test_a_runtime_without_its_package_is_named_with_what_installs_it(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda _package: None)
    line = "`runtime` toy: it is not installed; 'pip install onnxruntime' does"
    with pytest.raises(UsageError) as refused:
        get_runtime("toy").open(nearest_onnx(tmp_path / "n.onnx"), 1, "fp32")
    assert str(refused.value) == line
