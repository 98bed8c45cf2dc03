"""AdaBM against hand-computed values: mapping, gradients, calibration, turns.

Values that are called measured are those of the authors' modules (github.com/Cheeun/AdaBM, commit
c855f52) on the same inputs.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from sr_quant_cli.methods.adabm import (
    THRESHOLD_GAIN,
    AdaBM,
    AdaBMConfig,
    BitMapping,
    ShiftedBits,
    shrunk_bound,
    slopes,
)
from sr_quant_cli.networks import build
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.dynamic import Choice
from sr_quant_cli.quant.grids import affine_real, quantize
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import observe
from sr_quant_cli.training.objective import normalized_l2_distance
from tests.helpers import tiny_edsr


def wave(*shape, pace=0.37):
    """Make values between -1 and 1 that need no random numbers."""
    return (pace * torch.arange(math.prod(shape), dtype=torch.float32)).sin().view(shape)


def pictures():
    """Make three pictures with slopes of 6.5, 12.1 and 19.8."""
    return (0.5 + wave(3, 3, 6, 7) / 2) * torch.tensor([0.3, 0.6, 1.0]).view(3, 1, 1, 1)


def ramps(*steps):
    """Make pictures whose slope is 0.9 of these numbers, as it is halved at two sides of ten."""
    ramp = torch.arange(10.0).expand(1, 3, 8, 10) / 500
    return torch.cat([step * ramp for step in steps])


def mapping(base=4, layers=("a", "b", "c")):
    made = BitMapping(base, list(layers))
    made.slope_thresholds.data.copy_(torch.tensor([2.0, 6.0]) / THRESHOLD_GAIN)
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


def test_slopes_are_the_measured_ones():
    measured = [6.497793674468994, 12.148879051208496, 19.84078598022461]
    assert slopes(pictures()).tolist() == pytest.approx(measured, rel=1e-5)


def test_gradients_of_thresholds_and_offsets():
    provider = mapping()
    provider.begin(ramps(4))
    provider.choice("b", torch.zeros(1, 1, 1, 1)).bits.sum().backward()

    def bell(v):
        return 1 - math.tanh(v) ** 2

    # g = 3.6, thresholds 2 and 6: v = (g - 4) 2 / 4 = -0.2; dv / dt_l = -1/4 + v / 4, that of t_u
    # is -1/4 - v / 4, in units of 2 / width.
    v = -0.2
    expected = [-bell(v) * (1 - v) / 4, -bell(v) * (1 + v) / 4]
    grad = provider.slope_thresholds.grad / THRESHOLD_GAIN
    assert grad.tolist() == pytest.approx(expected, rel=1e-3)
    assert provider.offsets.grad.tolist() == pytest.approx([0, bell(0.3), 0], rel=1e-3)


def test_gradients_of_thresholds_are_the_measured_ones():
    provider = mapping()
    provider.slope_thresholds.data.copy_(torch.tensor([8.0, 18.0]) / THRESHOLD_GAIN)
    provider.begin(pictures())
    bits = provider.choice("b", torch.zeros(3, 1, 1, 1)).bits
    assert bits.tolist() == [3, 4, 5]
    bits.sum().backward()
    grad = provider.slope_thresholds.grad / THRESHOLD_GAIN
    assert grad.tolist() == pytest.approx([-0.16445444524288177, -0.12703575193881989], rel=1e-4)


def test_thresholds_closer_than_any_slope_keep_the_gradient_finite():
    provider = mapping()
    provider.slope_thresholds.data.fill_(slopes(ramps(4)).item() / THRESHOLD_GAIN)
    provider.begin(ramps(4))
    provider.choice("b", torch.zeros(1, 1, 1, 1)).bits.sum().backward()
    assert provider.slope_thresholds.grad.isfinite().all()


def test_the_feature_loss_is_the_measured_one():
    f, t = wave(2, 3, 4, 5), wave(2, 3, 4, 5, pace=0.37 * 1.1)
    pairs = [(f, t), (2 * t, f + 1)]
    loss = 10 * sum(normalized_l2_distance(*pair) for pair in pairs) / len(pairs)
    assert loss.item() == pytest.approx(5.268658638000488, rel=1e-5)


def test_values_on_a_bound_give_it_nothing_as_measured():
    network, method = tiny_edsr(), AdaBM(AdaBMConfig())
    site = next(site for site in network.sites() if site.kind == "block")
    weight = 0.2 * wave(2, 3, 3, 3)
    to_weight, to_input = method.weight_quantizer(site, weight, 4), ShiftedBits(4)
    to_weight.observe(weight)
    to_weight.value.data.fill_(0.1)
    to_input.observe(torch.tensor([0.0, 0.8]))
    to_input.layer, to_input.provider = "", (Given(),)
    to_input.provider[0].bits = torch.tensor([4.0])
    x = wave(1, 3, 5, 6).relu()
    x[0, 0, 0, :2] = 0.8
    out = F.conv2d(to_input(x), to_weight(weight), padding=1)
    (out * wave(*out.shape, pace=0.37 * 0.7)).sum().backward()
    assert out.abs().sum().item() == pytest.approx(9.02613353729248, rel=1e-5)
    assert to_input.lower.grad.item() == pytest.approx(0.04060468077659607, rel=1e-3)
    assert to_input.upper.grad.item() == pytest.approx(-1.5523111820220947, rel=1e-4)
    assert to_weight.value.grad.item() == pytest.approx(-24.84280014038086, rel=1e-4)


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
    first, second = (torch.quantile(slopes(b), torch.tensor([0.1, 0.9])) for b in batches)
    thresholds = THRESHOLD_GAIN * network.bit_provider.slope_thresholds
    assert torch.allclose(thresholds, 0.9 * first + 0.1 * second, rtol=1e-4)
    assert sorted(network.bit_provider.offsets.tolist()) == [-1, 0, 0, 1]
    with torch.no_grad():
        network(torch.cat(batches))
    bits = network.bit_provider.chosen()
    assert (bits[0].mean(), bits[2].mean(), bits[-1].mean()) == (3, 4, 5)


def test_thresholds_of_batches_are_the_measured_ones():
    network, method = tiny_edsr(), AdaBM(AdaBMConfig())
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(network, [pictures(), pictures().flip(3)[:2] / 2])
    thresholds = THRESHOLD_GAIN * network.bit_provider.slope_thresholds
    assert thresholds.tolist() == pytest.approx([7.21835470199585, 17.051353454589844], rel=1e-5)


def test_layers_strictly_beyond_a_percentile_get_another_bit():
    # 30 % of 32 layers: the 30th percentile lies between the 10th and the 11th of them.
    network, method = build(EDSRConfig(scale=2, n_feats=8)), AdaBM(AdaBMConfig())
    quantize_network(network, method, method.paper_placement(), Bits(4, 4))
    method.calibrate(network, [pictures()])
    offsets = network.bit_provider.offsets.tolist()
    assert [offsets.count(value) for value in (-1, 0, 1)] == [10, 12, 10]


def test_bounds_are_fitted_to_the_bits_of_the_layers():
    fine, _, _ = calibrated(8)
    coarse, _, _ = calibrated(3)
    wide, narrow = (
        network.body[0].conv2.input_quantizer.upper.item() for network in (fine, coarse)
    )
    assert 0.5 * wide < narrow < wide


def test_bounds_are_fitted_behind_quantized_layers():
    network, method = tiny_edsr(), AdaBM(AdaBMConfig())
    quantize_network(network, method, method.paper_placement(), Bits(3, 3))
    batch = pictures()
    method.calibrate(network, [batch])
    layers = [layer for block in network.body for layer in (block.conv1, block.conv2)]
    fitted = [(q.lower.item(), q.upper.item()) for q in (x.input_quantizer for x in layers)]
    again, method = tiny_edsr(), AdaBM(AdaBMConfig())
    quantize_network(again, method, method.paper_placement(), Bits(3, 3))
    observe(again, [batch])
    again.bit_provider.load_state_dict(network.bit_provider.state_dict())
    seen = []
    for layer, offset, bounds in zip(
        (layer for block in again.body for layer in (block.conv1, block.conv2)),
        network.bit_provider.offsets.tolist(),
        fitted,
        strict=True,
    ):
        handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            again(batch[:2])
        handle.remove()
        x, quantizer = seen.pop(), layer.input_quantizer
        pairs = [
            (share * quantizer.lower, share * quantizer.upper)
            for share in (1 - i / 100 for i in range(100))
        ]
        errors = [
            (quantize(x, affine_real(*pair, 3 + int(offset))) - x).square().mean().item()
            for pair in pairs
        ]
        best = pairs[errors.index(min(errors))]
        for bound, found, new in zip((quantizer.lower, quantizer.upper), bounds, best, strict=True):
            assert found == pytest.approx((bound.item() + new.item()) / 2, rel=1e-4, abs=1e-6)
            bound.data.fill_(found)


def test_groups_take_turns_and_the_network_stays():
    network, method, _ = calibrated(turn=2, decay=0.5)
    turns = [turn for turn in ("weight_bounds", "bounds", "auxiliary") * 2 for _ in range(2)]
    for step, turn in enumerate(turns):
        factors = {
            group: method.rate_factor(group, step, 12)
            for group in ("weights", "bounds", "weight_bounds", "auxiliary")
        }
        rate = 1.0 if step < 6 else 0.5
        assert factors == {group: rate * (group == turn) for group in factors}
        method.before_step(network, step, 12)
        network.train()(ramps(3, 5))
        assert bool(method.regularizers(network)) == (turn == "auxiliary")


def test_bits_above_those_asked_for_cost():
    network, method, _ = calibrated()
    method.before_step(network, 100, 500)
    network.bit_provider.offsets.data.fill_(1.0)
    network.train()(ramps(3, 4))
    loss = method.regularizers(network)["bits"]
    assert loss.item() == pytest.approx(50.0)
    loss.backward()
    assert (network.bit_provider.offsets.grad > 0).all()
    network.bit_provider.offsets.data.fill_(-1.0)
    network.train()(ramps(3, 4))
    assert method.regularizers(network)["bits"].item() == 0
