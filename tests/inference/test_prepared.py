"""Graphs in the cache: made once, opened without torch, and only where the model agrees."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.inference import prepared as module
from sr_quant_cli.inference.models import open_model
from sr_quant_cli.inference.prepared import fastest, open_file, prepare
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.samples import sample_pairs
from sr_quant_cli.lowering.spec import freeze, reduce_range
from sr_quant_cli.networks.folding import fold_exactly
from sr_quant_cli.networks.modelfile import Card, save_model
from sr_quant_cli.runtimes.torch import TorchRuntime
from tests.helpers import nearest_onnx, picture, ranked_quantsr_c, tiny_edsr
from tests.lowered import CPU, deployed, network

RUNTIMES = ("torch", "onnxruntime", "openvino")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A model file and a cache in which it is prepared already, by the command itself."""
    folder = tmp_path_factory.mktemp("kept")
    model = folder / "tiny.safetensors"
    save_model(model, network("full w4a4"), Card(name="tiny w4a4"))
    write_rgb(folder / "lr.png", picture(21, 17))
    kept = SimpleNamespace(model=model, cache=folder / "cache", lr=folder / "lr.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRQ_CACHE", str(kept.cache))
        kept.prepared = prepare(model, "full")
    return kept


@pytest.fixture
def cache(kept, monkeypatch):
    monkeypatch.setenv("SRQ_CACHE", str(kept.cache))
    return kept


@pytest.fixture
def traced(monkeypatch):
    """Tracing takes seconds: a graph that is there is taken; gives depths of what was asked for."""
    asked = []

    def from_stock(given, name, io, *, full_range):
        assert not full_range
        asked.append((name, given.depth, io))
        return deployed("full w4a4", io)

    monkeypatch.setattr("sr_quant_cli.lowering.deploy.deploy", from_stock)
    return asked


