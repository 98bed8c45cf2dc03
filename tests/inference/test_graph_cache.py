"""Graphs in the cache: made once, opened without torch, and only if the model agrees."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.inference import graph_cache as module
from sr_quant_cli.inference.graph_cache import MAKERS, fingerprint, prepare
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.samples import sample_pairs
from sr_quant_cli.lowering.spec import freeze, reduce_range
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.runtimes.torch import TorchRuntime
from sr_quant_cli.system.files import read_sealed, write_sealed
from tests.helpers import nearest_onnx, open_path, picture, ranked_quantsr_c, tiny_edsr
from tests.lowered import CPU, deployed, network

RUNTIMES = ("torch", "onnxruntime", "openvino")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A model file, and a cache in which its graph is prepared already."""
    folder = tmp_path_factory.mktemp("kept")
    model = folder / "tiny.safetensors"
    save_model(model, network("full w4a4"), Card(name="tiny w4a4"))
    write_rgb(folder / "lr.png", picture(21, 17))
    kept = SimpleNamespace(model=model, cache=folder / "cache", lr=folder / "lr.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRQ_CACHE", str(kept.cache))
        kept.prepared = prepare(identify(model))
    return kept


@pytest.fixture
def cache(kept, monkeypatch):
    monkeypatch.setenv("SRQ_CACHE", str(kept.cache))
    return kept


@pytest.fixture
def traced(monkeypatch):
    """Use a ready graph instead of tracing, which takes seconds; collects the requests."""
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


