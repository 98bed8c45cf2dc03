"""Programs from graphs: whole networks against ONNX Runtime, and what is refused."""

import numpy as np
import onnx
import pytest
import torch

from sr_quant_cli import networks
from sr_quant_cli.errors import UnsupportedGraphError
from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.kernels.executor import Executor, mirrored
from sr_quant_cli.kernels.from_graph import UnsupportedError, compile_graph
from sr_quant_cli.kernels.program import Add, Convolution, Range, needed_ranges
from sr_quant_cli.kernels.program_file import load_program
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import save_graph
from sr_quant_cli.networks.layers import around
from sr_quant_cli.runtimes.registry import get_runtime
from sr_quant_cli.system.files import cache_dir
from sr_quant_cli.system.processor import has_vnni
from tests.helpers import onnx_session, picture
from tests.kernels.programs import check_parts
from tests.lowered import quantize
from tests.tiny import network_config

pytestmark = pytest.mark.skipif(bool(kernels.missing()), reason="the kernels were not built")

NETWORKS = {
    "edsr": {},
    "quantsr_c": {},
    "srresnet": {},
    "carn": {"n_feats": 16},
    "rdn": {"n_feats": 16, "growth": 16},
}


def graph(name, form="", bits=8, io="uint8", method="minmax"):
    torch.manual_seed(0)
    config = network_config(name, form, **NETWORKS.get(name, {}))
    network = quantize(networks.build(config).eval(), method, "full", bits)
    return deploy(network, name, io, full_range=True).model


def by_onnxruntime(model, lr):
    return onnx_session(model.SerializeToString()).run(None, {"lr": lr[None]})[0][0]


@pytest.mark.parametrize(
    ("name", "form"), [*((name, "") for name in NETWORKS), ("carn", "m"), ("srresnet", "shared")]
)
@pytest.mark.parametrize("isa", kernels.available() or ["none"])
def test_networks_give_the_picture_of_onnx_runtime(monkeypatch, isa, name, form):
    monkeypatch.setenv(kernels.FORCED, isa)
    model = graph(name, form)
    enlarge = Executor(compile_graph(model), 2)
    assert enlarge.isa == isa
    for height, width in ((21, 34), (1, 1), (2, 5)):
        lr = picture(height, width, seed=3)
        off = np.abs(enlarge(lr).astype(int) - by_onnxruntime(model, lr))
        # A tie that is rounded the other way changes its surroundings by single levels,
        # and without ONNX Runtime's integer kernels by two.
        assert off.max() <= (1 if has_vnni() else 2)
        assert off.mean() <= 0.15


@pytest.mark.parametrize(("bits", "tile"), [(4, 2), (2, 3)])
def test_few_bits_run_by_winograd(bits, tile):
    enlarge = Executor(compile_graph(graph("edsr", bits=bits)), 1)
    assert enlarge.tiles()[1:6] == [tile] * 5
    lr = picture(19, 23, seed=2)
    off = np.abs(enlarge(lr).astype(int) - by_onnxruntime(graph("edsr", bits=bits), lr))
    assert off.mean() < 1


def test_the_picture_depends_neither_on_threads_nor_on_what_ran_before():
    program = compile_graph(graph("srresnet"))
    small, large = picture(9, 14, seed=1), picture(40, 31, seed=2)
    one, three = Executor(program, 1), Executor(program, 3)
    wanted = one(small), one(large)
    for _ in range(2):
        assert np.array_equal(three(large), wanted[1])
        assert np.array_equal(three(small), wanted[0])


@pytest.mark.parametrize("name", ["edsr", "rdn", "carn"])
def test_a_part_is_that_of_the_whole_picture(name):
    check_parts(compile_graph(graph(name)))


def test_steps_compute_only_what_a_part_needs():
    steps = compile_graph(graph("edsr")).steps
    ranges = needed_ranges(steps, 100, Range(40, 50))
    assert ranges[-1].length == 10 * steps[-1].source.codes.enlargement
    windows = sum(isinstance(step, Convolution) for step in steps)
    assert 10 + windows <= ranges[0].length <= 10 + 2 * windows
    whole = needed_ranges(steps, 100, Range(0, 100))
    for step, part in zip(steps, whole, strict=True):
        assert part == Range(0, 100 * step.source.codes.enlargement)


def test_residual_sums_are_part_of_the_convolutions_before():
    steps = compile_graph(graph("edsr")).steps
    assert not any(isinstance(step, Add) for step in steps)
    assert sum(isinstance(step, Convolution) and step.skip is not None for step in steps) == 3


def test_a_flat_picture_stays_flat():
    enlarge = Executor(compile_graph(graph("edsr")), 2)
    lr = np.full((40, 45, 3), (200, 90, 30), np.uint8)
    sr = enlarge(lr)[30:-30, 30:-30]
    for row in (0, 1):
        for column in (0, 1):
            pixels = sr[row::2, column::2]
            assert (pixels == pixels[5, 5]).all()


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize("width", [0, 1, 4])
def test_mirrored_pixels_are_those_of_the_network(length, width):
    assert mirrored(length, width).tolist() == around(length, width, torch.device("cpu")).tolist()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: graph("swinir_light"), "not mirrored ones"),
        (lambda: graph("edsr", io="float"), "8-bit pictures"),
        (lambda: graph("edsr", "luma"), "a sum of numbers"),
    ],
)
def test_what_the_kernels_lack_is_named(make, reason):
    with pytest.raises(UnsupportedError, match=reason):
        compile_graph(make())


def test_a_convolution_in_floating_point_is_named():
    network = quantize(networks.build(network_config("edsr")).eval(), "minmax", "paper", 8)
    with pytest.raises(UnsupportedError, match="a convolution in floating point"):
        compile_graph(deploy(network, "edsr", "uint8").model)


def test_the_runtime_refuses_with_the_reason(tmp_path):
    path = tmp_path / "g.onnx"
    save_graph(graph("edsr", "luma"), path)
    with pytest.raises(UnsupportedGraphError, match=r"g.onnx does not run on the kernels of srq"):
        get_runtime("srq").open(path, 1, "fp32")


def test_the_runtime_runs_a_graph(tmp_path):
    path = tmp_path / "g.onnx"
    model = graph("edsr")
    save_graph(model, path)
    runtime = get_runtime("srq").open(path, 2, "auto")
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)
    assert (runtime.kernels().integer, runtime.kernels().floating) == (convolutions, 0)
    lr = picture(17, 12, seed=4)
    assert np.abs(runtime(lr).astype(int) - by_onnxruntime(model, lr)).max() <= 1


@pytest.mark.parametrize("kept", [None, "kept"])
def test_the_program_of_a_graph_is_kept_and_a_damaged_one_made_anew(tmp_path, monkeypatch, kept):
    path, folder = tmp_path / "g.onnx", tmp_path / kept if kept else cache_dir() / "programs"
    save_graph(graph("edsr"), path)
    lr = picture(17, 12, seed=4)

    def enlarged():
        return get_runtime("srq").open(path, 1, "auto", kept and folder)(lr)

    wanted, (program,) = enlarged(), folder.iterdir()
    content = program.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("sr_quant_cli.runtimes.srq.KernelRuntime._compile", None)
        assert np.array_equal(enlarged(), wanted)
    program.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert load_program(program) is None
    assert np.array_equal(enlarged(), wanted)
    assert load_program(program) is not None
    save_graph(graph("edsr", bits=4), path)
    assert not np.array_equal(enlarged(), wanted)
    assert len(list(folder.iterdir())) == 2
