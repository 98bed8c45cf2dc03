"""A runtime is one registration: every command, list, help text and error knows it then."""

import csv
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from sr_quant_cli.commands.bench_memory import peak_memory
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
from sr_quant_cli.system.processor import processor_name
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
        *("bench", tiny_model, "--size", "16x16", "--size", "20x16", "--runs", 2),
        *("--threads", 1, "--threads", 2, "--json", tmp_path / "b.json"),
        *("--csv", tmp_path / "b.csv", "--markdown", tmp_path / "b.md"),
    )
    assert code == 0, err
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert "toy fp32" in [row["variant"] for row in rows]
    assert "toy fp32" in out
    groups = list(dict.fromkeys((row["width"], row["height"], row["threads"]) for row in rows))
    assert groups == [(16, 16, 1), (20, 16, 1), (16, 16, 2), (20, 16, 2)]
    assert all(row["minimum"] <= row["median"] <= row["p95"] <= max(row["times"]) for row in rows)
    assert {row["memory"] for row in rows} == {None}
    lines = list(csv.DictReader((tmp_path / "b.csv").read_text().splitlines()))
    assert [line["variant"] for line in lines] == [row["variant"] for row in rows]
    assert float(lines[0]["p95_ms"]) == pytest.approx(1000 * rows[0]["p95"], abs=0.006)
    page = (tmp_path / "b.md").read_text()
    assert page.count("| model, runtime |") == 4
    assert page.count("| toy fp32 |") == 4
    assert "16x16 to 32x32, 1 thread\n" in page
    assert "* 2 runs each, in turns; times as fast: " in page
    assert f"* {processor_name()}, torch {torch.__version__}, " in page


@pytest.mark.slow
def test_the_memory_of_a_process_is_measured():
    lr = np.zeros((40, 40, 3), np.uint8)
    light, heavy = (peak_memory(partial(_allocate, size), lr) for size in (0, 300_000_000))
    assert 10e6 < light < 300e6
    assert 280e6 < heavy - light < 330e6
    assert peak_memory(_refuse, lr) is None


def _allocate(size):
    filled = np.ones(size, np.uint8)
    return lambda lr: lr + filled.ndim


def _refuse():
    raise UsageError("not here")


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
