"""CADyQ against hand-computed values: selectors, loss on bits, start."""

import math

import pytest
import torch

from sr_quant_cli.methods.cadyq import CADyQ, CADyQConfig, Selectors
from sr_quant_cli.methods.pams import PAMS, PAMSConfig
from sr_quant_cli.networks import build
from sr_quant_cli.networks.carn import CARNConfig
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.idn import IDNConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.dynamic import Scales, dynamic_quantizers
from sr_quant_cli.quant.max_scale import MaxScale
from sr_quant_cli.quant.pictures import deviations, sobel_gradients
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.training.objective import StudentLoss, features_of
from tests.helpers import tiny_edsr


def lr_batch(count=3, seed=0):
    return torch.rand(count, 3, 10, 12, generator=torch.Generator().manual_seed(seed))


def quantized(a=8, **changes):
    network, method = tiny_edsr(), CADyQ(CADyQConfig(**changes))
    quantize_network(network, method, method.paper_placement(), Bits(8, a))
    return network, method


def test_parameters_of_the_selectors_are_as_published():
    network, method = build(EDSRConfig()), CADyQ(CADyQConfig())
    quantize_network(network, method, method.paper_placement(), Bits(8, 8))
    assert len(network.bit_provider.layers) == 32
    assert sum(p.numel() for p in network.bit_provider.parameters()) == 6432
    quantize_network(
        network := build(EDSRConfig()),
        method := CADyQ(CADyQConfig(variant="paper")),
        method.paper_placement(),
        Bits(8, 8),
    )
    assert sum(p.numel() for p in network.bit_provider.parameters()) == 32 * 9


def test_all_layers_start_at_the_bits_asked_for():
    # softmax(0, 0, 1), as the weights add the same to all.
    p = [1, 1, math.e]
    soft = sum(b * v for b, v in zip((4, 6, 8), p, strict=True)) / sum(p)
    assert soft == pytest.approx(6.73, abs=0.005)
    network, _ = quantized()
    with torch.no_grad():
        network.train()(lr_batch())
    assert torch.cat(network.bit_provider.soft).tolist() == pytest.approx([soft] * 12, rel=1e-4)
    for a in (4, 6, 8):
        network, _ = quantized(a)
        with torch.no_grad():
            network(lr_batch())
        assert (network.bit_provider.chosen() == a).all()


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_what_a_selector_sees(variant):
    config = CADyQConfig(variant=variant, gradient_scale=10.0)
    selectors = Selectors(config, {"a.b": 2}, 8)
    selector = selectors.layers["a_b"]
    torch.nn.init.normal_(selector.weight, generator=torch.Generator().manual_seed(0))
    lr, x = lr_batch(), torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    selectors.begin(lr)
    selectors.train()
    selectors.choice("a.b", x)
    if variant == "paper":
        slopes = 10 * sobel_gradients(lr, magnitude=True)
        seen = torch.cat([slopes, deviations(x).mean(1, keepdim=True)], 1)
    else:
        seen = torch.cat([10 * sobel_gradients(lr), deviations(x)], 1)
    p = (seen @ selector.weight.T + selector.bias).softmax(1)
    assert torch.allclose(selectors.soft[0], p @ torch.tensor([4.0, 6.0, 8.0]), rtol=1e-5)
    assert torch.equal(selectors.choices["a.b"].index, p.argmax(1))


def test_the_loss_on_bits_by_hand():
    network, method = quantized(a=6)
    method.before_step(network, 0, 10)
    network.train()(lr_batch())
    provider = network.bit_provider
    soft = provider.soft[0]  # the same everywhere: softmax(0, 1, 0) gives 6
    assert soft.tolist() == pytest.approx([6.0] * 3, rel=1e-4)
    loss = method.regularizers(network)["bits"]
    assert loss.item() == pytest.approx(1e-4 * 3 * 4 * 6 / 6, rel=1e-4)
    loss.backward()
    # d loss / d bias_k = weight * samples * p_k (b_k - soft) / soft
    p = torch.tensor([0.0, 1.0, 0.0]).softmax(0)
    expected = 1e-4 * 3 * p * (torch.tensor([4.0, 6.0, 8.0]) - 6) / 6
    for selector in provider.layers.values():
        assert torch.allclose(selector.bias.grad, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("config", "paths", "ends"),
    [
        (EDSRConfig(), 16, "conv2"),
        (SRResNetConfig(activation="shared"), 16, "conv2"),
        (CARNConfig(), 9, "conv2"),
        (IDNConfig(compressed_act=False), 4, "lower.2"),
    ],
)
def test_the_teacher_is_imitated_behind_the_last_convolution_of_every_branch(config, paths, ends):
    branches = build(config).features()["branches"]
    assert len(set(branches)) == paths
    assert all(path.endswith(ends) for path in branches)


@pytest.mark.parametrize("config", [CARNConfig(n_feats=8), CARNConfig(n_feats=8, shared=True)])
def test_every_unit_counts_though_units_share_their_weights(config):
    network = build(config)
    with features_of(network, network.features()["branches"]) as features, torch.no_grad():
        network(lr_batch())
    assert sum(map(len, features.values())) == 9


