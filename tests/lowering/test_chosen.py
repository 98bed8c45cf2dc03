"""Graphs of networks whose bits are chosen at run time."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import save_graph
from sr_quant_cli.lowering.integer import ChosenConv2d, ChosenTensor
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.spec import freeze, reduce_range
from sr_quant_cli.methods.cadyq import CADyQ, CADyQConfig
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.dynamic import Scales, dynamic_quantizers
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL
from sr_quant_cli.runtimes.registry import get_runtime
from sr_quant_cli.runtimes.torch import TorchRuntime
from tests.helpers import open_path, picture, tiny_edsr
from tests.inference.test_rows import rough
from tests.lowered import CPU, lr_batch
from tests.networks.test_every_network import made

pytestmark = pytest.mark.slow

NETWORKS = {"edsr": "", "srresnet": "", "msrresnet": "", "carn": "m", "idn": "", "rdn": ""}
"""Forms of the networks in ``tests/tiny.py``, by name."""


@torch.no_grad()
def choosing(network, placement="paper"):
    """Quantize by CADyQ, with different selectors and a different bound for each candidate.

    Kernels take weights of 7 bits as they are.
    """
    method = CADyQ(CADyQConfig(gradient_scale=30))
    sites = FULL if placement == "full" else method.paper_placement()
    quantize_network(network, method, sites, Bits(7, 8))
    method.calibrate(network, [lr_batch(2)])
    torch.manual_seed(6)
    for quantizer in dynamic_quantizers(network).values():
        quantizer.alpha *= torch.tensor([0.6, 0.8, 1.0])
    for module in network.bit_provider.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    return network.eval()


@pytest.mark.parametrize("placement", ["paper", "full"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_codes_of_chosen_bits_change_no_output(name, placement):
    simulated = choosing(made(name, NETWORKS[name]), placement)
    lowered = lower(simulated, freeze(simulated))
    kinds = (ChosenConv2d, ChosenTensor)
    inputs = [module for module in lowered.modules() if isinstance(module, kinds)]
    assert len(inputs) >= len(simulated.bit_provider.inputs) > 0
    assert not any(isinstance(module, Scales) for module in lowered.modules())
    seen = set()
    for seed in range(4):
        x = lr_batch(1, first=seed, size=13)
        wanted = simulated(x)
        off = (lowered(x) - wanted).abs()
        bits = simulated.bit_provider.chosen()
        assert torch.equal(lowered.bit_provider.chosen(), bits)
        seen |= set(bits.flatten().tolist())
        # A tie that is rounded the other way changes its surroundings by a step.
        assert off.mean() <= 1e-4 * wanted.abs().mean()
    assert len(seen) > 1


@pytest.mark.parametrize("placement", ["paper", "full"])
def test_one_graph_chooses_as_the_network_does(tmp_path, placement):
    network = choosing(tiny_edsr(), placement)
    made_ = deploy(network, "chosen", "uint8")
    reference = TorchRuntime(lower(network, reduce_range(freeze(network))), CPU)
    seen = set()
    for runtime, suffix in (("onnxruntime", ".onnx"), ("openvino", ".xml")):
        path = tmp_path / f"graph{suffix}"
        save_graph(made_.model, path)
        graph = get_runtime(runtime).open(path, 1, "fp32")
        assert graph.latest_bits() is None
        for seed in range(4):
            lr = picture(17 + seed, 23, seed)
            off = np.abs(graph(lr).astype(int) - reference(lr))
            bits = graph.latest_bits()
            assert bits.tolist() == reference.latest_bits().tolist()
            seen |= set(bits.flatten().tolist())
            assert off.max() <= 2
            assert off.mean() <= 0.15
        if runtime == "openvino":
            kernels = graph.kernels()
            # Float kernels are the selectors and Sobel's filter.
            choosing_ = len(network.bit_provider.inputs) + 1
            ends = 4 if placement == "paper" else 0
            assert made_.integer_layers == kernels.integer
            assert kernels.floating == choosing_ + ends
    assert len(seen) > 1


def test_all_products_are_told_to_be_integers_only_where_bits_are_fixed():
    assert not deploy(choosing(tiny_edsr(), "full"), "chosen", "float").all_integer


def test_pictures_and_patches_of_a_model_file(tmp_path):
    path, lr = tmp_path / "cadyq.safetensors", rough()
    save_model(path, choosing(tiny_edsr()), Card(name="cadyq"))
    opened = partial(open_path, path, precision="fp32", threads=1)
    whole = [opened(runtime=name)(lr) for name in ("torch", "openvino")]
    assert np.abs(whole[0].astype(int) - whole[1]).mean() <= 0.15
    seen = {}
    for name in ("torch", "openvino", "onnxruntime"):
        tiles = []
        upscaler = opened(runtime=name, patches=Patches(16, 16))
        upscaler(lr, tiles.append)
        seen[name] = {(t.rows.first, t.columns.first): t.bits.tolist() for t in tiles}
    assert seen["torch"] == seen["openvino"] == seen["onnxruntime"]
    assert len({tuple(bits) for bits in seen["torch"].values()}) > 1
