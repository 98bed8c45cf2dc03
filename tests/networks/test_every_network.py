"""Properties of every network: size, receptive radius, sites, start from another scale."""

import pytest
import torch
from torch import nn

from sr_quant_cli.methods.minmax import MinMax, MinMaxConfig
from sr_quant_cli.networks import build, config_class, network_names
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.networks.folding import fold, fold_exactly
from sr_quant_cli.networks.layers import MatMul
from sr_quant_cli.passes.apply import count_operations, quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, TENSORS
from sr_quant_cli.scales import SCALES
from tests import tiny
from tests.lowered import lr_batch
from tests.tiny import network_config, network_forms

each_network = pytest.mark.parametrize(("name", "form"), network_forms())
FLOAT: dict[str, str] = {}
"""Layers that stay in floating point on purpose: a part of their paths, by network."""

each_scale = pytest.mark.parametrize("scale", SCALES)


def made(name, form="", scale=2):
    """A tiny network whose normalization is not the identity."""
    torch.manual_seed(0)
    network = build(network_config(name, form, scale=scale))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


@each_scale
@each_network
@torch.no_grad()
def test_output_is_enlarged(name, form, scale):
    output = made(name, form, scale)(torch.rand(2, 3, 9, 7))
    assert output.shape == (2, 3, 9 * scale, 7 * scale)
    assert output.std() > 0


@each_scale
@each_network
def test_receptive_radius_covers_all_that_a_pixel_depends_on(name, form, scale):
    network = made(name, form, scale).double()
    with torch.no_grad():
        for parameter in network.parameters():
            # Positive weights leave no dependence hidden by a ReLU or by cancellation.
            parameter.uniform_(0.02, 0.08)
    size, reached = 2 * network.receptive_radius + 5 + network.alignment, 0
    x = (torch.rand(1, 3, 1, size, dtype=torch.float64) + 1).requires_grad_()
    output = network(x)
    for pixel in range(size // 2, size // 2 + network.alignment):
        for column in range(scale):  # every output column of the LR pixel
            picked = output[0, :, 0, pixel * scale + column].sum()
            (gradient,) = torch.autograd.grad(picked, x, retain_graph=True)
            touched = gradient.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
            reached = max(reached, int((touched - pixel).abs().max()))
    assert network.receptive_radius - 1 <= reached <= network.receptive_radius


class Watched(MatMul):
    """A product whose inputs a hook sees."""


@each_network
@torch.no_grad()
def test_sites_are_there_in_the_order_of_computation(name, form):
    network, order = made(name, form), []
    for site in network.sites():
        module = network.get_submodule(site.path)
        assert isinstance(module, nn.Identity) == (site.kind in TENSORS)
        if isinstance(module, nn.Conv2d):
            assert module.in_channels == site.channels
        if isinstance(module, MatMul):
            # One kernel computes both products of an attention that nothing watches.
            network.set_submodule(site.path, module := Watched())

        def note(_module, inputs, _output, site=site):
            order.append(site.path)
            last = site.kind in ("linear", "matmul")
            assert inputs[0].shape[-1 if last else 1] == site.channels
            assert not site.unsigned or inputs[0].min() >= 0

        module.register_forward_hook(note)
    network(lr_batch(1))
    assert list(dict.fromkeys(order)) == [site.path for site in network.sites()]


@each_network
def test_every_layer_is_a_site(name, form):
    network = made(name, form)
    layers = {
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | MatMul)
        if name not in FLOAT or FLOAT[name] not in path
    }
    assert layers == {site.path for site in network.sites() if site.kind not in TENSORS}


@each_network
@torch.no_grad()
def test_folding_for_inference_is_exact(name, form):
    network, x = made(name, form), torch.rand(2, 3, 13, 11)
    folded = fold_exactly(network)
    assert torch.allclose(folded(x), network(x), atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    prepared = fold(network)
    if prepared.config.folded:
        twin = build(prepared.config).eval()
        twin.load_state_dict(prepared.state_dict())
        assert torch.equal(twin(x), prepared(x))


@each_network
def test_all_multiply_accumulates_are_at_sites(name, form):
    network = fold(made(name, form))
    counted = sum(operation.macs for operation in count_operations(network, 12, 10))
    everything = count_macs(network, 12, 10)
    assert 0 < counted < everything if name in FLOAT else counted == everything > 0


@each_network
def test_a_quantized_network_has_the_same_sites(name, form):
    network = fold(made(name, form))
    before = network.sites()
    quantize_network(network, MinMax(MinMaxConfig()), FULL, Bits(4, 4))
    assert network.sites() == before


@each_network
def test_another_scale_starts_from_the_body(name, form):
    x2, x4 = made(name, form), made(name, form, 4)
    x4.start_from(x2)
    kept = [key for key in x4.state_dict() if not key.startswith(x4.scale_dependent)]
    assert kept
    assert all(torch.equal(x4.state_dict()[key], x2.state_dict()[key]) for key in kept)


@each_network
def test_features_are_submodules(name, form):
    network = made(name, form)
    features = network.features()
    assert features.keys() - {"tokens"} == {"pre_upsampler", "blocks", "branches"}
    assert all(network.get_submodule(path) for paths in features.values() for path in paths)
    assert features["blocks"]
    assert features["branches"]


def test_other_networks_are_named_by_what_is_registered():
    for name in network_names():
        config = config_class(name)
        assert {config.recipes_from, config.extends} <= {*network_names(), ""}


def test_a_network_without_a_tiny_configuration_is_told(monkeypatch):
    monkeypatch.delitem(tiny.NETWORKS, "rdn")
    assert ("rdn", "") in network_forms()
    with pytest.raises(pytest.fail.Exception, match="add a tiny configuration of rdn to NETWORKS"):
        network_config("rdn")
