"""Programs of graphs with slices, odd concatenations, enlarged pictures and shifts."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch

from sr_quant_cli import networks
from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.kernels.checks import check_program
from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.from_graph import compile_graph
from sr_quant_cli.kernels.graph_values import phases
from sr_quant_cli.kernels.program import AddByTable, Convolution, Mix, Recode
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.networks.folding import fold
from tests.helpers import onnx_session, picture
from tests.kernels.programs import check_parts
from tests.lowered import quantize
from tests.tiny import network_config

pytestmark = pytest.mark.skipif(bool(kernels.missing()), reason="the kernels were not built")

NETWORKS = {
    "idn": ("idn", "", "minmax"),
    "idn luma": ("idn", "luma", "minmax"),
    "msrresnet": ("msrresnet", "", "minmax"),
    "quantsr": ("edsr", "", "quantsr"),
}


@cache
def graph(name, form, method, **fields):
    torch.manual_seed(0)
    network = fold(networks.build(network_config(name, form, **fields)).eval())
    network = quantize(network, method, "full", 8)
    return deploy(network, name, "uint8", full_range=True).model


def as_written(model, lr):
    """The picture that a graph stands for, without the kernels that ONNX Runtime puts in."""
    session = onnx_session(model.SerializeToString(), as_written=True)
    return session.run(None, {"lr": lr[None]})[0][0].astype(int)


def compare(model, enlarge, sizes=((21, 34), (1, 1), (2, 5))):
    for height, width in sizes:
        lr = picture(height, width, seed=3)
        off = np.abs(enlarge(lr).astype(int) - as_written(model, lr))
        # A tie that is rounded the other way changes its surroundings by single levels.
        assert off.max() <= 1
        assert off.mean() <= 0.05


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("isa", kernels.available() or ["none"])
def test_networks_give_the_picture_of_the_graph(monkeypatch, isa, name):
    monkeypatch.setenv(kernels.FORCED, isa)
    model = graph(*NETWORKS[name])
    program = compile_graph(model)
    check_program(program)
    compare(model, Executor(program, 2))


@pytest.mark.parametrize("name", ["carn", "rdn"])
def test_parts_of_any_number_of_channels_are_concatenated(name):
    model = graph(name, "", "minmax")
    compare(model, Executor(compile_graph(model), 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_part_is_that_of_the_whole_picture(name):
    check_parts(compile_graph(graph(*NETWORKS[name])))


def test_the_picture_does_not_depend_on_threads():
    program = compile_graph(graph(*NETWORKS["idn"]))
    lr = picture(19, 14, seed=1)
    assert np.array_equal(Executor(program, 3)(lr), Executor(program, 1)(lr))


def test_aligned_slices_are_read_where_they_are():
    model = graph("idn", "", "minmax", n_feats=64)
    program = compile_graph(model)
    firsts = [step.source.first for step in program.steps if isinstance(step, Convolution)]
    assert firsts.count(16) == 1
    same = np.arange(256)
    copies = [s for s in program.steps if isinstance(s, Recode) and np.array_equal(s.table, same)]
    assert not copies
    compare(model, Executor(program, 2), [(9, 7)])


def test_shifts_of_channels_are_part_of_sums():
    steps = compile_graph(graph(*NETWORKS["quantsr"])).steps
    assert sum(isinstance(step, AddByTable) and step.table.ndim == 2 for step in steps) == 2


def test_a_picture_is_read_once_if_it_is_quantized_once():
    plain = compile_graph(graph(*NETWORKS["quantsr"]))
    assert not np.array_equal(plain.tables[0], np.arange(256))
    with_bilinear = compile_graph(graph(*NETWORKS["msrresnet"]))
    assert np.array_equal(with_bilinear.tables, np.tile(np.arange(256), (3, 1)))
    assert sum(isinstance(step, Mix) for step in with_bilinear.steps) == 1


def resized(mode, factor):
    """Graph that enlarges the picture alone."""
    make, attributes = onnx.helper.make_node, {"mode": mode, "cubic_coeff_a": -0.6}
    nodes = [
        make("Transpose", ["lr"], ["x"], perm=[0, 3, 1, 2]),
        make("Cast", ["x"], ["levels"], to=onnx.TensorProto.FLOAT),
        make("Resize", ["levels", "", "factors"], ["large"], **attributes),
        make("QuantizeLinear", ["large", "one", "zero"], ["codes"]),
        make("Transpose", ["codes"], ["sr"], perm=[0, 2, 3, 1]),
    ]
    constants = {
        "factors": np.array([1, 1, factor, factor], np.float32),
        "one": np.float32(1),
        "zero": np.uint8(0),
    }
    lr, sr = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, [1, None, None, 3])
        for name in ("lr", "sr")
    )
    made = onnx.helper.make_graph(
        nodes,
        "resized",
        [lr],
        [sr],
        [onnx.numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", 18)
    return onnx.helper.make_model(made, opset_imports=[opset], ir_version=10)


@pytest.mark.parametrize("mode", ["cubic", "linear"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_enlargements_are_those_of_the_graph(mode, factor):
    model = resized(mode, factor)
    enlarge = Executor(compile_graph(model), 2)
    for height, width in ((7, 12), (1, 3), (2, 1)):
        lr = picture(height, width, seed=5)
        off = np.abs(enlarge(lr).astype(int) - as_written(model, lr))
        assert off.max() <= 1
        assert off.mean() <= 0.01


@pytest.mark.parametrize("mode", ["cubic", "linear"])
def test_phases_sum_to_one(mode):
    assert np.allclose(phases(3, mode, -0.5).sum(1), 1)
