"""``srq export``: files that are written after they were checked, and refusals."""

import json

import numpy as np
import onnx
import pytest
import torch

from sr_quant_cli import __version__
from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.lowering.graph import describe, save_graph, traits_of
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.samples import NAMES, sample_pairs
from sr_quant_cli.lowering.spec import freeze, reduce_range
from sr_quant_cli.lowering.verify import PictureCheck, Verification, verify
from sr_quant_cli.methods import build, config_class
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, Operands
from sr_quant_cli.runtimes.base import Kernels, Runtime
from sr_quant_cli.runtimes.openvino import OpenVinoRuntime
from sr_quant_cli.runtimes.torch import TorchRuntime
from tests.helpers import nearest_onnx, picture, ranked_quantsr_c, tiny_edsr
from tests.lowered import CPU, deployed, graph_file, lr_batch, network, quantize


class Enlarging(Runtime):
    """Bicubic enlargement, with a change to its pixels."""

    runtime, precision = "openvino", "fp32"

    def __init__(self, change=lambda sr: sr, kernels=None):
        self.change, self.seen = change, []
        self.counted = kernels or Kernels(5, 2, ("a", "b"))

    def __call__(self, lr):
        self.seen.append(lr.shape)
        return self.change(enlarge(lr, 2))

    def floats(self, lr):
        raise AssertionError("8 bits are compared")

    def latest_bits(self):
        return None

    def kernels(self):
        return self.counted


def every_other(sr):
    changed = sr.copy()
    changed[::2] = np.where(sr[::2] < 255, sr[::2] + 1, 254)
    return changed


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_samples_are_real_pictures_of_odd_sizes(scale):
    pairs = sample_pairs(scale)
    assert tuple(name for name, _, _ in pairs) == NAMES
    for _, lr, hr in pairs:
        assert lr.dtype == hr.dtype == np.uint8
        assert all(side % 2 for side in lr.shape[:2])
        assert hr.shape == (lr.shape[0] * scale, lr.shape[1] * scale, 3)
        # The right part of the right picture: bicubic comes near it.
        error = np.square(enlarge(lr, scale).astype(float) - hr).mean()
        assert error < 0.3 * hr.astype(float).var()


def test_verify_compares_with_the_model_and_with_hr():
    model, graph = Enlarging(), Enlarging(every_other)
    found = verify(model, graph, 2)
    assert (found.runtime, found.protocol) == ("openvino", "matlab")
    assert found.kernels == Kernels(5, 2, ("a", "b"))
    assert [(p.name, p.size) for p in found.pictures] == [
        ("chelsea", "101x73"),
        ("coffee", "85x97"),
        ("rocket", "113x67"),
    ]
    assert len(set(graph.seen)) == 3
    assert graph.seen == model.seen
    for check in found.pictures:
        assert check.max_difference == 1
        assert check.psnr_changed is None
        # Half of the rows by 1, all but exactly: the LR heights are odd, the HR ones even.
        assert check.psnr_between == pytest.approx(10 * np.log10(255**2 / 0.5), abs=1e-9)
        assert check.loss == check.psnr_model - check.psnr_graph != 0
    assert found.loss == pytest.approx(np.mean([p.loss for p in found.pictures]))
    same = verify(model, Enlarging(), 2)
    assert {(p.max_difference, p.psnr_between, p.loss) for p in same.pictures} == {
        (0, float("inf"), 0.0)
    }


def test_what_a_change_costs_is_no_loss_of_the_graph():
    found = verify(Enlarging(), Enlarging(every_other), 2, Enlarging(every_other))
    assert found.loss == 0
    assert found.cost == pytest.approx(
        np.mean([p.psnr_model - p.psnr_graph for p in found.pictures])
    )
    for check in found.pictures:
        assert check.max_difference == 0
        assert check.psnr_changed == check.psnr_graph != check.psnr_model


@pytest.fixture
def model(tmp_path):
    """A model file that runs on integers throughout."""
    path = tmp_path / "model.safetensors"
    save_model(path, network("full w4a4"), Card(name="tiny w4a4"))
    return path


