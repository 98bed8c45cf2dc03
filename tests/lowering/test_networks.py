"""Every network with integer layers, in both runtimes."""

import numpy as np
import pytest
import torch
from torch import nn

from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import save_graph
from sr_quant_cli.lowering.integer import IntegerConv2d
from sr_quant_cli.lowering.lower import (
    absorb_norms,
    absorb_shifts,
    lower,
    quantize_early,
    simplify_activations,
)
from sr_quant_cli.lowering.spec import freeze, reduce_range
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.runtimes.registry import get_runtime
from sr_quant_cli.runtimes.torch import TorchRuntime
from tests.helpers import picture
from tests.lowered import lr_batch, quantize
from tests.networks.test_every_network import made
from tests.tiny import network_forms

GRAPHS = [("rdn", ""), ("srresnet", "shared"), ("msrresnet", ""), ("carn", "m"), ("idn", "luma")]


def quantized(name, form=""):
    return quantize(fold(made(name, form)), "minmax", bits=8)


@pytest.mark.parametrize(("name", "form"), network_forms())
@torch.no_grad()
def test_what_makes_kernels_fusable_changes_no_output(name, form):
    # Includes normalization that is not folded before quantization.
    simulated = quantize(made(name, form), "minmax", bits=8)
    lowered = lower(simulated, freeze(simulated))
    for change in (absorb_norms, quantize_early, simplify_activations):
        change(lowered)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.PReLU) for m in lowered.modules())
    x = lr_batch(2, first=5, size=13)
    off = (lowered(x) - simulated(x)).abs()
    # A tie that is rounded the other way changes its surroundings by a step.
    assert off.mean() <= 1e-4
    assert off.max() <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), GRAPHS)
def test_all_kernels_are_integers(tmp_path, name, form):
    network = quantized(name, form)
    made_ = deploy(network, name, "uint8")
    assert made_.all_integer
    reference = TorchRuntime(lower(network, reduce_range(freeze(network))), torch.device("cpu"))
    lr = picture(33, 41, seed=4)
    wanted = reference(lr).astype(int)
    counts = set()
    for runtime, suffix in (("onnxruntime", ".onnx"), ("openvino", ".xml")):
        path = tmp_path / f"graph{suffix}"
        save_graph(made_.model, path)
        graph = get_runtime(runtime).open(path, 1, "fp32")
        found = graph.kernels()
        assert (found.floating, found.float_names) == (0, ())
        counts.add(found.integer)
        off = np.abs(graph(lr).astype(int) - wanted)
        assert off.max() <= 1
        assert off.mean() <= 0.15
    assert len(counts) == 1


@torch.no_grad()
def test_least_codes_of_a_channel_hold_for_its_pixels_before_they_are_shuffled():
    simulated = quantize(made("carn"), "quantsr", bits=4)
    lowered = lower(simulated, freeze(simulated))
    x, before = lr_batch(1, first=5, size=13), None
    for change in (absorb_shifts, quantize_early):
        before = lowered(x)
        change(lowered)
    early = [path for path, m in lowered.named_modules() if path.endswith("conv.1")]
    assert any(lowered.get_submodule(path).least.numel() == 4 * 8 for path in early)
    assert torch.equal(lowered(x), before)
    assert deploy(simulated, "carn", "uint8").model.graph.node


@torch.no_grad()
def test_a_negative_factor_of_a_normalization_turns_codes_around():
    simulated = quantize(made("srresnet"), "minmax", bits=4)
    lowered = lower(simulated, freeze(simulated))
    convolution, norm = lowered.body[0].conv1, lowered.body[0].norm1
    assert isinstance(convolution, IntegerConv2d)
    assert norm.weight.min() < 0
    x = torch.randn(1, 8, 6, 6) * 20
    wanted, codes = norm(convolution(x)), convolution.codes.clone()
    absorb_norms(lowered)
    turned = norm.weight < 0
    assert torch.equal(convolution.codes[turned], -codes[turned])
    assert torch.equal(convolution.codes[~turned], codes[~turned])
    assert convolution.step.min() > 0
    assert torch.allclose(lowered.body[0].conv1(x), wanted, atol=1e-3)


@torch.no_grad()
def test_codes_without_an_opposite_keep_their_normalization():
    simulated = quantize(made("srresnet"), "minmax", bits=4)
    lowered = lower(simulated, freeze(simulated))
    lowered.body[0].conv1.codes.view(-1)[0] = -128
    absorb_norms(lowered)
    assert isinstance(lowered.body[0].norm1, nn.BatchNorm2d)
    assert isinstance(lowered.body[0].norm2, nn.Identity)


@pytest.mark.slow
def test_pixels_of_a_step_of_one_are_integers_in_openvino(tmp_path):
    network = quantized("idn")
    head = network.head.conv.input_quantizer
    with torch.no_grad():
        head.lower.fill_(0.0)
        head.upper.fill_(255.0)
    save_graph(deploy(network, "idn", "uint8").model, tmp_path / "graph.onnx")
    found = get_runtime("openvino").open(tmp_path / "graph.onnx", 1, "fp32").kernels()
    assert (found.floating, found.float_names) == (0, ())
