"""Graphs in both runtimes compared with their networks."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sr_quant_cli import __version__
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import describe, save_graph, traits_of
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.spec import freeze, reduce_range, snap
from sr_quant_cli.methods import build, config_class
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.networks.layers import Leaf
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import Operands
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime
from sr_quant_cli.runtimes.openvino import OpenVinoRuntime
from sr_quant_cli.runtimes.torch import TorchRuntime
from tests.helpers import BlockConfig, nearest_onnx, onnx_session, picture, tiny_edsr
from tests.lowered import (
    CPU,
    Transformer,
    deployed,
    graph_file,
    lr_batch,
    network,
    quantize,
    reference,
)

MADE = [
    ("float", "float"),
    ("full w8a8", "float"),
    ("full w4a4", "uint8"),
    ("mixed bits", "float"),
    ("offsets", "float"),
    ("transformer", "float"),
]
each_graph = pytest.mark.parametrize(("which", "io"), MADE)
ODD = ((7, 5), (16, 31), (33, 18))


def runtimes(path):
    return [OnnxRuntime(path, 1), OpenVinoRuntime(path, 1, "fp32")]


def as_written(path):
    """Run ONNX Runtime without optimization: every operation as it is defined."""
    session = onnx_session(path, as_written=True)
    return lambda x: session.run(None, {"lr": x})[0]


def difference(a, b):
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    return np.abs(a.astype(int) - b)


@pytest.mark.slow
@each_graph
def test_graphs_are_valid_and_free_in_height_and_width(which, io):
    model = deployed(which, io).model
    onnx.checker.check_model(model, full_check=True)
    ((source,), (target,)) = model.graph.input, model.graph.output
    assert (source.name, target.name) == ("lr", "sr")
    free, kind = {
        "float": ((1, 3, None, None), onnx.TensorProto.FLOAT),
        "uint8": ((1, None, None, 3), onnx.TensorProto.UINT8),
    }[io]
    for value in (source, target):
        assert value.type.tensor_type.elem_type == kind
        dims = value.type.tensor_type.shape.dim
        assert tuple(d.dim_value if d.HasField("dim_value") else None for d in dims) == free
    assert [opset.version for opset in model.opset_import if not opset.domain] == [18]


@pytest.mark.slow
@each_graph
def test_a_graph_is_the_lowered_network(tmp_path, which, io):
    graph = as_written(graph_file(tmp_path, which, io))
    torch_runtime = reference(which)
    for height, width in ODD:
        lr = picture(height, width, seed=height)
        if io == "uint8":
            found = graph(lr[None])[0]
        else:
            x = (lr.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
            found = np.clip(np.rint(graph(x)[0] * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        assert found.shape == (2 * height, 2 * width, 3)
        assert difference(found, torch_runtime(lr)).max() <= 1
        assert found.std() > 1


@pytest.mark.slow
@each_graph
def test_runtimes_give_what_torch_gives(tmp_path, which, io):
    path = graph_file(tmp_path, which, io)
    torch_runtime = reference(which)
    for runtime in runtimes(path):
        for height, width in ODD:
            lr = picture(height, width, seed=height)
            found = difference(runtime(lr), torch_runtime(lr))
            # At 4 bits and less, a tie that is rounded the other way changes many pixels.
            few_bits = which in ("full w4a4", "mixed bits")
            assert found.max() <= (4 if few_bits else 1)
            assert found.mean() <= (0.5 if few_bits else 0.15)


@pytest.mark.parametrize(("which", "io"), MADE[1:3])
def test_at_the_full_placement_all_kernels_are_integers(tmp_path, which, io):
    made = deployed(which, io)
    assert made.all_integer
    assert made.integer_layers == 7
    for runtime in runtimes(graph_file(tmp_path, which, io)):
        kernels = runtime.kernels()
        assert (kernels.integer, kernels.floating, kernels.float_names) == (7, 0, ())


@pytest.mark.slow
@pytest.mark.parametrize(("which", "again"), [("full w8a8", 0), ("full w4a4", 2)])
def test_codes_are_made_once_of_each_tensor(which, again):
    graph = deployed(which, "uint8").model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    sources = [made_by.get(node.input[0]) for node in quantized]
    # At 4 bits the first convolution of a block has other codes than the 8-bit shortcut.
    assert sum(node is not None and node.op_type == "DequantizeLinear" for node in sources) == again
    assert not any(node.op_type == "Identity" for node in graph.node)


@pytest.mark.slow
def test_shifts_and_shuffles_leave_all_kernels_integer(tmp_path):
    for runtime in runtimes(graph_file(tmp_path, "shifts", "uint8")):
        kernels = runtime.kernels()
        assert (kernels.integer, kernels.floating, kernels.float_names) == (8, 0, ())


def test_kernels_of_other_graphs_are_float_and_named(tmp_path):
    for runtime in runtimes(graph_file(tmp_path, "float", "float")):
        kernels = runtime.kernels()
        assert kernels.integer == 0
        assert kernels.floating == len(kernels.float_names) >= 7
    made = deployed("offsets", "float")
    assert (made.integer_layers, made.all_integer) == (8, False)
    in_onnxruntime, in_openvino = (
        runtime.kernels() for runtime in runtimes(graph_file(tmp_path, "offsets", "float"))
    )
    # Every layer runs on integers; its offsets add a float convolution at the border.
    assert in_openvino.integer >= 8
    assert in_openvino.floating > 0
    assert in_onnxruntime.floating >= in_openvino.floating


def test_a_float_network_is_folded_and_exact_at_the_border(tmp_path):
    made = deployed("float", "float")
    assert made.notes == ()
    assert (made.integer_layers, made.all_integer, made.changed) == (0, False, None)
    assert made.traits.least == 5
    graph = as_written(graph_file(tmp_path, "float", "float"))
    compiled = OpenVinoRuntime(tmp_path / "float-float.onnx", 1, "fp32")._compiled
    for height, width in (*ODD, (5, 5)):
        x = torch.from_numpy(picture(height, width, seed=1)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            wanted = network("float")(x).numpy()
            inside = fold(network("float"))(x).numpy()
        # Folding without care for the border would give another result.
        assert np.abs(inside - wanted).max() > 1e-3
        assert np.abs(graph(x.numpy()) - wanted).max() <= 1e-5
        assert np.abs(compiled([x.numpy()])[0] - wanted).max() <= 1e-5


class Brighter(Transformer):
    """Enlarge pixels twice with more contrast: beyond 0 and 255, far from ties."""

    def declared_sites(self):
        return ()

    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=2.0) * 1.3 - 0.1013


@pytest.mark.slow
def test_8_bit_outputs_are_rounded_and_clipped(tmp_path):
    path = tmp_path / "brighter.onnx"
    save_graph(deploy(Brighter(BlockConfig(scale=2)), "brighter", "uint8").model, path)
    lr = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    exact = np.arange(256) * 1.3 - 0.1013 * 255
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 0.01
    assert (exact.min(), exact.max()) == (pytest.approx(-25.8315), pytest.approx(305.6685))
    levels = np.clip(np.rint(exact), 0, 255).astype(np.uint8).reshape(16, 16, 1)
    wanted = levels.repeat(3, axis=2).repeat(2, axis=0).repeat(2, axis=1)
    for runtime in runtimes(path):
        assert np.array_equal(runtime(lr), wanted)


def test_what_the_metadata_say(tmp_path):
    traits = ModelTraits("full w4a4", 2, 8, 4 * (4 * 8 + 12 * 4), least=2, dynamic=False)
    assert deployed("full w4a4", "uint8").traits == traits
    for suffix in (".onnx", ".xml"):
        path = graph_file(tmp_path, "full w4a4", "uint8", suffix)
        assert traits_of(path) == traits
    model = onnx.load(tmp_path / "full-w4a4-uint8.onnx")
    assert (model.producer_name, model.producer_version) == ("srq", __version__)
    (entry,) = model.metadata_props
    assert json.loads(entry.value)["version"] == __version__
    # Further entries, and a second description that replaces the first.
    describe(model, traits, notes=["a", "b"])
    (entry,) = model.metadata_props
    assert json.loads(entry.value)["notes"] == ["a", "b"]


def test_a_graph_of_others_says_nothing(tmp_path):
    path = nearest_onnx(tmp_path / "n.onnx")
    assert traits_of(path) is None
    model = onnx.load(path)
    save_graph(model, tmp_path / "n.xml")
    with pytest.raises(UsageError, match="no such model file"):
        traits_of(tmp_path / "none.onnx")
    for name in ("bad.onnx", "bad.xml"):
        (tmp_path / name).write_text("no graph")
        with pytest.raises(UsageError, match=rf"{name} is no readable"):
            traits_of(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize(("which", "io"), MADE[:3])
def test_openvino_s_files_are_the_onnx_graph(tmp_path, which, io):
    ours = OpenVinoRuntime(graph_file(tmp_path, which, io), 1, "fp32")
    path = graph_file(tmp_path, which, io, ".xml")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".bin", ".onnx", ".xml"]
    theirs = OpenVinoRuntime(path, 1, "fp32")
    lr = picture(19, 22, seed=3)
    assert np.array_equal(ours(lr), theirs(lr))
    assert ours.kernels().floating == theirs.kernels().floating
    path.with_suffix(".bin").unlink()
    with pytest.raises(UsageError, match=r"\.xml is no readable network"):
        OpenVinoRuntime(path, 1)


def test_the_network_stays_and_what_was_changed_is_told(monkeypatch):
    made = []

    def traced(lowered, io):
        made.append((lowered, io))
        return onnx.ModelProto()

    monkeypatch.setattr("sr_quant_cli.lowering.deploy.to_onnx", traced)
    simulated = network("offsets")
    before = {key: value.clone() for key, value in simulated.state_dict().items()}
    exact = deploy(simulated, "name", "float")
    snapped = deploy(simulated, "name", "uint8", offsets="snap", full_range=True)
    assert [io for _, io in made] == ["float", "uint8"]
    assert all(torch.equal(simulated.state_dict()[key], value) for key, value in before.items())
    assert exact.traits == snapped.traits
    assert exact.notes == (
        "8-bit weights reduced to 7 bits, for processors without VNNI, at 2 of 16 sites",
    )
    assert snapped.notes == ("moved to a multiple of its step at 8 of 16 sites",)
    lr, expected = picture(12, 9), []
    spec = freeze(simulated)
    for (lowered, _), wanted in zip(made, (reduce_range(spec), snap(spec)), strict=True):
        expected.append(TorchRuntime(lower(simulated, wanted), CPU)(lr))
        assert np.array_equal(TorchRuntime(lowered, CPU)(lr), expected[-1])
    for changed, wanted in zip((exact.changed, snapped.changed), expected, strict=True):
        assert np.array_equal(TorchRuntime(changed, CPU)(lr), wanted)
    assert deploy(simulated, "name", "float", full_range=True).changed is None


@pytest.mark.slow
def test_dynamic_ranges_stay_in_float_and_are_named(tmp_path):
    torch.manual_seed(0)
    small = EDSR(EDSRConfig(scale=2, n_blocks=1, n_feats=4))
    placement = {"block": Operands("low", "low")}
    quantize_network(small, build(config_class("daq")()), placement, Bits(4, 4))
    simulated = small.eval()
    made = deploy(simulated, "daq", "float")
    assert (made.integer_layers, made.all_integer, made.traits.dynamic) == (0, False, True)
    (note,) = made.notes
    assert note == (
        "1 operands stay in float (body.0.conv2): its range follows from the picture at run time"
    )
    save_graph(made.model, tmp_path / "daq.onnx")
    torch_runtime = TorchRuntime(simulated, CPU)
    for runtime in runtimes(tmp_path / "daq.onnx"):
        assert runtime.kernels().integer == 0
        for height, width in ODD[:2]:
            lr = picture(height, width, seed=height)
            found = difference(runtime(lr), torch_runtime(lr))
            assert found.max() <= 1


@pytest.mark.slow
def test_chosen_gates_stay_in_float_and_the_rest_does_not(tmp_path):
    simulated = quantize(tiny_edsr(), "ddtb", "paper", bits=8)
    gated = simulated.get_submodule("body.1.block_out").input_quantizer
    gated.dynamic.fill_(True)
    gated.applied.fill_(True)
    nn.init.constant_(gated.gate.expand.weight, -1.0)  # narrower bounds
    made = deploy(simulated, "ddtb", "float")
    assert made.integer_layers == 4
    assert made.notes[0].startswith(
        "1 operands stay in float (body.1.block_out): its range follows"
    )
    save_graph(made.model, tmp_path / "ddtb.onnx")
    model = TorchRuntime(simulated, CPU)
    lr = picture(16, 31, seed=1)
    gated.dynamic.fill_(False)
    without = model(lr)
    gated.dynamic.fill_(True)
    wanted = model(lr)
    assert difference(without, wanted).max() > 3
    for runtime in runtimes(tmp_path / "ddtb.onnx"):
        assert difference(runtime(lr), wanted).max() <= 1


@pytest.mark.parametrize("variant", ["corrected", "code"])
@pytest.mark.parametrize("name", ["daq", "ddtb"])
def test_ranges_are_fixed_by_calibration(monkeypatch, name, variant):
    monkeypatch.setattr("sr_quant_cli.lowering.deploy.to_onnx", lambda *_: onnx.ModelProto())
    simulated = quantize(tiny_edsr(), name, "full", bits=8, variant=variant)
    if name == "ddtb":
        for path in ("body.0.conv2", "tail"):
            quantizer = simulated.get_submodule(path).input_quantizer
            quantizer.dynamic.fill_(True)
            quantizer.applied.fill_(True)
    made = deploy(simulated, name, "float", calibration=[lr_batch(4, size=16)])
    assert made.all_integer
    assert made.integer_layers == 8
    assert f"{12 if name == 'daq' else 2} dynamic or non-uniform ranges fixed" in made.notes[0]
    x = lr_batch(2, first=7)
    with torch.no_grad():
        wanted, found = simulated(x), made.changed(x)
    assert found.isfinite().all()
    assert (found - wanted).square().mean() < 0.5 * wanted.var()


def test_many_operands_in_float_are_a_line_for_each_reason(monkeypatch):
    monkeypatch.setattr("sr_quant_cli.lowering.deploy.to_onnx", lambda *_: onnx.ModelProto())
    made = deploy(quantize(tiny_edsr(), "daq", "paper"), "daq", "float")
    assert made.notes == (
        "4 operands stay in float (body.0.conv1, body.0.conv2, ..., body.1.conv2): "
        "its range follows from the picture at run time",
    )


def test_what_does_not_become_a_graph_is_one_line(monkeypatch):
    def untraceable(*_args, **_options):
        raise RuntimeError("the exporter's own\nlong story") from ValueError("no such op\nas i1")

    monkeypatch.setattr("torch.onnx.export", untraceable)
    with pytest.raises(FailedError) as refused:
        deploy(Brighter(BlockConfig(scale=2)), "name", "float")
    assert str(refused.value) == "block does not become a graph: no such op"


class Choosing(Leaf):
    def forward(self, x):
        return x if x.mean() > 0.5 else 1 - x


class Branching(Brighter):
    def __init__(self, config):
        super().__init__(config)
        self.choose = Choosing()

    def forward(self, x):
        return super().forward(self.choose(x))


def test_torch_tells_nothing_besides(capfd):
    with pytest.raises(FailedError, match=r"^block does not become a graph: [^\n]*$"):
        deploy(Branching(BlockConfig(scale=2)), "name", "float")
    assert capfd.readouterr() == ("", "")