def state(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def expected(lr):
    simulated = network("full w4a4")
    lowered = lower(simulated, reduce_range(freeze(simulated)))
    return TorchRuntime(lowered, CPU)(lr).astype(int)


def test_a_prepared_folder_has_graph_facts_and_what_the_model_reaches(kept):
    assert sorted(p.name for p in kept.prepared.folder.iterdir() if p.suffix) == [
        "graph.onnx",
        "model.json",
    ]
    assert kept.prepared.folder.parent == kept.cache / "graphs"
    assert kept.prepared.facts.name == "tiny w4a4"
    assert kept.prepared.facts.receptive_radius == network("full w4a4").receptive_radius
    _, lr, hr = sample_pairs(2)[0]
    error = np.square(TorchRuntime(deepcopy(network("full w4a4")), CPU)(lr).astype(float) - hr)
    assert kept.prepared.psnr == pytest.approx(10 * np.log10(255**2 / error.mean()), abs=1e-3)


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", "openvino"])
def test_prepared_graphs_upscale_without_torch(cache, tmp_path, runtime):
    before = state(cache.prepared.folder)
    code = (
        "import sys; sys.argv = ['srq', *sys.argv[1:]]\n"
        "from sr_quant_cli.inference import prepared; prepared.has_vnni = lambda: False\n"
        "from sr_quant_cli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "heavy = {'torch', 'onnx', 'onnxscript', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    arguments = ("upscale", cache.lr, "--model", cache.model, "-o", tmp_path / "o.png")
    if runtime == "auto":
        # As if it had been measured: a random network tells nothing of which is better.
        choice = cache.prepared.folder / "choice-1-fp32.json"
        choice.write_text('[{"runtime": "openvino", "seconds": 1.0, "loss": 0.0}]')
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, *map(str, arguments)),
            *("--runtime", runtime, "--threads", "1", "--precision", "fp32"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    after = state(cache.prepared.folder)
    assert {path: after[path] for path in before} == before
    found = read_rgb(tmp_path / "o.png").astype(int)
    assert np.abs(found - expected(picture(21, 17))).max() <= 4
    assert np.abs(found - expected(picture(21, 17))).mean() <= 0.5


def test_runtimes_agree(cache):
    lr = picture(21, 17)
    wanted = TorchRuntime(deepcopy(network("full w4a4")), CPU)(lr)
    in_torch = open_model(cache.model, precision="fp32")
    assert np.array_equal(in_torch(lr), wanted)
    for runtime in RUNTIMES[1:]:
        upscaler = open_model(cache.model, runtime=runtime, precision="fp32", threads=1)
        assert upscaler.runtime.runtime == runtime
        assert (upscaler.name, upscaler.scale) == ("tiny w4a4", 2)
        assert np.abs(upscaler(lr).astype(int) - expected(lr)).max() <= 4


def test_a_second_open_prepares_nothing_a_changed_file_does(tmp_path, traced, capsys):
    model = tmp_path / "m.safetensors"
    save_model(model, ranked_quantsr_c(), Card(name="deep"))
    first = prepare(model, "full")
    assert capsys.readouterr().err == "preparing deep for the runtimes here, once\n"
    before = state(tmp_path)
    graph = first.graph.stat().st_mtime_ns
    assert prepare(model, "full") == first
    assert capsys.readouterr().err == ""
    assert (first.graph.stat().st_mtime_ns, state(tmp_path)) == (graph, before)
    assert traced == [("deep", "full", "uint8")]

    half = prepare(model, "half")
    assert half.folder != first.folder
    assert capsys.readouterr().err == "preparing deep, half depth for the runtimes here, once\n"
    save_model(model, ranked_quantsr_c(), Card(name="deeper"))
    changed = prepare(model, "full")
    assert changed.folder not in (first.folder, half.folder)
    assert traced[1:] == [("deep, half depth", "half", "uint8"), ("deeper", "full", "uint8")]
    # A copy elsewhere is the same model.
    (tmp_path / "copy.safetensors").write_bytes(model.read_bytes())
    assert prepare(tmp_path / "copy.safetensors", "full") == changed
    assert len(traced) == 3


def test_another_version_or_format_prepares_anew(tmp_path, tiny_model, traced, monkeypatch):
    first = prepare(tiny_model, "full")
    monkeypatch.setattr(module, "__version__", "0.0.0")
    second = prepare(tiny_model, "full")
    monkeypatch.setattr(module, "FORMAT", -1)
    third = prepare(tiny_model, "full")
    assert len({first.folder, second.folder, third.folder}) == len(traced) == 3


def test_weights_keep_8_bits_where_the_processor_adds_in_32(tmp_path, monkeypatch):
    path = tmp_path / "full.safetensors"
    save_model(path, network("full w8a8"), Card(name="full"))
    largest = {}
    for vnni in (False, True):
        monkeypatch.setattr(module, "has_vnni", lambda vnni=vnni: vnni)
        graph = onnx.load(prepare(path, "full").graph).graph
        codes = [to_array(t) for t in graph.initializer if t.name.endswith(".codes")]
        largest[vnni] = max(int(np.abs(c.astype(int)).max()) for c in codes)
    assert largest == {False: 64, True: 127}


def test_a_preparation_that_was_cut_off_is_made_again(tmp_path, tiny_model, traced):
    first = prepare(tiny_model, "full")
    (first.folder / "model.json").unlink()
    first.graph.write_bytes(b"half a graph")
    assert prepare(tiny_model, "full") == first
    assert len(traced) == 2
    assert first.graph.stat().st_size > 1000


def test_a_cache_that_cannot_be_written_is_worked_around(tmp_path, tiny_model, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SRQ_CACHE", str(tmp_path / "file"))
    upscaler = open_model(tiny_model, runtime="auto", device="cpu")
    assert upscaler.runtime.runtime == "torch"
    told = capsys.readouterr().err
    assert "SRQ_CACHE" in told
    assert told.count("\n") == 1
    lines = []
    monkeypatch.setattr("sr_quant_cli.inference.models.warn", lines.append)
    with pytest.raises(FailedError, match="SRQ_CACHE"):
        open_model(tiny_model, runtime="openvino")
    assert lines == []


def test_what_is_no_model_leaves_no_graph(tmp_path):
    (tmp_path / "text").write_text("no model")
    for name in ("text", "none"):
        with pytest.raises(UsageError, match=name):
            prepare(tmp_path / name, "full")
    graphs = os.environ["SRQ_CACHE"]
    assert not [path for path in state(tmp_path / graphs) if path.suffix in (".onnx", ".json")]


class Drawn:
    """A runtime that gives bicubic's pictures, or their negatives, in a given time."""

    precision = "fp32"

    def __init__(self, runtime, seconds, clock, *, wrong):
        self.runtime, self.seconds, self.clock, self.wrong = runtime, seconds, clock, wrong

    def __call__(self, lr):
        self.clock.now += self.seconds
        return 255 - enlarge(lr, 2) if self.wrong else enlarge(lr, 2)


@pytest.fixture
def drawn(kept, tmp_path, monkeypatch):
    """Puts runtimes in the place of the real ones, for a model that is bicubic."""
    _, lr, hr = sample_pairs(2)[0]
    error = np.square(enlarge(lr, 2).astype(float) - hr).mean()
    model = replace(kept.prepared, folder=tmp_path, psnr=float(10 * np.log10(255**2 / error)))
    clock = SimpleNamespace(now=0.0)

    def put(wrong=(), **seconds):
        def open_graph(name, prepared, threads, precision):
            assert prepared is model
            opened.append((name, threads, precision))
            return Drawn(name, seconds[name], clock, wrong=name in wrong)

        opened = []
        monkeypatch.setattr(module, "open_graph", open_graph)
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        return model, opened

    return put


@pytest.mark.parametrize("fast", RUNTIMES[1:])
def test_the_fastest_runtime_is_measured_once_and_remembered(drawn, fast):
    model, opened = drawn(**{"openvino": 2.0, "onnxruntime": 2.0, fast: 1.0})
    assert fastest(model, 1, "fp32") == fast
    assert opened == [("openvino", 1, "fp32"), ("onnxruntime", 1, "fp32")]
    choice = json.loads((model.folder / "choice-1-fp32.json").read_text())
    assert {trial["runtime"]: trial["seconds"] for trial in choice} == pytest.approx(
        {"openvino": 2.0, "onnxruntime": 2.0, fast: 1.0}
    )
    assert [trial["loss"] for trial in choice] == pytest.approx([0, 0], abs=1e-4)
    # Remembered, for this number of threads and this precision.
    _, opened = drawn(openvino=3.0, onnxruntime=3.0)
    assert fastest(model, 1, "fp32") == fast
    assert opened == []
    assert fastest(model, 2, "auto") == "openvino"
    assert opened == [("openvino", 2, "auto"), ("onnxruntime", 2, "auto")]
    (model.folder / "choice-1-fp32.json").unlink()
    fastest(model, 1, "fp32")
    assert len(opened) == 4


def test_a_runtime_that_disagrees_is_not_chosen_however_fast(drawn):
    model, _ = drawn(wrong=["openvino"], openvino=1.0, onnxruntime=9.0)
    assert fastest(model, 1, "fp32") == "onnxruntime"
    model, _ = drawn(wrong=["onnxruntime"], openvino=9.0, onnxruntime=1.0)
    assert fastest(model, 2, "fp32") == "openvino"


def test_bf16_is_openvino_s_alone(drawn):
    model, opened = drawn(openvino=9.0, onnxruntime=1.0)
    assert fastest(model, 1, "bf16") == "openvino"
    assert opened == [("openvino", 1, "bf16")]


def test_a_runtime_that_cannot_run_a_model_is_left_out_and_told(drawn, monkeypatch, capsys):
    model, _ = drawn(openvino=1.0, onnxruntime=9.0)
    working = module.open_graph

    def open_graph(name, *how):
        if name == "openvino":
            raise UsageError("no kernel")
        return working(name, *how)

    monkeypatch.setattr(module, "open_graph", open_graph)
    assert fastest(model, 1, "fp32") == "onnxruntime"
    assert capsys.readouterr().err == "srq: warning: openvino is left out here: no kernel\n"


def test_where_all_disagree_torch_runs_the_model(drawn, monkeypatch, tiny_model):
    model, opened = drawn(wrong=RUNTIMES, openvino=1.0, onnxruntime=1.0)
    assert fastest(model, 1, "fp32") == "torch"
    monkeypatch.setattr("sr_quant_cli.inference.models.prepare", lambda *_: model)
    upscaler = open_model(tiny_model, runtime="auto", device="cpu", precision="fp32", threads=1)
    assert upscaler.runtime.runtime == "torch"
    assert len(opened) == 2
    lr = picture(9, 12)
    wanted = TorchRuntime(fold_exactly(tiny_edsr()), CPU)(lr)
    assert np.array_equal(upscaler(lr), wanted)


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
def test_a_runtime_that_is_not_installed(kept, monkeypatch, drawn, runtime):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == runtime else name)
    with pytest.raises(UsageError, match=f"--runtime {runtime}: it is not installed"):
        open_file(runtime, kept.prepared.graph, 1, "fp32")
    model, opened = drawn(openvino=1.0, onnxruntime=1.0)
    assert fastest(model, 1, "fp32") != runtime
    assert len(opened) == 1


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
@pytest.mark.parametrize(("height", "width", "tile"), [(37, 23, 9), (12, 41, 16)])
def test_tiles_of_prepared_graphs_join_to_the_whole_picture(cache, runtime, height, width, tile):
    lr = picture(height, width)
    options = {"runtime": runtime, "precision": "fp32", "threads": 1}
    whole, tiled = (open_model(cache.model, **options, tile=t)(lr) for t in (None, tile))
    assert whole.shape == (2 * height, 2 * width, 3)
    assert (whole != tiled).mean() <= 1e-3
    assert np.abs(whole.astype(int) - tiled).max() <= 2


@pytest.fixture(scope="module")
def kept_float(tmp_path_factory):
    """A float model whose graph takes pictures of 5x5 and more."""
    folder = tmp_path_factory.mktemp("float")
    model = folder / "tiny.safetensors"
    save_model(model, tiny_edsr(), Card(name="tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRQ_CACHE", str(folder / "cache"))
        patch.setattr(
            "sr_quant_cli.lowering.deploy.deploy", lambda *_, **__: deployed("float", "float")
        )
        prepare(model, "full")
    return SimpleNamespace(model=model, cache=folder / "cache")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pictures_smaller_than_a_graph_takes_are_enlarged_too(kept_float, monkeypatch, runtime):
    monkeypatch.setenv("SRQ_CACHE", str(kept_float.cache))
    upscaler = open_model(kept_float.model, runtime=runtime, precision="fp32", threads=1)
    plain = TorchRuntime(tiny_edsr(), CPU)
    for size in ((1, 1), (4, 4), (2, 30), (5, 4), (5, 5), (30, 5)):
        lr = picture(*size)
        assert np.abs(upscaler(lr).astype(int) - plain(lr)).max() <= 1


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
def test_a_foreign_graph_says_its_scale_by_its_output(tmp_path, runtime):
    upscaler = open_model(nearest_onnx(tmp_path / "n.onnx"), runtime=runtime)
    assert (upscaler.name, upscaler.scale, upscaler.tile_count(900, 900)) == ("n.onnx", 2, 1)


def test_upscale_prepares_once_and_says_so(srq, tiny_model, tmp_path, traced):
    write_rgb(tmp_path / "a.png", picture(12, 17))
    command = ("upscale", tmp_path / "a.png", "--model", tiny_model, "--runtime", "onnxruntime")
    code, _, err = srq(*command)
    assert (code, err) == (0, "preparing tiny for the runtimes here, once\n")
    code, _, err = srq(*command, "--overwrite")
    assert (code, err) == (0, "")
    assert len(traced) == 1