@pytest.fixture
def traced(monkeypatch):
    """Use a ready graph instead of tracing, which takes seconds; collects the requests."""
    asked = []

    def from_stock(given, name, io, **options):
        asked.append((given, name, io, options))
        return deployed("full w4a4", "uint8")

    monkeypatch.setattr("sr_quant_cli.commands.export.deploy", from_stock)
    return asked


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_export_writes_a_checked_graph_and_says_what_was_found(srq, model, tmp_path):
    target = tmp_path / "made/graph.xml"
    code, out, err = srq(
        *("export", model, "--format", "openvino", "-o", target, "--io", "uint8"),
        *("--threads", 1, "--json", tmp_path / "e.json"),
    )
    assert (code, err) == (0, "")
    assert files(target.parent) == ["graph.bin", "graph.xml"]
    for told in ("tiny w4a4", *NAMES, "101x73", "protocol matlab", "7 convolutions", "0 in float"):
        assert told in out
    assert (
        "note: 8-bit weights reduced to 7 bits, for processors without VNNI, at 2 of 15 sites"
        in out
    )
    size = sum(path.stat().st_size for path in target.parent.iterdir())
    assert f"{model} -> {target}  {size:,} bytes" in out

    report = json.loads((tmp_path / "e.json").read_text())
    assert report["integer_layers"] == 7
    assert report["notes"] == [
        "8-bit weights reduced to 7 bits, for processors without VNNI, at 2 of 15 sites"
    ]
    checks = report["verification"]
    assert checks["runtime"] == "openvino"
    assert checks["kernels"] == {"integer": 7, "floating": 0, "float_names": []}
    assert [picture["name"] for picture in checks["pictures"]] == list(NAMES)
    assert checks["loss"] <= 0.01
    assert traits_of(target).name == "tiny w4a4"
    # As the file itself enlarges, and the file holds the same report.
    runtime = OpenVinoRuntime(target, 1, "fp32")
    again = verify(TorchRuntime(load_model(model)[0], CPU), runtime, 2)
    assert [p.psnr_graph for p in again.pictures] == pytest.approx(
        [p["psnr_graph"] for p in checks["pictures"]], abs=0.01
    )
    entry = json.loads(runtime._model.get_rt_info("srq").astype(str))
    assert entry["version"] == __version__
    assert entry["verification"] == checks
    assert entry["notes"] == report["notes"]

    write_rgb(tmp_path / "a.png", picture(15, 11))
    code, _, err = srq("upscale", tmp_path / "a.png", "--model", target, "--precision", "fp32")
    assert (code, err) == (0, "")
    assert np.array_equal(read_rgb(tmp_path / "a_x2.png"), runtime(picture(15, 11)))


@pytest.mark.slow
def test_the_default_output_is_named_after_the_model(srq, model, tmp_path, monkeypatch, traced):
    monkeypatch.chdir(tmp_path)
    code, _, err = srq("export", model, "--threads", 1)
    assert (code, err) == (0, "")
    assert files(tmp_path) == ["model.onnx", "model.safetensors"]
    ((_, name, io, options),) = traced
    assert (name, io) == ("tiny w4a4", "float")
    assert options == {"offsets": "exact", "full_range": False, "calibration": None}
    (entry,) = onnx.load(tmp_path / "model.onnx").metadata_props
    assert json.loads(entry.value)["verification"]["runtime"] == "onnxruntime"


def test_options_reach_the_graph(srq, tmp_path, monkeypatch):
    asked = []

    def stop(given, name, io, **options):
        asked.append((given.depth, name, io, options))
        raise KeyboardInterrupt

    monkeypatch.setattr("sr_quant_cli.commands.export.deploy", stop)
    for index in range(2):
        write_rgb(tmp_path / f"photos/p{index}.png", picture(150, 140, seed=index))
    save_model(tmp_path / "deep.safetensors", ranked_quantsr_c(), Card(name="deep"))
    code, _, _ = srq(
        *("export", tmp_path / "deep.safetensors", "--offsets", "snap", "--full-range"),
        *("--depth", "half", "--io", "uint8", "--calibrate", tmp_path / "photos"),
    )
    assert code == 130
    ((depth, name, io, options),) = asked
    assert (depth, name, io) == ("half", "deep, half depth", "uint8")
    (batch,) = options.pop("calibration")
    assert options == {"offsets": "snap", "full_range": True}
    assert batch.shape == (32, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert 0 <= batch.min() < batch.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".ONNX"])