@pytest.mark.slow
def test_a_prepared_folder_has_graph_traits_and_what_the_model_reaches(kept):
    assert sorted(p.name for p in kept.prepared.folder.iterdir() if p.suffix) == [
        "graph.onnx",
        "model.json",
    ]
    assert kept.prepared.folder.parent == kept.cache / "graphs"
    assert kept.prepared.traits.name == "tiny w4a4"
    assert kept.prepared.traits.receptive_radius == network("full w4a4").receptive_radius
    _, lr, hr = sample_pairs(2)[0]
    error = np.square(TorchRuntime(deepcopy(network("full w4a4")), CPU)(lr).astype(float) - hr)
    assert kept.prepared.psnr == pytest.approx(10 * np.log10(255**2 / error.mean()), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", "openvino"])
def test_prepared_graphs_upscale_without_torch(cache, tmp_path, runtime):
    before = state(cache.prepared.folder)
    code = (
        "import sys; sys.argv = ['srq', *sys.argv[1:]]\n"
        "from sr_quant_cli.inference import graph_cache\n"
        "graph_cache.has_vnni = lambda: False\n"
        "from sr_quant_cli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "heavy = {'torch', 'onnx', 'onnxscript', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    arguments = ("upscale", cache.lr, "--model", cache.model, "-o", tmp_path / "o.png")
    if runtime == "auto":
        # As if it had been measured: a random network tells nothing of which is better.
        write_sealed(cache.prepared.folder / "choice-fp32.json", {"runtime": "openvino"})
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, *map(str, arguments)),
            *("--runtime", runtime, "--threads", "1", "--precision", "fp32"),
            *("--json", str(tmp_path / "r.json")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    ran = "openvino" if runtime == "auto" else runtime
    assert done.stdout.endswith(f" s, {ran}\n")
    (entry,) = json.loads((tmp_path / "r.json").read_text())["pictures"]
    assert entry["runtime"] == ran
    after = state(cache.prepared.folder)
    assert {path: after[path] for path in before} == before
    found = read_rgb(tmp_path / "o.png").astype(int)
    assert np.abs(found - expected(picture(21, 17))).max() <= 4
    assert np.abs(found - expected(picture(21, 17))).mean() <= 0.5


@pytest.mark.slow
def test_runtimes_agree(cache):
    lr = picture(21, 17)
    wanted = TorchRuntime(deepcopy(network("full w4a4")), CPU)(lr)
    in_torch = open_path(cache.model, precision="fp32")
    assert np.array_equal(in_torch(lr), wanted)
    for runtime in RUNTIMES[1:]:
        upscaler = open_path(cache.model, runtime=runtime, precision="fp32", threads=1)
        assert upscaler.runtime.runtime == runtime
        assert (upscaler.name, upscaler.scale) == ("tiny w4a4", 2)
        assert np.abs(upscaler(lr).astype(int) - expected(lr)).max() <= 4


@pytest.mark.slow
def test_a_second_open_prepares_nothing_a_changed_file_does(tmp_path, traced, capsys):
    model = tmp_path / "m.safetensors"
    save_model(model, ranked_quantsr_c(), Card(name="deep"))
    first = prepare(identify(model))
    assert capsys.readouterr().err == "preparing deep for the runtimes here, once\n"
    before = state(tmp_path)
    graph = first.graph.stat().st_mtime_ns
    assert prepare(identify(model)) == first
    assert capsys.readouterr().err == ""
    assert (first.graph.stat().st_mtime_ns, state(tmp_path)) == (graph, before)
    assert traced == [("deep", "full", "uint8")]

    half = prepare(identify(model), "half")
    assert half.folder != first.folder
    assert capsys.readouterr().err == "preparing deep, half depth for the runtimes here, once\n"
    save_model(model, ranked_quantsr_c(), Card(name="deeper"))
    changed = prepare(identify(model))
    assert changed.folder not in (first.folder, half.folder)
    assert traced[1:] == [("deep, half depth", "half", "uint8"), ("deeper", "full", "uint8")]
    # A copy elsewhere is the same model.
    (tmp_path / "copy.safetensors").write_bytes(model.read_bytes())
    assert prepare(identify(tmp_path / "copy.safetensors")) == changed
    assert len(traced) == 3


@pytest.mark.slow
def test_another_version_or_processor_prepares_anew(tiny_model, traced, monkeypatch):
    folders = {prepare(identify(tiny_model)).folder}
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_version", lambda name, changed=package: str(name == changed))
            folders.add(prepare(identify(tiny_model)).folder)
    for what in ("fingerprint", "features"):
        with monkeypatch.context() as patch:
            patch.setattr(module, what, lambda: "another")
            folders.add(prepare(identify(tiny_model)).folder)
    assert len(folders) == len(traced) == 8


@pytest.mark.slow
def test_the_sources_of_all_that_makes_a_graph_are_looked_at():
    """``MAKERS`` names every room that making a graph imports, and the kernels."""
    code = (
        "import sys\n"
        "import sr_quant_cli.lowering.deploy, sr_quant_cli.lowering.graph\n"
        "import sr_quant_cli.modelfiles.checkpoints\n"
        "print(*(name for name in sys.modules if name.startswith('sr_quant_cli.')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parts = {name.split(".")[1] for name in ran.stdout.split()}
    # Processes, pixels, files, words and records: nothing of these is in a graph. Plugins are part
    # of its key by their versions.
    others = {"errors", "imaging", "plugins", "records", "registry", "scales", "strict", "system"}
    assert {*(parts - others), "kernels"} == {maker for maker in MAKERS if "/" not in maker}


def test_the_fingerprint_is_of_names_and_contents(tmp_path, monkeypatch):
    """Changes sources in a copy of the package."""
    for place in ("inference/graph_cache.py", "quant/a.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("x = 1\n")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "inference/graph_cache.py"))
    monkeypatch.setattr(module, "MAKERS", ("inference/graph_cache.py", "quant"))
    found = [fingerprint.__wrapped__()]
    (tmp_path / "quant/a.py").write_text("x = 2\n")
    found.append(fingerprint.__wrapped__())
    (tmp_path / "quant/a.py").rename(tmp_path / "quant/b.py")
    found.append(fingerprint.__wrapped__())
    (tmp_path / "inference/graph_cache.py").write_text("x = 2\n")
    found.append(fingerprint.__wrapped__())
    assert len(set(found)) == 4


@pytest.mark.slow
def test_weights_keep_8_bits_where_the_processor_adds_in_32(tmp_path, monkeypatch):
    path = tmp_path / "full.safetensors"
    save_model(path, network("full w8a8"), Card(name="full"))
    largest = {}
    for vnni in (False, True):
        monkeypatch.setattr(module, "has_vnni", lambda vnni=vnni: vnni)
        graph = onnx.load(prepare(identify(path)).graph).graph
        codes = [to_array(t) for t in graph.initializer if t.name.endswith(".codes")]
        largest[vnni] = max(int(np.abs(c.astype(int)).max()) for c in codes)
    assert largest == {False: 64, True: 127}


@pytest.mark.slow
def test_a_preparation_that_was_cut_off_is_made_again(tmp_path, tiny_model, traced):
    first = prepare(identify(tiny_model))
    (first.folder / "model.json").unlink()
    first.graph.write_bytes(b"half a graph")
    assert prepare(identify(tiny_model)) == first
    assert len(traced) == 2
    assert first.graph.stat().st_size > 1000


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "a bit": lambda content: content[:-50] + bytes([content[-50] ^ 1]) + content[-49:],
    "garbage": lambda content: b"\xff\x00 garbage",
    "nested": lambda content: b"[" * 100_000,
    "absent": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.json", "graph.onnx"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_anew(tiny_model, traced, capsys, file, damage):
    first = prepare(identify(tiny_model))
    before = {path.name: path.read_bytes() for path in first.folder.glob("*.*")}
    path = first.folder / file
    if DAMAGES[damage] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    capsys.readouterr()
    assert prepare(identify(tiny_model)) == first
    assert capsys.readouterr().err == "preparing tiny for the runtimes here, once\n"
    assert {path.name: path.read_bytes() for path in first.folder.glob("*.*")} == before
    assert len(traced) == 2


def test_another_model_s_graph_or_traits_are_not_believed(tmp_path, tiny_model, traced):
    """Intact files of srq that belong to another model."""
    first = prepare(identify(tiny_model))
    first.graph.write_bytes(first.graph.read_bytes() + b"\x7a\x00")
    assert prepare(identify(tiny_model)) == first
    known = read_sealed(first.folder / "model.json")
    for traits in ({**known["facts"], "scale": 0}, {}, None):
        write_sealed(first.folder / "model.json", {**known, "facts": traits})
        assert prepare(identify(tiny_model)) == first
    assert len(traced) == 5


@pytest.mark.parametrize("runtime", ["auto", "openvino", "onnxruntime"])
def test_a_cache_that_cannot_be_written_is_worked_around(
    tmp_path, tiny_model, traced, monkeypatch, capsys, runtime
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SRQ_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    module._passing.cache_clear()
    for _ in range(2):
        upscaler = open_path(tiny_model, runtime=runtime, device="cpu", threads=1)
        assert upscaler(picture(9, 8)).shape == (18, 16, 3)
    told = capsys.readouterr().err.splitlines()
    warnings = [line for line in told if "SRQ_CACHE" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"srq: warning: cannot write {tmp_path / 'file' / 'cache'}: ")
    # What was prepared serves as long as the process lives.
    assert len(traced) == 1
    assert told[1:] == ["preparing tiny for the runtimes here, once"]


@pytest.mark.slow
def test_what_was_prepared_and_cannot_be_written_serves(cache, monkeypatch, capsys):
    def read_only(*_arguments, **_names):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sr_quant_cli.system.files.tempfile.mkdtemp", read_only)
    before = state(cache.prepared.folder)
    upscaler = open_path(cache.model, runtime="openvino", threads=2, precision="fp32")
    assert upscaler(picture(9, 8)).shape == (18, 16, 3)
    assert state(cache.prepared.folder) == before
    assert capsys.readouterr().err == ""


def test_where_nothing_can_be_written_torch_runs_the_model(
    tmp_path, tiny_model, monkeypatch, capsys
):
    def full(*_arguments, **_names):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SRQ_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(module.tempfile, "TemporaryDirectory", full)
    module._passing.cache_clear()
    upscaler = open_path(tiny_model, runtime="auto", device="cpu")
    assert upscaler.runtime.runtime == "torch"
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(FailedError, match="nor a temporary folder: No space left"):
        open_path(tiny_model, runtime="openvino")


PRIVATE = """
import os, sys
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
        os.write(log, f"{event} {arguments}\\n".encode())
        raise OSError("no network here")

sys.addaudithook(watch)
from sr_quant_cli.cli.app import main
main()
"""


@pytest.mark.slow
def test_nothing_is_sent_and_nothing_written_outside_the_cache(tmp_path, tiny_model):
    """Both runtimes run, since they are timed against each other."""
    home, temporary, pictures = (tmp_path / name for name in ("home", "temporary", "pictures"))
    for folder in (home, temporary, pictures):
        folder.mkdir()
    write_rgb(pictures / "a.png", picture(12, 17))
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary)}
    for name in ("SRQ_CACHE", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD"):
        environment.pop(name, None)
    arguments = [tmp_path / "log", "upscale", pictures / "a.png", "--model", tiny_model]
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text() == ""
    (choice,) = home.rglob("choice-*.json")
    tried = {trial["runtime"] for trial in read_sealed(choice)["trials"]}
    assert tried == {"openvino", "onnxruntime"}
    strangers = [p for p in home.rglob("*") if not p.is_relative_to(home / ".cache/srq")]
    assert strangers == [home / ".cache"]
    assert list(temporary.iterdir()) == []
    assert sorted(path.name for path in pictures.iterdir()) == ["a.png", "a_x2.png"]


def test_what_is_no_model_leaves_no_graph(tmp_path):
    (tmp_path / "text").write_text("no model")
    for name in ("text", "none"):
        with pytest.raises(UsageError, match=name):
            prepare(identify(tmp_path / name))
    graphs = os.environ["SRQ_CACHE"]
    assert not [path for path in state(tmp_path / graphs) if path.suffix in (".onnx", ".json")]


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
@pytest.mark.parametrize(("height", "width", "tile"), [(37, 23, 9), (12, 41, 16)])
def test_tiles_of_prepared_graphs_join_to_the_whole_picture(cache, runtime, height, width, tile):
    lr = picture(height, width)
    options = {"runtime": runtime, "precision": "fp32", "threads": 1}
    whole, tiled = (open_path(cache.model, **options, tile=t)(lr) for t in (None, tile))
    assert whole.shape == (2 * height, 2 * width, 3)
    assert (whole != tiled).mean() <= 1e-3
    assert np.abs(whole.astype(int) - tiled).max() <= 2


@pytest.fixture(scope="module")
def kept_float(tmp_path_factory):
    """A float model whose graph takes pictures of at least 5x5 pixels."""
    folder = tmp_path_factory.mktemp("float")
    model = folder / "tiny.safetensors"
    save_model(model, tiny_edsr(), Card(name="tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRQ_CACHE", str(folder / "cache"))
        patch.setattr(
            "sr_quant_cli.lowering.deploy.deploy", lambda *_, **__: deployed("float", "float")
        )
        prepare(identify(model))
    return SimpleNamespace(model=model, cache=folder / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pictures_smaller_than_a_graph_takes_are_enlarged_too(kept_float, monkeypatch, runtime):
    monkeypatch.setenv("SRQ_CACHE", str(kept_float.cache))
    upscaler = open_path(kept_float.model, runtime=runtime, precision="fp32", threads=1)
    plain = TorchRuntime(tiny_edsr(), CPU)
    for size in ((1, 1), (4, 4), (2, 30), (5, 4), (5, 5), (30, 5)):
        lr = picture(*size)
        assert np.abs(upscaler(lr).astype(int) - plain(lr)).max() <= 1


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
def test_a_foreign_graph_says_its_scale_by_its_output(tmp_path, runtime):
    upscaler = open_path(nearest_onnx(tmp_path / "n.onnx"), runtime=runtime)
    assert (upscaler.name, upscaler.scale, upscaler.tile_count(900, 900)) == ("n.onnx", 2, 1)


def test_upscale_prepares_once_and_says_so(srq, tiny_model, tmp_path, traced):
    write_rgb(tmp_path / "a.png", picture(12, 17))
    command = ("upscale", tmp_path / "a.png", "--model", tiny_model, "--runtime", "onnxruntime")
    code, _, err = srq(*command)
    assert (code, err) == (0, "preparing tiny for the runtimes here, once\n")
    code, _, err = srq(*command, "--overwrite")
    assert (code, err) == (0, "")
    assert len(traced) == 1
