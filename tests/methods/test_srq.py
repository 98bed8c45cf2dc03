"""srq's own method: a start like DOBI's, ranges that move relative to their width."""

import numpy as np
import pytest
import torch

from sr_quant_cli.methods import build
from sr_quant_cli.methods.srq import NARROWEST, RelativeBounds, RelativeScale, SRQConfig
from sr_quant_cli.methods.twodquant import DOBIConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import quantizers
from sr_quant_cli.quant.ranges import min_max
from sr_quant_cli.quant.sites import BLOCKS, FULL
from tests.helpers import picture, tiny_edsr


def lr_pictures(count):
    pictures = np.stack([picture(12, 12, seed) for seed in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def calibrated(config, placement):
    network, method = tiny_edsr(), build(config)
    quantize_network(network, method, placement, Bits(3, 3))
    method.calibrate(network, [lr_pictures(2)])
    return network


@pytest.mark.parametrize("placement", [FULL, BLOCKS], ids=["full", "blocks"])
def test_it_starts_from_the_grids_of_dobi(placement):
    ours, dobi = (calibrated(config, placement) for config in (SRQConfig(), DOBIConfig()))
    pairs = list(zip(quantizers(ours), quantizers(dobi), strict=True))
    for mine, theirs in pairs:
        grid, expected = mine.static_grid(), theirs.static_grid()
        assert torch.equal(grid.step, expected.step)
        assert torch.equal(grid.origin, expected.origin)
    assert pairs
    x = lr_pictures(1)
    assert torch.equal(ours(x), dobi(x))


def test_gradient_of_a_change_is_that_of_the_bound_times_the_width():
    """Levels 0, 4, 8, 12; 13 is clipped, 5 rounds to 4: the upper bound gets 1 - 1/12."""
    quantizer = RelativeBounds(2, min_max)
    quantizer.observe(torch.tensor([0.0, 12.0]))
    quantizer(torch.tensor([5.0, 13.0])).sum().backward()
    assert quantizer.change.grad.tolist() == pytest.approx([12 * (1 / 12), 12 * (1 - 1 / 12)])


def test_adam_moves_wide_and_narrow_ranges_by_the_same_share():
    shares = []
    for factor in (0.05, 500.0):
        quantizer = RelativeBounds(2, min_max)
        quantizer.observe(factor * torch.tensor([-1.0, 1.0]))
        adam = torch.optim.Adam([quantizer.change], lr=1e-3)
        quantizer(factor * torch.tensor([0.5, 2.0])).sum().backward()
        adam.step()
        _, upper = quantizer.bounds()
        shares.append(upper.item() / factor)
    assert shares == pytest.approx([1 - 2e-3, 1 - 2e-3], abs=1e-6)


def test_ranges_keep_a_width():
    bounds = RelativeBounds(4, min_max)
    bounds.observe(torch.tensor([2.0, 6.0]))
    bounds.change.data.copy_(torch.tensor([0.3, -3.0]))
    bounds.clamp_range()
    lower, upper = bounds.bounds()
    assert (lower.item(), upper.item()) == pytest.approx((3.2, 3.2 + 4 * NARROWEST))

    scale = RelativeScale(4, lambda w: w.abs().amax((1, 2, 3), keepdim=True), (2, 1, 1, 1))
    scale.observe(torch.tensor([1.0, 4.0]).reshape(2, 1, 1, 1))
    scale.change.data.copy_(torch.tensor([-7.0, 0.5]).reshape(2, 1, 1, 1))
    scale.clamp_range()
    assert scale.scale().flatten().tolist() == pytest.approx([NARROWEST, 6.0])


def test_only_changes_are_trained():
    network = calibrated(SRQConfig(), FULL)
    groups = build(SRQConfig()).parameter_groups(network)
    for group in ("bounds", "weight_bounds"):
        trained = set(map(id, groups[group]))
        names = [name for name, p in network.named_parameters() if id(p) in trained]
        assert names, group
        assert all(name.endswith(".change") for name in names), group
