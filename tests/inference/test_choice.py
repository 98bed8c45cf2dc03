"""Choice of the runtime: always the same one, also for several processes."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.inference import choice
from sr_quant_cli.inference.choice import choose
from sr_quant_cli.inference.graph_cache import Prepared
from sr_quant_cli.lowering.samples import sample_pairs
from sr_quant_cli.networks.folding import fold_exactly
from sr_quant_cli.runtimes import registry
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.runtimes.registry import get_runtime
from sr_quant_cli.runtimes.torch import TorchRuntime
from sr_quant_cli.system.files import read_sealed, write_sealed
from tests.helpers import nearest_onnx, open_path, picture, tiny_edsr
from tests.lowered import CPU


class Drawn:
    """A runtime that returns bicubic pictures, or their negatives, after given times."""

    def __init__(self, seconds, clock, *, wrong):
        self.seconds, self.clock, self.wrong = seconds, clock, wrong
        self.runs = 0

    def __call__(self, lr):
        self.clock.now += self.seconds[self.runs % len(self.seconds)]
        self.runs += 1
        return 255 - enlarge(lr, 2) if self.wrong else enlarge(lr, 2)


def bicubic_model(folder):
    _, lr, hr = sample_pairs(2)[0]
    error = np.square(enlarge(lr, 2).astype(float) - hr).mean()
    traits = ModelTraits("bicubic", 2, 2, 100)
    return Prepared(folder, traits, float(10 * np.log10(255**2 / error)), "nothing")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Replace the real runtimes for a model that is bicubic."""
    model = bicubic_model(tmp_path)
    clock = SimpleNamespace(now=0.0)

    def put(wrong=(), **seconds):
        def open_graph(name, given, threads, precision):
            assert given is model
            opened.append((name, threads, precision))
            times = seconds[name] if isinstance(seconds[name], list) else [seconds[name]]
            return Drawn(times, clock, wrong=name in wrong)

        opened = []
        whole = [entry for entry in registry.runtimes() if not entry.partial]
        monkeypatch.setattr(choice, "runtimes", lambda: whole)
        monkeypatch.setattr(choice, "open_graph", open_graph)
        monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        return model, opened

    return put


@pytest.mark.parametrize("fast", ["openvino", "onnxruntime"])
def test_the_fastest_runtime_is_measured_once_and_remembered(drawn, fast):
    model, opened = drawn(**{"openvino": 0.2, "onnxruntime": 0.2, fast: 0.1})
    assert choose(model, "fp32") == fast
    # On one thread, so that it does not depend on how many are asked for.
    assert opened == [("openvino", 1, "fp32"), ("onnxruntime", 1, "fp32")]
    known = read_sealed(model.folder / "choice-fp32.json")
    assert {trial["runtime"]: trial["seconds"] for trial in known["trials"]} == pytest.approx(
        {"openvino": 0.2, "onnxruntime": 0.2, fast: 0.1}
    )
    assert [trial["loss"] for trial in known["trials"]] == pytest.approx([0, 0], abs=1e-4)
    _, opened = drawn(openvino=0.3, onnxruntime=0.3)
    assert choose(model, "fp32") == fast
    assert opened == []
    assert choose(model, "auto") == "openvino"
    assert opened == [("openvino", 1, "auto"), ("onnxruntime", 1, "auto")]


@pytest.mark.parametrize(("share", "chosen"), [(0.88, "openvino"), (0.82, "onnxruntime")])
def test_times_that_are_nearly_equal_do_not_decide(drawn, share, chosen):
    model, _ = drawn(openvino=0.1, onnxruntime=0.1 * share)
    assert choose(model, "fp32") == chosen


def test_a_disturbed_run_does_not_decide(drawn):
    """The first run warms up; later ones are disturbed, except for the last two."""
    model, _ = drawn(openvino=[9.0, 0.7, 0.6, 0.1, 0.2, 0.5], onnxruntime=[9.0, *[0.095] * 5])
    assert choose(model, "fp32") == "openvino"


