"""QuantSR-C: blocks that run at each depth, their ranks, saved state."""

import copy

import pytest
import torch

from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import config_class, method_names
from sr_quant_cli.methods.minmax import MinMaxConfig
from sr_quant_cli.methods.quantsr import QuantSRConfig
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, pack_model, save_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.quantsr import QuantSRCConfig, SkippableBlock
from sr_quant_cli.passes.apply import count_operations, quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL
from tests.helpers import ranked_quantsr_c, tiny_edsr


def pictures(seed=0):
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def executed(network):
    """Indices of the blocks whose convolutions run."""
    ran = []
    handles = [
        block.conv2.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, block in enumerate(network.blocks)
    ]
    with torch.no_grad():
        network(pictures())
    for handle in handles:
        handle.remove()
    return ran


def test_parameters_are_those_of_the_released_model():
    with torch.device("meta"):
        network = build(QuantSRCConfig(scale=4))
        # 32 blocks of 64 features, a factor each.
        assert network.parameter_count() == 1_517_571 + 16 * (2 * 36_928) + 32
        method = build_method(QuantSRConfig())
        quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    assert network.parameter_count() == 2_703_523


def test_a_block_is_its_scaled_input_and_its_branch():
    block = SkippableBlock(n_feats=2, res_scale=0.5)
    x = torch.rand(1, 2, 3, 3)
    with torch.no_grad():
        block.shortcut_scale.fill_(0.25)
        block.conv2.weight.zero_()
        block.conv2.bias.fill_(3.0)
        assert torch.equal(block(x), 0.25 * x + 1.5)
        block.skipped = True
        assert torch.equal(block(x), 0.25 * x)


@pytest.mark.parametrize(
    ("variant", "n_blocks", "counts"),
    [
        ("corrected", 32, [32, 16, 8]),
        ("code", 32, [32, 17, 9]),
        ("corrected", 5, [5, 2, 1]),
        ("code", 5, [5, 3, 2]),
        ("corrected", 2, [2, 1, 1]),
        ("code", 1, [1, 1, 1]),
    ],
)
def test_blocks_that_run_at_each_depth(variant, n_blocks, counts):
    network = ranked_quantsr_c(n_blocks=n_blocks, n_feats=2, variant=variant)
    assert network.depths == ("full", "half", "quarter")
    for depth, count in zip(network.depths, counts, strict=True):
        network.set_depth(depth)
        ran = executed(network)
        assert len(ran) == count
        assert sorted(network.ranks[ran].tolist()) == list(range(1, count + 1))


def test_blocks_are_ranked_by_what_their_absence_changes():
    network = build(QuantSRCConfig(scale=2, n_blocks=4, n_feats=4))
    with torch.no_grad():
        for block, strength in zip(network.blocks, (0.01, 10.0, 0.1, 0.0), strict=True):
            block.conv2.weight.zero_()
            block.conv2.bias.fill_(strength)
    network.rank_blocks([pictures(), pictures(1)])
    assert network.ranks.tolist() == [3, 1, 2, 4]
    network.set_depth("half")
    assert executed(network) == [1, 2]
    network.set_depth("quarter")
    assert executed(network) == [1]


def test_ranks_are_by_the_output_not_by_the_block():
    # Block 0 adds more, but the factor of block 1 leaves a tenth of it.
    network = build(QuantSRCConfig(scale=2, n_blocks=3, n_feats=4))
    with torch.no_grad():
        for block, strength in zip(network.blocks, (1.0, 0.5, 0.0), strict=True):
            block.conv1.weight.zero_()
            block.conv2.weight.zero_()
            block.conv2.bias.fill_(strength)
        network.blocks[1].shortcut_scale.fill_(0.1)
    network.rank_blocks([pictures()])
    assert network.ranks.tolist() == [2, 1, 3]


def test_ranks_do_not_depend_on_the_mode_and_are_found_once():
    network = ranked_quantsr_c()
    before = network.ranks.clone()
    assert sorted(before.tolist()) == [1, 2, 3, 4]
    again = ranked_quantsr_c()
    assert torch.equal(again.ranks, before)
    with torch.no_grad():
        for block, strength in zip(network.blocks, before.tolist(), strict=True):
            block.conv2.bias.fill_(100.0 * strength)
    network.train().rank_blocks([pictures()])
    assert torch.equal(network.ranks, before)
    assert network.training


def test_a_network_without_ranks_runs_at_full_depth_only():
    network = build(QuantSRCConfig(n_blocks=2, n_feats=2))
    network.set_depth("full")
    for without, message in ((network, "no ranks yet"), (tiny_edsr(), "runs at full depth only")):
        with pytest.raises(ValueError, match=message):
            without.set_depth("half")
        assert without.depth == "full"


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_every_executed_parameter_gets_a_gradient(depth):
    network = ranked_quantsr_c()
    network.set_depth(depth)
    network(pictures()).square().sum().backward()
    ran = executed(network)
    for name, parameter in network.named_parameters():
        in_skipped = (
            name.startswith("body.") and "conv" in name and int(name.split(".")[1]) not in ran
        )
        assert (parameter.grad is None) == in_skipped, name
        assert in_skipped or parameter.grad.any(), name


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_a_saved_network_gives_the_same_outputs_and_leaves_out_the_same(tmp_path, depth):
    network = ranked_quantsr_c(scale=3)
    method = build_method(MinMaxConfig())
    quantize_network(network, method, FULL, Bits(4, 4))
    method.calibrate(network, [pictures(1)])
    save_model(tmp_path / "q.safetensors", network, Card())
    loaded, _ = load_model(tmp_path / "q.safetensors")
    for either in (network, loaded):
        either.set_depth(depth)
    assert torch.equal(loaded.ranks, network.ranks)
    assert executed(loaded) == executed(network)
    with torch.no_grad():
        assert torch.equal(loaded(pictures()), network(pictures()))


