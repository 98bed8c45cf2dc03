"""AdaBM against hand-computed values: mapping, gradients, calibration, turns."""

import pytest
import torch

from sr_quant_cli.methods.adabm import (
    THRESHOLD_GAIN,
    AdaBM,
    AdaBMConfig,
    BitMapping,
    ShiftedBits,
    shrunk_bound,
    slopes,
)
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.dynamic import Choice
from sr_quant_cli.quant.grids import affine_real, quantize
from sr_quant_cli.quant.plan import Bits
from tests.helpers import tiny_edsr


def ramps(*steps):
    """Make pictures with a slope of so many grey values per pixel."""
    ramp = torch.arange(10.0).expand(1, 3, 8, 10) / 255
    return torch.cat([step * ramp for step in steps])


def mapping(base=4, layers=("a", "b", "c")):
    made = BitMapping(base, list(layers))
    made.thresholds.data.copy_(torch.tensor([2.0, 6.0]) / THRESHOLD_GAIN)
    made.offsets.data.copy_(torch.tensor([-1.4, 0.3, 0.8]))
    return made


def test_bits_are_the_sum_of_three():
    lr = ramps(1, 4, 9)
    assert slopes(lr).tolist() == pytest.approx([0.9, 3.6, 8.1], rel=1e-4)
    provider, x = mapping(), torch.zeros(3, 1, 1, 1)
    provider.begin(lr)
    found = [provider.choice(layer, x).bits.tolist() for layer in "abc"]
    assert found == [[2, 3, 4], [3, 4, 5], [4, 5, 6]]
    provider = mapping(base=8)
    provider.begin(lr)
    assert [provider.choice(layer, x).bits.tolist() for layer in "abc"] == [
        [6, 7, 8],
        [7, 8, 8],
        [8, 8, 8],
    ]


def test_gradients_of_thresholds_and_offsets():
    provider = mapping()
    provider.begin(ramps(4))
    provider.choice("b", torch.zeros(1, 1, 1, 1)).bits.sum().backward()
    slope = slopes(ramps(4)).item()

    def bell(v):
        return 1 - torch.tensor(v).tanh().item() ** 2

    expected = [-THRESHOLD_GAIN / 2 * bell(slope - t) for t in (2.0, 6.0)]
    assert provider.thresholds.grad.tolist() == pytest.approx(expected, rel=1e-3)
    assert provider.offsets.grad.tolist() == pytest.approx([0, bell(0.3), 0], rel=1e-3)


class Given:
    def choice(self, layer, x):
        return Choice(self.bits, self.bits.detach().long())


def test_a_sample_has_the_grid_of_its_bits_and_bits_their_gradient():
    x = 2 * torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    quantizer, given = ShiftedBits(4), Given()
    quantizer.observe(torch.tensor([-2.0, 3.0]))
    quantizer.layer, quantizer.provider = "", (given,)
    given.bits = torch.tensor([3.0, 5.0], requires_grad=True)
    y = quantizer(x)
    weight = torch.randn_like(x)
    (y * weight).sum().backward()
    lower, upper = torch.tensor(-2.0), torch.tensor(3.0)
    for n, bits in enumerate((3, 5)):
        grid = affine_real(lower, upper, bits)
        assert torch.equal(y[n], quantize(x[n], grid))
        # d x_hat / d s = R(v) - v, and s = (u - l) / (2^b - 1).
        v = (x[n].clamp(-2, 3) + 2) / grid.step
        to_step = (weight[n] * (v.round() - v)).sum()
        to_bits = -grid.step * torch.log(torch.tensor(2.0)) * 2**bits / (2**bits - 1)
        assert given.bits.grad[n].item() == pytest.approx((to_step * to_bits).item(), rel=1e-3)


def test_extremes_of_batches_are_averaged_with_most_weight_on_the_old():
    quantizer = ShiftedBits(4)
    quantizer.observe(torch.tensor([-1.0, 2.0]))
    quantizer.observe(torch.tensor([-3.0, 12.0]))
    assert quantizer.lower.item() == pytest.approx(-1.2)
    assert quantizer.upper.item() == pytest.approx(3.0)


def test_the_search_for_a_weights_bound():
    # 2 bits: with the bound 3 the levels are -3, -1, 1, 3.
    weight = torch.tensor([-3.0, -1.0, -1.0, 1.0, 3.0])
    assert shrunk_bound(weight, 2, torch.tensor(4.0), 50).item() == pytest.approx(3.0)
    assert shrunk_bound(weight, 2, torch.tensor(4.0), 11).item() == pytest.approx(3.6)
    negative = torch.tensor([-3.0, -1.0, 1.0])
    found = {}
    for variant in ("corrected", "code"):
        network, method = tiny_edsr(), AdaBM(AdaBMConfig(variant=variant))
        site = next(site for site in network.sites() if site.kind == "block")
        quantizer = method.weight_quantizer(site, negative, 2)
        quantizer.observe(negative)
        found[variant] = quantizer.value.item()
    assert found["corrected"] == pytest.approx(3.0)
    assert found["code"] <= 1.0


def calibrated(a=4, **changes):
    network, method = tiny_edsr(), AdaBM(AdaBMConfig(**changes))
    quantize_network(network, method, method.paper_placement(), Bits(a, a))
    batches = [ramps(*range(1, 6)), ramps(*range(6, 11))]
    method.calibrate(network, batches)
    return network, method, batches


def test_calibration_finds_the_ends_of_pictures_and_layers():
    network, _, batches = calibrated()
    found = slopes(torch.cat(batches))
    expected = torch.quantile(found, torch.tensor([0.1, 0.9]))
    thresholds = THRESHOLD_GAIN * network.bit_provider.thresholds
    assert torch.allclose(thresholds, expected, rtol=1e-4)
    assert sorted(network.bit_provider.offsets.tolist()) == [-1, 0, 0, 1]
    with torch.no_grad():
        network(torch.cat(batches))
    bits = network.bit_provider.chosen()
    assert (bits[0].mean(), bits[5].mean(), bits[-1].mean()) == (3, 4, 5)


def test_bounds_are_fitted_to_the_bits_of_the_layers():
    fine, _, _ = calibrated(8)
    coarse, _, _ = calibrated(3)
    wide, narrow = (
        network.body[0].conv2.input_quantizer.upper.item() for network in (fine, coarse)
    )
    assert 0.5 * wide < narrow < wide


def test_groups_take_turns_and_the_network_stays():
    network, method, _ = calibrated()
    for step, turn in enumerate(("weight_bounds", "bounds", "auxiliary") * 2):
        factors = {
            group: method.rate_factor(group, step, 6)
            for group in ("weights", "bounds", "weight_bounds", "auxiliary")
        }
        assert factors == {group: float(group == turn) for group in factors}
        method.before_step(network, step, 6)
        network.train()(ramps(3, 5))
        assert bool(method.regularizers(network)) == (turn == "auxiliary")


def test_bits_above_those_asked_for_cost():
    network, method, _ = calibrated()
    method.before_step(network, 2, 6)
    network.bit_provider.offsets.data.fill_(1.0)
    network.train()(ramps(5, 6))
    loss = method.regularizers(network)["bits"]
    assert loss.item() == pytest.approx(50.0)
    loss.backward()
    assert (network.bit_provider.offsets.grad > 0).all()
    network.bit_provider.offsets.data.fill_(-1.0)
    network.train()(ramps(5, 6))
    assert method.regularizers(network)["bits"].item() == 0