def test_a_slow_model_is_not_run_often(drawn):
    model, _ = drawn(openvino=9.0, onnxruntime=5.0)
    clock = choice.time
    before = clock.perf_counter()
    assert choose(model, "fp32") == "onnxruntime"
    assert clock.perf_counter() - before == 2 * (9 + 5)  # to look at the picture, and a round


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"runtime": "openvino"}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_damaged_record_is_measured_again(drawn, damage, capsys):
    model, opened = drawn(openvino=0.9, onnxruntime=0.1)
    (model.folder / "choice-fp32.json").write_bytes(damage)
    assert choose(model, "fp32") == "onnxruntime"
    assert len(opened) == 2
    assert choose(model, "fp32") == "onnxruntime"
    assert len(opened) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["tensorflow", 3, None])
def test_a_record_of_no_runtime_is_measured_again(drawn, name):
    model, _ = drawn(openvino=0.1, onnxruntime=0.9)
    write_sealed(model.folder / "choice-fp32.json", {"runtime": name})
    assert choose(model, "fp32") == "openvino"


def test_a_choice_that_cannot_be_kept_is_made_all_the_same(drawn, monkeypatch, capsys):
    model, _ = drawn(openvino=0.1, onnxruntime=0.9)

    def read_only(path, _values):
        raise FailedError(f"cannot write {path.name}: Permission denied")

    monkeypatch.setattr(choice, "write_sealed", read_only)
    assert choose(model, "fp32") == "openvino"
    told = capsys.readouterr().err
    assert told.startswith("srq: warning: cannot write choice-fp32.json")
    assert told.count("\n") == 1


def test_all_that_ask_at_once_wait_for_one_measurement(drawn, monkeypatch):
    """Threads stand for processes: a file lock keeps out both."""
    model, opened = drawn(openvino=0.1, onnxruntime=0.9)
    swift = choice.open_graph

    def slow(*arguments):
        time.sleep(0.2)
        return swift(*arguments)

    monkeypatch.setattr(choice, "open_graph", slow)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(choose, [model] * 4, ["fp32"] * 4))
    assert found == {"openvino"}
    assert len(opened) == 2


def test_a_runtime_that_disagrees_is_not_chosen_however_fast(drawn):
    model, _ = drawn(wrong=["openvino"], openvino=0.1, onnxruntime=0.9)
    assert choose(model, "fp32") == "onnxruntime"
    model, _ = drawn(wrong=["onnxruntime"], openvino=0.9, onnxruntime=0.1)
    assert choose(model, "auto") == "openvino"


def test_bf16_is_openvino_s_alone(drawn):
    model, opened = drawn(openvino=0.9, onnxruntime=0.1)
    assert choose(model, "bf16") == "openvino"
    assert opened == [("openvino", 1, "bf16")]


def test_a_runtime_that_cannot_run_a_model_is_left_out_and_told(drawn, monkeypatch, capsys):
    model, _ = drawn(openvino=0.1, onnxruntime=0.9)
    working = choice.open_graph

    def open_graph(name, *how):
        if name == "openvino":
            raise UsageError("no kernel")
        return working(name, *how)

    monkeypatch.setattr(choice, "open_graph", open_graph)
    assert choose(model, "fp32") == "onnxruntime"
    assert capsys.readouterr().err == "srq: warning: openvino is left out here: no kernel\n"


def test_where_all_disagree_torch_runs_the_model(drawn, monkeypatch, tiny_model):
    model, opened = drawn(wrong=["openvino", "onnxruntime"], openvino=0.1, onnxruntime=0.1)
    assert choose(model, "fp32") == "torch"
    monkeypatch.setattr("sr_quant_cli.inference.graph_cache.prepare", lambda *_, **__: model)
    upscaler = open_path(tiny_model, runtime="auto", device="cpu", precision="fp32", threads=1)
    assert upscaler.runtime.runtime == "torch"
    assert len(opened) == 2
    lr = picture(9, 12)
    wanted = TorchRuntime(fold_exactly(tiny_edsr()), CPU)(lr)
    assert np.array_equal(upscaler(lr), wanted)


@pytest.mark.parametrize("missing", ["openvino", "onnxruntime"])
def test_a_runtime_that_is_not_installed(tmp_path, monkeypatch, drawn, missing):
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(UsageError, match=f"`runtime` {missing}: it is not installed"):
        get_runtime(missing).open(nearest_onnx(tmp_path / "n.onnx"), 1, "fp32")
    model, opened = drawn(openvino=0.1, onnxruntime=0.1)
    assert choose(model, "fp32") != missing
    assert len(opened) == 1
    # One that was chosen and is gone is not missed.
    write_sealed(model.folder / "choice-fp32.json", {"runtime": missing})
    assert choose(model, "fp32") != missing
