"""What every network keeps: its size, the reach of a pixel, sites that are there, other scales."""

from functools import partial

import pytest
import torch
from torch import nn

from sr_quant_cli.networks import build, config_class, network_names
from sr_quant_cli.networks.carn import CARNConfig
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.folding import fold, fold_exactly
from sr_quant_cli.networks.idn import IDNConfig
from sr_quant_cli.networks.msrresnet import MSRResNetConfig
from sr_quant_cli.networks.rdn import RDNConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.passes.apply import count_operations, quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, TENSORS
from tests.lowered import lr_batch

SMALL = {
    "edsr": partial(EDSRConfig, n_blocks=2, n_feats=4),
    "rdn": partial(RDNConfig, n_blocks=2, n_layers=2, growth=3, n_feats=4),
    "srresnet": partial(SRResNetConfig, n_blocks=2, n_feats=4),
    "srresnet, relu": partial(SRResNetConfig, n_blocks=2, n_feats=4, activation="relu"),
    "srresnet, shared": partial(SRResNetConfig, n_blocks=2, n_feats=4, activation="shared"),
    "msrresnet": partial(MSRResNetConfig, n_blocks=2, n_feats=4),
    "carn": partial(CARNConfig, n_feats=4),
    "carn-m": partial(CARNConfig, n_feats=8, groups=4, shared=True),
    "idn": partial(IDNConfig, n_blocks=1, n_feats=16),
    "idn, luma": partial(IDNConfig, n_blocks=1, n_feats=16, luma=True),
}
each_network = pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
each_scale = pytest.mark.parametrize("scale", [2, 3, 4])


def made(config, scale=2):
    """With statistics of normalization that are no identity."""
    torch.manual_seed(0)
    network = build(config(scale=scale))
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
def test_output_is_enlarged(config, scale):
    output = made(config, scale)(torch.rand(2, 3, 9, 7))
    assert output.shape == (2, 3, 9 * scale, 7 * scale)
    assert output.std() > 0


@each_scale
@each_network
def test_receptive_radius_covers_all_that_a_pixel_depends_on(config, scale):
    network = build(config(scale=scale)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            # Positive weights leave no dependence hidden by a ReLU or by cancellation.
            parameter.fill_(0.05)
    size = 2 * network.receptive_radius + 5
    x = (torch.rand(1, 3, 1, size, dtype=torch.float64) + 1).requires_grad_()
    output, reached = network(x), 0
    for column in range(scale):  # every output column of the middle LR pixel
        picked = output[0, :, 0, size // 2 * scale + column].sum()
        (gradient,) = torch.autograd.grad(picked, x, retain_graph=True)
        touched = gradient.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
        reached = max(reached, int((touched - size // 2).abs().max()))
    assert network.receptive_radius - 1 <= reached <= network.receptive_radius


@each_network
@torch.no_grad()
def test_sites_are_there_in_the_order_of_computation(config):
    network, order = made(config), []
    for site in network.sites():
        module = network.get_submodule(site.path)
        assert isinstance(module, nn.Identity) == (site.kind in TENSORS)
        if isinstance(module, nn.Conv2d):
            assert module.in_channels == site.channels

        def note(_module, inputs, _output, site=site):
            order.append(site.path)
            assert inputs[0].shape[1] == site.channels
            assert not site.unsigned or inputs[0].min() >= 0

        module.register_forward_hook(note)
    network(lr_batch(1))
    assert list(dict.fromkeys(order)) == [site.path for site in network.sites()]
    layers = {m for m in network.modules() if isinstance(m, nn.Conv2d)}
    assert layers == {
        network.get_submodule(s.path) for s in network.sites() if s.kind not in TENSORS
    }


@each_network
@torch.no_grad()
def test_folding_for_inference_is_exact(config):
    network, x = made(config), torch.rand(2, 3, 13, 11)
    folded = fold_exactly(network)
    assert torch.allclose(folded(x), network(x), atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    prepared = fold(network)
    if prepared.config.folded:
        twin = build(prepared.config).eval()
        twin.load_state_dict(prepared.state_dict())
        assert torch.equal(twin(x), prepared(x))


@each_network
def test_all_multiply_accumulates_are_at_sites(config):
    network = fold(made(config))
    counted = sum(operation.macs for operation in count_operations(network, 12, 10))
    assert counted == count_macs(network, 12, 10) > 0


@each_network
def test_a_quantized_network_has_the_same_sites(config):
    from sr_quant_cli.methods import build as build_method
    from sr_quant_cli.methods import config_class as method_config

    network = fold(made(config))
    before = network.sites()
    quantize_network(network, build_method(method_config("minmax")()), FULL, Bits(4, 4))
    assert network.sites() == before


@each_network
def test_another_scale_starts_from_the_body(config):
    x2, x4 = made(config, 2), build(config(scale=4))
    x4.start_from(x2)
    kept = [key for key in x4.state_dict() if not key.startswith(x4.scale_dependent)]
    assert kept
    assert all(torch.equal(x4.state_dict()[key], x2.state_dict()[key]) for key in kept)


def test_every_network_names_a_recipe_to_fall_back_on():
    for name in network_names():
        base = config_class(name).base
        assert base in (*network_names(), "")
        assert base or name in ("edsr", "swinir_light")