def test_existing_files_are_replaced_only_when_asked(srq, model, tmp_path, traced, suffix):
    target = tmp_path / f"g{suffix}"
    other = target.with_suffix(".bin") if suffix == ".xml" else target
    other.write_text("precious")
    command = ("export", model, "-o", target, "--threads", 1)
    command += ("--format", "openvino") if suffix == ".xml" else ()
    code, out, err = srq(*command)
    assert (code, out) == (2, "")
    assert err == f"srq: error: {other} exists; use --overwrite to replace it\n"
    assert other.read_text() == "precious"
    assert not traced
    code, _, err = srq(*command, "--overwrite")
    assert (code, err) == (0, "")
    assert other.read_bytes() != b"precious"
    assert traits_of(target).name == "full w4a4"


@pytest.mark.slow
def test_a_graph_that_loses_too_much_is_not_written(srq, model, tmp_path, monkeypatch, traced):
    def poor(_model, runtime, _scale, _changed):
        checks = [PictureCheck(n, "9x9", 9, 40.0, 30.0, None, psnr) for n, psnr in losses]
        return Verification(runtime.runtime, "matlab", Kernels(7, 0), tuple(checks))

    monkeypatch.setattr("sr_quant_cli.commands.export.verify", poor)
    before = files(tmp_path)
    losses = [("a", 29.98), ("b", 29.9), ("c", 30.0)]
    code, out, err = srq("export", model, "-o", tmp_path / "g.onnx")
    assert code == 1
    assert "29.900" in out
    assert err == (
        "srq: error: the graph loses 0.040 dB on the sample pictures, allowed are 0.01; most on b, "
        "0.100 dB; nothing was written\n"
    )
    assert files(tmp_path) == before
    losses = [("a", 29.98), ("b", 30.0), ("c", 30.0)]
    assert srq("export", model, "-o", tmp_path / "g.onnx")[0] == 0