def test_ranks_survive_half_precision(tmp_path):
    network = ranked_quantsr_c()
    save_model(tmp_path / "a.safetensors", network, Card())
    pack_model(tmp_path / "a.safetensors", tmp_path / "b.safetensors", {}, half=True)
    loaded, _ = load_model(tmp_path / "b.safetensors")
    assert torch.equal(loaded.ranks, network.ranks)
    assert loaded.ranks.dtype == torch.int64


def test_a_lower_depth_is_not_what_is_saved():
    network = ranked_quantsr_c()
    whole = network(pictures())
    state = copy.deepcopy(network.state_dict())
    network.set_depth("quarter")
    assert not torch.equal(network(pictures()), whole)
    fresh = build(network.config)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(pictures()), whole)


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_counted_operations_are_the_executed_ones(depth):
    network = ranked_quantsr_c(n_blocks=5, n_feats=4)
    network.set_depth(depth)
    blocks = {"full": 5, "half": 2, "quarter": 1}[depth]
    # Head, two convolutions a block and one behind them, 4 -> 16 of the upsampler, tail at 2x.
    by_hand = 9 * (3 * 4 + (2 * blocks + 1) * 4 * 4 + 4 * 16 + 4 * 4 * 3) * 6 * 7
    assert count_macs(network, 6, 7) == by_hand
    operations = count_operations(network, 6, 7)
    assert sum(op.macs for op in operations) == by_hand
    # Weights of blocks that are left out are stored, too.
    whole = sum(p.numel() for name, p in network.named_parameters() if name.endswith("weight"))
    assert sum(op.weights for op in operations) == whole
    ran = executed(network)
    for op in operations:
        if op.name.startswith("body."):
            assert (op.macs > 0) == (int(op.name.split(".")[1]) in ran), op.name


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_receptive_radius_is_that_of_the_depth(depth):
    network = ranked_quantsr_c(n_blocks=5, n_feats=2).double()
    network.set_depth(depth)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)
    middle = network.receptive_radius + 2
    x = torch.rand(1, 3, 1, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x)[0, :, 0, 2 * middle].sum(), x)
    touched = gradient.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    reached = int((touched - middle).abs().max())
    assert network.receptive_radius - 1 <= reached <= network.receptive_radius


def test_it_starts_from_an_edsr_of_fewer_blocks():
    edsr = tiny_edsr(2, seed=1)
    network = build(QuantSRCConfig(scale=2, n_blocks=3, n_feats=8))
    network.start_from(edsr)
    assert torch.equal(network.body[1].conv2.weight, edsr.body[1].conv2.weight)
    assert torch.equal(network.tail.weight, edsr.tail.weight)
    assert [block.shortcut_scale.item() for block in network.blocks] == [1.0, 1.0, 1.0]
    assert network.depths == ("full",)
    assert torch.equal(network(pictures()), edsr(pictures()))
    network.rank_blocks([pictures()])
    assert network.ranks[2] == 3
    # The further block is not dead: its last convolution learns, then the first.
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    for _ in range(2):
        optimizer.zero_grad()
        network(pictures()).square().sum().backward()
        optimizer.step()
    assert network.body[2].conv1.weight.grad.any()


def test_it_starts_from_another_of_its_kind_with_its_ranks():
    other = ranked_quantsr_c(scale=3)
    network = build(QuantSRCConfig(scale=2, n_blocks=4, n_feats=4))
    network.start_from(other)
    assert torch.equal(network.ranks, other.ranks)
    longer = build(QuantSRCConfig(scale=2, n_blocks=5, n_feats=4))
    with pytest.raises(ValueError, match="does not match"):
        longer.start_from(other)


def test_an_edsr_of_other_features_is_refused():
    with pytest.raises(ValueError, match=r"head\.weight"):
        build(QuantSRCConfig(scale=2, n_blocks=3, n_feats=4)).start_from(
            build(EDSRConfig(scale=2, n_blocks=2, n_feats=8))
        )


def bits_of(method):
    return Bits(8, 8) if method.starts_from else Bits(4, 4)


@pytest.mark.parametrize("name", method_names())
def test_every_method_quantizes_it_and_runs_at_every_depth(name):
    network, method = ranked_quantsr_c(), build_method(config_class(name)())
    plan = quantize_network(network, method, method.paper_placement(), bits_of(method))
    assert sum(entry.site.kind == "block" for entry in plan) == 4
    if method.starts_from is None:
        method.calibrate(network, [pictures(1)])
    for depth in network.depths:
        network.set_depth(depth)
        with torch.no_grad():
            assert network(pictures()).isfinite().all()
