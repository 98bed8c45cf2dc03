"""ONNX files as networks: read, saved, traced, quantized and exported again."""

import warnings
from itertools import product

import onnx
import pytest
import torch

from sr_quant_cli.commands.calibrate import choose_placement
from sr_quant_cli.commands.quantize_recipe import QuantizeRequest, resolve
from sr_quant_cli.errors import UsageError
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods.minmax import MinMax, MinMaxConfig
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.modelfiles.onnx_networks import OnnxHints, read_onnx
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.networks.tracing import trace
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.passes.equalize import can_equalize, equalize
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, Operands
from tests import zoo
from tests.helpers import onnx_session
from tests.lowered import lr_batch

KNOWN_RANGE = OnnxHints(input_range="0..1")
RANGES = {"edsr": OnnxHints(input_range="0..255")}

PICTURES = lr_batch(2, size=28)

SHAPES = {"luma": (1, 1, 24, 20), "channels_last": (1, 24, 20, 3)}
"""Shapes of input other than RGB."""


@pytest.fixture(autouse=True)
def quiet():
    """Exporters warn of sizes that are constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def exported(name, folder, **how):
    how = {"shape": SHAPES.get(name, (1, 3, 24, 20))} | how
    return zoo.export(zoo.made(name), folder / f"{name}.onnx", **how)


def run(model, x):
    session = onnx_session(model)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(y)


def read(name, folder, **how):
    return read_onnx(exported(name, folder, **how), RANGES.get(name, KNOWN_RANGE)).network


def quantized(network):
    """The network at 8 bits, folded, with calibrated ranges."""
    network, method = fold(network), MinMax(MinMaxConfig())
    quantize_network(network, method, FULL, Bits(8, 8))
    method.calibrate(network, [lr_batch(2, size=28)])
    return network.eval()


def saved(network, folder):
    """The network after it was saved and loaded."""
    save_model(folder / "saved.safetensors", network, Card())
    return load_model(folder / "saved.safetensors")[0]


@pytest.mark.parametrize("name", zoo.NETWORKS)
@torch.no_grad()
def test_an_equalized_network_gives_the_same_pictures(name, tmp_path):
    network = fold(read(name, tmp_path)).eval()
    if not can_equalize(network):
        with pytest.raises(ValueError, match="no stream"):
            equalize(network, [PICTURES])
        return
    before = network(PICTURES)
    weights = [parameter.clone() for parameter in network.parameters()]
    equalize(network, [PICTURES])
    assert not all(map(torch.equal, weights, network.parameters()))
    torch.testing.assert_close(network(PICTURES), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "overrides", "precision"),
    [
        ("ecbsr", (), "int8"),
        ("rfdn", (), "fp32"),
        ("rfdn", ("sites.act_in=int8",), "int8"),
    ],
)
def test_activations_and_sums_read_float_where_a_network_has_float_operations(
    name, overrides, precision, tmp_path
):
    config = read(name, tmp_path).config.model_dump()
    recipe = resolve(QuantizeRequest(overrides=overrides), config, "it")
    placement = choose_placement(recipe, build_method(recipe.method))
    assert placement["act_in"] == Operands(precision, integer=True)
    sums = {placement[kind].input for kind in ("block_in", "block_out", "body_out", "long_skip")}
    assert sums == ({"int8"} if name == "ecbsr" else {"fp32"})
    assert placement["block"] == FULL["block"]


@pytest.mark.parametrize("name", zoo.NETWORKS)
@torch.no_grad()
def test_a_network_is_read_saved_and_quantized(name, tmp_path):
    network, x = read(name, tmp_path), PICTURES
    assert network.scale == {"espcn": 3, "scale4": 4}.get(name, 2)
    trace(network)
    y = network(x)
    assert torch.equal(saved(network, tmp_path)(x), y)
    w8a8 = quantized(network)
    z = w8a8(x)
    assert torch.equal(saved(w8a8, tmp_path)(x), z)
    assert 0 < float((y - z).abs().mean()) < 0.05 * float(y.std()) + 0.02


FAST = ("imdn", "one_at_a_time")
"""networks that are exported in every run of the tests"""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in zoo.NETWORKS],
)
@torch.no_grad()
def test_a_network_is_exported_again(name, tmp_path):
    network, x = read(name, tmp_path), PICTURES[:1, :, :, :24]
    deployed = deploy(network, "float", "unrounded")
    onnx.checker.check_model(deployed.model)
    assert torch.allclose(run(deployed.model.SerializeToString(), x), network(x), atol=1e-4)
    w8a8 = quantized(network)
    deployed = deploy(w8a8, "w8a8", "unrounded", full_range=True)
    assert deployed.integer_layers
    levels = (run(deployed.model.SerializeToString(), x) - w8a8(x)).abs() * 255
    assert float(levels.quantile(0.99)) < 1


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        *product(("rfdn", "windows"), (11, 13, 18)),
        *product(("imdn", "abpn"), (9, 10, 12, 20)),
        *product(("padded",), (11, 13, 18)),
    ],
)
@torch.no_grad()
def test_all_versions_of_operations_are_read(name, opset, tmp_path):
    network, here = read(name, tmp_path, opset=opset), zoo.made(name)
    x = PICTURES[:1, :, :24]
    assert torch.allclose(network.core(x), here(x), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "imdn" else pytest.mark.slow)
        for name in zoo.NETWORKS
        if name != "one_at_a_time"
    ],
)
def test_files_of_the_other_exporter_are_read(name, tmp_path):
    assert read(name, tmp_path, dynamo=True).scale in (2, 3, 4)


@pytest.mark.parametrize("name", ["repvgg", "ecbsr"])
def test_parallel_branches_are_one_convolution(name, tmp_path):
    ops = [node.op for node in read(name, tmp_path).config.nodes]
    assert ops.count("Conv") == 3
    assert ops.count("Add") == 1


def test_normalizations_are_merged(tmp_path):
    assert "BatchNormalization" not in {n.op for n in read("srresnet", tmp_path).config.nodes}


def test_factors_that_follow_from_sizes_are_read(tmp_path):
    # Before version 11 a picture is enlarged by factors alone, from its corner.
    assert "Upsample" in {node.op for node in read("rfdn", tmp_path, opset=9).config.nodes}


class InRange(torch.nn.Module):
    """Nearly repeated pixels, in another range of values."""

    def __init__(self, low, high, *, whole=False):
        super().__init__()
        self.net, self.low, self.span = zoo.NearestSkip(factor=0.02, clip=True), low, high - low
        self.whole = whole

    def forward(self, x):
        if self.whole:
            x = x.float()
        y = self.net((x - self.low) / self.span) * self.span + self.low
        return y.clamp(0, 255).round().to(torch.uint8) if self.whole else y


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (-1, 1)])
@torch.no_grad()
def test_the_range_of_values_is_found(low, high, tmp_path):
    torch.manual_seed(0)
    made = InRange(low, high).eval()
    # Nothing in a network for -1..1 that is nearly linear tells it from one for 0..1.
    read = read_onnx(
        zoo.export(made, tmp_path / "net.onnx"),
        OnnxHints(input_range="-1..1" if low < 0 else None),
    )
    assert read.network.config.input_range == [low, high]
    assert read.network.config.output_range == [low, high]
    assert bool(read.assumed) == (low == 0)
    assert torch.allclose(read.network(PICTURES), made.net(PICTURES), atol=1e-5)


@torch.no_grad()
def test_a_network_of_pixels_is_read(tmp_path):
    torch.manual_seed(0)
    made = InRange(0, 255, whole=True).eval()
    pixels = torch.zeros(1, 3, 24, 20, dtype=torch.uint8)
    path = zoo.export(made, tmp_path / "net.onnx", example=pixels)
    network = read_onnx(path).network
    assert network.config.input_range == [0, 255]
    levels = (PICTURES * 255).round()
    assert torch.equal((network(levels / 255) * 255).round(), made(levels).float())


@torch.no_grad()
def test_a_network_in_float16_is_read(tmp_path):
    made = zoo.made("srvgg")
    path = zoo.export(made.half(), tmp_path / "net.onnx", example=torch.rand(1, 3, 24, 20).half())
    network = read_onnx(path, KNOWN_RANGE).network
    assert torch.allclose(network(PICTURES), made.float()(PICTURES), atol=1e-6)


@torch.no_grad()
def test_a_graph_of_one_size_without_sizes_in_it_is_read(tmp_path):
    network = read("srvgg", tmp_path, free=False)
    assert torch.allclose(network(PICTURES), zoo.made("srvgg")(PICTURES), atol=1e-5)


def test_a_graph_of_one_size_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"takes pictures of 24 x 20 only .*: export it with free"):
        read("windows", tmp_path, free=False)
