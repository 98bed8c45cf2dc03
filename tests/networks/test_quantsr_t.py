"""QuantSR-T: residual groups that run at each depth; the rest is shared with QuantSR-C."""

import pytest
import torch

from sr_quant_cli.commands.quantize_recipe import builtin_recipe
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods.minmax import MinMaxConfig
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.networks.quantsr_t import QuantSRTConfig, SkippableGroup
from sr_quant_cli.passes.apply import count_operations, quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL
from tests.helpers import ranked_quantsr_t, tiny_swinir

FOUR = {"layers": [2, 1, 2, 1], "heads": [2, 2, 2, 2]}


def executed(network):
    """Indices of the groups whose convolutions run."""
    ran = []
    handles = [
        group.conv.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, group in enumerate(network.blocks)
    ]
    with torch.no_grad():
        network(torch.rand(1, 3, 8, 8))
    for handle in handles:
        handle.remove()
    return ran


def test_parameters_are_swinirs_and_a_factor_for_each_group():
    with torch.device("meta"):
        assert build(QuantSRTConfig(scale=4)).parameter_count() == 929_628 + 4


def test_a_group_is_its_scaled_input_and_its_branch():
    group = SkippableGroup(4, 1, 2, 2, 2)
    x = torch.rand(1, 4, 4, 4)
    with torch.no_grad():
        group.shortcut_scale.fill_(0.25)
        group.conv.weight.zero_()
        group.conv.bias.fill_(3.0)
        assert torch.equal(group(x), 0.25 * x + 3.0)
        group.skipped = True
        assert torch.equal(group(x), 0.25 * x)


def test_groups_that_run_at_each_depth():
    network = ranked_quantsr_t(**FOUR)
    for depth, count in (("full", 4), ("half", 2), ("quarter", 1)):
        network.set_depth(depth)
        ran = executed(network)
        assert sorted(network.ranks[ran].tolist()) == list(range(1, count + 1))


def test_it_starts_from_a_swinir_of_fewer_groups():
    swinir = tiny_swinir(seed=1)
    sizes = {"embed_dim": 8, "window": 4, "layers": [2] * 3, "heads": [2] * 3}
    network = build(QuantSRTConfig(scale=2, **sizes)).eval()
    network.start_from(swinir)
    lr = torch.rand(1, 3, 9, 6)
    with torch.no_grad():
        assert torch.equal(network(lr), swinir(lr))
    network.rank_blocks([lr])
    assert network.ranks[2] == 3


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_counts_and_radius_are_those_of_the_depth(depth):
    network = ranked_quantsr_t(**FOUR)
    network.set_depth(depth)
    groups = [network.config.layers[index] for index in executed(network)]
    # 8 features, windows of 16 pixels, an MLP of 16 features; 12 x 8 pixels are whole windows.
    layer = 4 * 8 * 8 + 2 * 8 * 16 + 2 * 16 * 8
    convolutions = 9 * (3 * 8 + (len(groups) + 1) * 8 * 8 + 8 * 12)
    by_hand = (sum(groups) * layer + convolutions) * 12 * 8
    assert count_macs(network, 12, 8) == by_hand
    assert sum(op.macs for op in count_operations(network, 12, 8)) == by_hand
    shallow = tiny_swinir(layers=groups, heads=[2] * len(groups))
    assert network.receptive_radius == shallow.receptive_radius


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_a_saved_network_gives_the_same_outputs_at_every_depth(tmp_path, depth):
    network = ranked_quantsr_t(**FOUR)
    method = build_method(MinMaxConfig())
    quantize_network(network, method, FULL, Bits(4, 4))
    method.calibrate(network, [torch.rand(2, 3, 8, 8)])
    save_model(tmp_path / "q.safetensors", network, Card())
    loaded, _ = load_model(tmp_path / "q.safetensors")
    lr = torch.rand(1, 3, 9, 6)
    for either in (network, loaded):
        either.set_depth(depth)
    with torch.no_grad():
        assert torch.equal(loaded(lr), network(lr))


def test_recipes_of_its_bases_serve_where_it_has_none():
    assert builtin_recipe("quantsr", "quantsr_t") == "quantsr-quantsr_t"
    assert builtin_recipe("2dquant", "quantsr_t") == "2dquant-swinir_light"
    assert builtin_recipe("pams", "quantsr_t") == "pams-edsr"
    assert builtin_recipe("none", "quantsr_t") == "none-quantsr_t"