def test_the_loss_behind_branches_by_hand():
    recipe = load_recipe(
        "cadyq-edsr", ["network.scale=2", "loss.pixel=0.0", "loss.feature_weight=0.0"]
    )
    config = EDSRConfig(scale=2, n_blocks=2, n_feats=4, res_scale=0.5)
    network, teacher = build(config), build(config)
    objective = StudentLoss(network, recipe, None, teacher)
    lr = lr_batch()
    with torch.no_grad():
        loss = objective(lr, torch.rand(3, 3, 20, 24))["feature"]
        expected = 0
        maps = []
        for each in (network, teacher):
            x, found = each.head((lr - each.mean) * 255), []
            for block in each.body:
                branch = block.conv2(block.conv1(x).relu())
                x = x + 0.5 * branch
                found.append(torch.nn.functional.normalize((branch**2).mean(1).flatten(1)))
            maps.append(found)
        for ours, theirs in zip(*maps, strict=True):
            expected += 100 * ((ours - theirs) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_weight_of_the_bits_rises():
    network, method = quantized(bit_weight=1.0, bit_weight_end=4.0)
    found = []
    for step in (0, 5, 10):
        method.before_step(network, step, 10)
        found.append(network.bit_provider.bit_weight)
    assert found == [1.0, 2.5, 4.0]


def test_gradients_as_the_authors_measured_them():
    """Values of ``BitSelector`` in Cheeun/CADyQ, commit 5ca4344, on the same tensors."""
    selectors = Selectors(CADyQConfig(), {"a": 2}, 8)
    selectors.gradients = torch.tensor([[0.1, 0.2], [0.4, 0.3]])
    selector = selectors.layers["a"]
    selector.weight.data.copy_(torch.arange(12.0).view(3, 4).sin() / 2)
    selector.bias.data.copy_(torch.tensor([0.3, -0.2, 0.1]))
    quantizer = Scales(8, (4, 6, 8))
    quantizer.alpha.data.copy_(torch.tensor([1.0, 1.5, 2.0]))
    quantizer.layer, quantizer.provider = "a", (selectors,)
    x = (3 * torch.arange(24.0).view(2, 2, 3, 2).cos()).requires_grad_()
    (quantizer(x) * torch.arange(24.0).view_as(x).mul(0.7).sin()).sum().backward()
    assert quantizer.alpha.grad.tolist() == pytest.approx(
        [0.0244522, -0.1193170, 0.0103539], rel=1e-4
    )
    assert x.grad.flatten()[:6].tolist() == pytest.approx(
        [0, 0.0206948, 0.2081427, 0, 0.0107611, -0.3507832], rel=1e-4, abs=1e-6
    )
    assert selector.bias.grad.tolist() == pytest.approx(
        [0.0446919, -0.0492453, 0.0045546], rel=1e-3
    )


@pytest.mark.parametrize("variant", ["corrected", "code"])
def test_bounds_go_on_from_the_8_bit_network(variant):
    before, pams = tiny_edsr(), PAMS(PAMSConfig())
    network, method = quantized(variant=variant, warmup=0.5)
    quantize_network(before, pams, method.paper_placement(), Bits(8, 8))
    pams.calibrate(before, [lr_batch()])
    method.inherit(network, before, [])
    for path, quantizer in dynamic_quantizers(network).items():
        alpha = before.get_submodule(path).input_quantizer.alpha
        assert quantizer.alpha.tolist() == [alpha.item()] * 3
    assert network.body[0].block_out.input_quantizer.alpha == (
        before.body[0].block_out.input_quantizer.alpha
    )
    follows = []
    for step in (0, 4, 5):
        method.before_step(network, step, 10)
        scales = [q for q in network.modules() if isinstance(q, MaxScale)]
        follows.append({q.follows for q in scales})
    assert follows == [{variant == "code"}] * 2 + [{False}]


def test_a_network_that_is_not_quantized_there_is_refused():
    network, method = quantized()
    with pytest.raises(ValueError, match=r"not quantized at body\.0\.block_in"):
        method.inherit(network, tiny_edsr(), [])


def test_the_paths_own_quantizers_and_groups():
    network, method = quantized()
    for block in network.body:
        assert isinstance(block.block_in.input_quantizer, Scales)
        assert isinstance(block.conv1.input_quantizer, torch.nn.Identity)
        assert isinstance(block.conv2.input_quantizer, Scales)
        assert block.block_out.input_quantizer.bits == 8
        assert type(block.block_out.input_quantizer) is MaxScale
    groups = method.parameter_groups(network)
    assert len(groups["auxiliary"]) == 8
    assert len(groups["bounds"]) == 6
    assert "weight_bounds" not in groups


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"candidates": [8, 4]}, "ascending"), ({"candidates": [4, 4, 8]}, "different")],
)
def test_candidates_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        CADyQConfig(**changes)


def test_bits_that_are_no_candidate_are_refused():
    with pytest.raises(ValueError, match="`a` 5: selectors start at one of the candidates 4, 6, 8"):
        quantized(a=5)