@pytest.mark.slow
def test_float_kernels_where_integers_were_meant_are_refused(
    srq, model, tmp_path, monkeypatch, traced
):
    before = files(tmp_path)
    for count, shown in ((2, "k0, k1;"), (9, "k0, k1, k2, k3, k4, ...;")):
        kernels = Kernels(5, count, tuple(f"k{index}" for index in range(count)))
        monkeypatch.setattr(
            "sr_quant_cli.runtimes.onnxruntime.OnnxRuntime.kernels", lambda _, k=kernels: k
        )
        code, out, err = srq("export", model, "-o", tmp_path / "g.onnx", "--threads", 1)
        assert code == 1
        assert f"{count} in float" in out
        assert err == (
            f"srq: error: onnxruntime runs {count} kernels in float that should be on integers: "
            f"{shown} nothing was written\n"
        )
        assert files(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_real_offsets_are_exported_with_some_kernels_in_float(srq, tmp_path, monkeypatch, format_):
    monkeypatch.setattr(
        "sr_quant_cli.commands.export.deploy", lambda *_, **__: deployed("offsets", "float")
    )
    save_model(tmp_path / "o.safetensors", network("offsets"), Card())
    target = tmp_path / ("o.onnx" if format_ == "onnx" else "o.xml")
    code, out, err = srq(
        *("export", tmp_path / "o.safetensors", "--format", format_, "-o", target),
        *("--threads", 1),
    )
    assert (code, err) == (0, "")
    assert (
        "note: 8-bit weights reduced to 7 bits, for processors without VNNI, at 2 of 16 sites"
        in out
    )
    assert " 0 in float" not in out
    assert traits_of(target) == deployed("offsets", "float").traits


@pytest.mark.slow
def test_layers_that_give_floats_may_run_in_float(srq, tmp_path):
    """ONNX Runtime has no kernel from integers to floats."""
    made, method = tiny_edsr(), build(config_class("minmax")())
    quantize_network(made, method, FULL | {"block_out": Operands()}, Bits(8, 8))
    method.calibrate(made, [lr_batch(2)])
    save_model(tmp_path / "m.safetensors", made.eval(), Card(name="open"))
    target = tmp_path / "m.onnx"
    code, out, err = srq("export", tmp_path / "m.safetensors", "-o", target, "--threads", 1)
    assert (code, err) == (0, "")
    assert "layers at full depth have integer operands; onnxruntime may run in float what" in out
    assert target.is_file()


@pytest.mark.slow
def test_a_network_whose_output_is_no_number_is_not_exported(srq, tmp_path):
    made = tiny_edsr()
    with torch.no_grad():
        made.head.weight.fill_(1e30)
        made.body[0].conv1.weight.fill_(1e30)
    save_model(tmp_path / "m.safetensors", made, Card())
    target = tmp_path / "m.onnx"
    code, _, err = srq("export", tmp_path / "m.safetensors", "-o", target, "--threads", 1)
    assert code in (1, 2)
    assert err.startswith("srq: error: ")
    assert err.count("\n") == 1
    assert not target.exists()


@pytest.mark.slow
def test_a_depth_that_leaves_out_blocks_is_exported_on_integers(srq, tmp_path):
    deep = quantize(fold(ranked_quantsr_c(n_blocks=2)), "minmax", bits=8)
    save_model(tmp_path / "d.safetensors", deep, Card(name="deep"))
    target = tmp_path / "d.xml"
    code, _, err = srq(
        *("export", tmp_path / "d.safetensors", "--depth", "half", "--format", "openvino"),
        *("-o", target, "--threads", 1, "--json", tmp_path / "d.json"),
    )
    assert (code, err) == (0, "")
    kernels = json.loads((tmp_path / "d.json").read_text())["verification"]["kernels"]
    assert kernels == {"integer": 5, "floating": 0, "float_names": []}
    deep.set_depth("half")
    assert traits_of(target).name == "deep, half depth"
    assert traits_of(target).receptive_radius == deep.receptive_radius
    lr = picture(13, 18)
    wanted = TorchRuntime(lower(deep, reduce_range(freeze(deep))), CPU)(lr).astype(int)
    assert np.abs(OpenVinoRuntime(target, 1, "fp32")(lr) - wanted).max() <= 1


WRONG = [
    (
        ["export", "MODEL", "-o", "g.xml"],
        "--output g.xml: --format onnx is written to a .onnx file",
    ),
    (["export", "MODEL", "--format", "openvino", "-o", "g.onnx"], "is written to a .xml file"),
    (["export", "MODEL", "-o", "g"], "is written to a .onnx file"),
    (["export", "MODEL", "--format", "tflite"], "--format"),
    (["export", "MODEL", "--io", "int8"], "--io"),
    (["export", "MODEL", "--offsets", "none"], "--offsets"),
    (["export", "MODEL", "--threads", "0"], "--threads"),
    (["export", "MODEL", "--depth", "half"], "this edsr runs at full depth only"),
    (["export", "MODEL", "--calibrate", "nowhere"], "nowhere"),
    (["export", "TEXT"], "text.png is a text file"),
    (["export", "none.safetensors"], "no such model file: none.safetensors"),
    (["export", "--scale", "5"], "--scale 5: must be one of 2, 3, 4"),
    (["upscale", "LR", "--model", "FOREIGN", "--depth", "half"], "n.onnx is a graph, whose depth"),
    (
        ["upscale", "LR", "--model", "FOREIGN", "--runtime", "torch"],
        "runs by srq or openvino or onnx",
    ),
    (
        ["upscale", "LR", "--model", "FOREIGN", "--runtime", "onnxruntime", "--precision", "bf16"],
        "--precision bf16: onnxruntime has none",
    ),
    (["eval", "FOREIGN", "--bench", "Set5", "--scale", "3"], "enlarges by 2, not by 3"),
    (["upscale", "LR", "--model", "bad.onnx"], "bad.onnx is no readable ONNX file"),
    (["upscale", "LR", "--model", "bad.xml"], "bad.xml is no readable OpenVINO network"),
    (["upscale", "LR", "--model", "empty.onnx"], "empty.onnx is no readable network"),
    (["upscale", "LR", "--model", "none.onnx"], "no such model file: none.onnx"),
    (["upscale", "LR", "--model", "folder.onnx"], "folder.onnx is no run folder"),
    (["upscale", "LR", "--model", "OPENVINO", "--runtime", "onnxruntime"], "takes .onnx files"),
    (["upscale", "LR", "--model", "TEXT", "--runtime", "openvino"], "text.png is a text file"),
    (
        ["upscale", "LR", "--model", "MODEL", "--runtime", "openvino", "--device", "cuda"],
        "--device cuda: openvino runs on the CPU",
    ),
    (["upscale", "LR", "--model", "MODEL", "--runtime", "tensorrt"], "--runtime"),
    (["eval", "FOREIGN", "--runtime", "torch"], "runs by srq or openvino or onnxruntime"),
    (["eval", "MODEL", "--record", "--runtime", "openvino"], "not by openvino"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_usage_is_one_line_and_exit_2(
    srq, tmp_path, tiny_model, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("text.png", "bad.onnx", "bad.xml"):
        (tmp_path / name).write_text("no picture, no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "folder.onnx").mkdir()
    write_rgb(tmp_path / "lr.png", picture(9, 8))
    nearest_onnx(tmp_path / "n.onnx")
    save_graph(onnx.load("n.onnx"), tmp_path / "n.xml")
    names = {"MODEL": tiny_model.name, "TEXT": "text.png", "LR": "lr.png"}
    names |= {"FOREIGN": "n.onnx", "OPENVINO": "n.xml"}
    before = sorted(tmp_path.rglob("*"))
    code, out, err = srq(*(names.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("srq: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_metadata_that_make_no_sense_are_refused_in_a_line(srq, tmp_path):
    write_rgb(tmp_path / "lr.png", picture(9, 8))
    path = nearest_onnx(tmp_path / "n.onnx")
    model = onnx.load(path)
    for text in ("nonsense", "{}", '{"facts": {"name": "n", "scale": 2, "wings": 7}}', "[]"):
        onnx.helper.set_model_props(model, {"srq": text})
        onnx.save(model, path)
        code, _, err = srq("upscale", tmp_path / "lr.png", "--model", path)
        assert code == 2
        assert "n.onnx" in err
        assert err.count("\n") == 1


@pytest.mark.slow
def test_srq_s_graphs_run_in_tiles_as_on_the_whole_picture(srq, tmp_path):
    made = deployed("full w8a8", "float")
    path = tmp_path / "g.onnx"
    describe(made.model, made.traits)
    save_graph(made.model, path)
    write_rgb(tmp_path / "lr.png", picture(41, 30))
    for name, more in (("whole", ()), ("tiled", ("--tile", 13))):
        code, _, err = srq(
            *("upscale", tmp_path / "lr.png", "--model", path, "-o", tmp_path / f"{name}.png"),
            *("--threads", 1, *more),
        )
        assert (code, err) == (0, "")
    whole, tiled = (read_rgb(tmp_path / f"{name}.png").astype(int) for name in ("whole", "tiled"))
    assert whole.shape == (82, 60, 3)
    assert np.abs(whole - tiled).max() <= 1
    assert (whole != tiled).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pictures_too_small_for_a_folded_graph_are_refused(srq, tmp_path, runtime):
    path = graph_file(tmp_path, "float", "float")
    for size in ((3, 9), (4, 4)):
        write_rgb(tmp_path / "small.png", picture(*size))
        code, _, err = srq(
            *("upscale", tmp_path / "small.png", "--model", path, "--runtime", runtime),
            *("-o", tmp_path / "o.png"),
        )
        assert code == 2
        assert "at least 5x5" in err
        assert err.count("\n") == 1
        assert not (tmp_path / "o.png").exists()
    write_rgb(tmp_path / "least.png", picture(5, 5))
    code, _, _ = srq(
        *("upscale", tmp_path / "least.png", "--model", path, "--runtime", runtime),
        *("-o", tmp_path / "o.png", "--precision", "fp32"),
    )
    assert code == 0
    wanted = TorchRuntime(network("float"), CPU)(picture(5, 5))
    assert np.abs(read_rgb(tmp_path / "o.png").astype(int) - wanted).max() <= 1
