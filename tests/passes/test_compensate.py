import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_quant_cli.methods import build, config_class
from sr_quant_cli.passes import compensate as module
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.passes.compensate import compensate
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL, Site
from tests.helpers import tiny_block, tiny_carn, tiny_edsr

SITE = Site("", "block", 1)


def pictures(count=4, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def calibrated(network, name="dobi", bits=3):
    method = build(config_class(name)())
    quantize_network(network, method, FULL, Bits(bits, bits))
    method.calibrate(network, [pictures()])
    return network.eval()


def squared_error(network, reference, x):
    with torch.no_grad():
        return float((network(x) - reference(x)).square().mean())


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_edsr, tiny_block, tiny_carn])
def test_output_comes_nearer_to_that_of_the_float_network(make):
    network, reference = calibrated(make()), make()
    seen, unseen = pictures(), pictures(seed=1)
    before = [squared_error(network, reference, x) for x in (seen, unseen)]
    compensate(network, reference, [seen[:2], seen[2:]])
    after = [squared_error(network, reference, x) for x in (seen, unseen)]
    assert after[0] < 0.7 * before[0]
    assert after[1] < 0.9 * before[1]


def test_weights_lie_on_their_grid():
    network = calibrated(tiny_edsr())
    compensate(network, tiny_edsr(), [pictures()])
    for layer in network.modules():
        if isinstance(layer, QuantConv2d):
            with torch.no_grad():
                assert torch.equal(layer.weight_quantizer(layer.weight), layer.weight)


def test_bias_takes_up_the_mean_error():
    # A weight of 0.4 rounds to 0 for inputs around 10: the bias compensates for their mean.
    layer = nn.Conv2d(1, 1, 1)
    layer.weight.data.fill_(0.4)
    layer.bias.data.fill_(1.0)
    x = 10 + torch.rand(1, 1, 40, 40) / 10
    quantizer = build(config_class("minmax")()).weight_quantizer(
        SITE, torch.tensor([[[[4.0]]]]), 2, per_channel=True
    )
    quantizer.observe(torch.tensor([[[[4.0]]]]))
    quantized = QuantConv2d(layer, quantizer, nn.Identity())
    operands = module._operands(quantized, [x], 1600)
    with torch.no_grad():
        fit = module._Fit(quantized, quantizer.static_grid(), fine=False)
        module._fit(fit, operands, operands)
    assert quantized.weight.item() == 0
    assert quantized.bias.item() == pytest.approx(1 + 0.4 * 10.05, abs=5e-3)


def test_layer_that_is_used_several_times_is_fitted_on_all_its_inputs():
    network, x = calibrated(tiny_carn()), pictures()
    path = "body.units.0.units.0.conv1"
    assert module._places(network, x[:1])[path] == [256] * 3
    assert module._places(network, x[:1])["head"] == [256]
    inputs = []
    network.get_submodule(path).register_forward_pre_hook(lambda _, given: inputs.append(*given))
    with torch.no_grad():
        network(x)
    seen = list(module._inputs(network, path, [x], 3))
    assert all(map(torch.equal, seen, inputs[:3]))
    assert not torch.equal(seen[0], seen[1])


def test_weights_stay_where_inputs_are_zero():
    layer = nn.Conv2d(2, 2, 1, bias=False)
    layer.weight.data = torch.tensor([[0.9, -0.2], [0.4, 1.0]])[..., None, None]
    weight = layer.weight.detach().clone()
    quantizer = build(config_class("minmax")()).weight_quantizer(SITE, weight, 8, per_channel=True)
    quantizer.observe(weight)
    quantized = QuantConv2d(layer, quantizer, nn.Identity())
    operands = module._operands(quantized, [torch.zeros(1, 2, 8, 8)], 64)
    with torch.no_grad():
        fit = module._Fit(quantized, quantizer.static_grid(), fine=False)
        module._fit(fit, operands, operands)
        assert torch.equal(layer.weight, quantizer(weight))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_operands_are_what_weights_are_multiplied_with(groups, stride, dilation):
    conv = nn.Conv2d(4, 6, 3, stride, padding=1, dilation=dilation, groups=groups)
    layer = QuantConv2d(conv, nn.Identity(), nn.Identity())
    x = torch.randn(2, 4, 9, 7)
    seen = layer.operands(x, 50, torch.Generator().manual_seed(0))
    out = layer(x)
    n, _, h, w = out.shape
    picked = torch.randint(n * h * w, (50,), generator=torch.Generator().manual_seed(0))
    expected = out.permute(0, 2, 3, 1).reshape(-1, 6)[picked]
    rows = conv.weight.flatten(1).view(groups, 6 // groups, -1)
    got = (seen @ rows.transpose(1, 2)).transpose(0, 1).reshape(50, 6) + conv.bias
    assert torch.allclose(got, expected, atol=1e-5)


def test_operands_of_a_linear_layer():
    layer = QuantLinear(nn.Linear(3, 2), nn.Identity(), nn.Identity())
    x = torch.randn(2, 5, 3)
    seen = layer.operands(x, 30, torch.Generator().manual_seed(0))
    assert seen.shape == (1, 30, 3)
    assert {tuple(row.tolist()) for row in seen[0]} <= {tuple(r.tolist()) for r in x.view(-1, 3)}


def test_grouped_layer_is_fitted_group_by_group():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    weight = conv.weight.detach().clone()
    quantizer = build(config_class("dobi")()).weight_quantizer(SITE, weight, 3, per_channel=True)
    quantizer.observe(weight)
    layer = QuantConv2d(conv, quantizer, nn.Identity())
    x = torch.rand(1, 4, 30, 30).cumsum(3)
    wanted = F.conv2d(x, weight, conv.bias, padding=1, groups=2).detach()
    plain = (layer(x) - wanted).square().mean().item()
    operands = module._operands(layer, [x], 900)
    with torch.no_grad():
        module._fit(module._Fit(layer, quantizer.static_grid(), fine=False), operands, operands)
    assert (layer(x) - wanted).square().mean().item() < 0.5 * plain


def test_method_without_found_ranges_is_refused():
    with pytest.raises(ValueError, match="from the weights themselves"):
        compensate(calibrated(tiny_edsr(), "pams"), tiny_edsr(), [pictures()])


@pytest.mark.parametrize("make", [tiny_edsr, tiny_block])
def test_a_single_pass_fits_as_layer_after_layer(make, monkeypatch):
    fitted = []
    for single in (True, False):
        network = calibrated(make())
        if not single:
            monkeypatch.setattr(
                module,
                "_fit_in_passing",
                lambda network, reference, fits, batch: module._fit_one_by_one(
                    network, reference, fits, [batch], dict.fromkeys(fits, 1)
                ),
            )
        compensate(network, make(), [pictures()])
        fitted.append(network.state_dict())
    for key, value in fitted[0].items():
        torch.testing.assert_close(fitted[1][key], value)


def test_an_error_in_the_float_network_ends_the_single_pass():
    network, reference = calibrated(tiny_edsr()), tiny_edsr()
    reference.body_last = nn.Identity()
    reference.body[1].conv1 = nn.Conv2d(5, 8, 3)
    with pytest.raises(RuntimeError, match="channels"):
        compensate(network, reference, [pictures()])
    assert not any(layer._forward_pre_hooks for layer in network.modules())


def test_at_8_bits_the_bias_alone_takes_up_the_error_of_inputs():
    layer = nn.Conv2d(2, 1, 1)
    layer.weight.data = torch.tensor([[[[0.5]], [[-0.25]]]])
    layer.bias.data.fill_(1.0)
    quantizer = build(config_class("minmax")()).weight_quantizer(
        SITE, layer.weight, 8, per_channel=True
    )
    quantizer.observe(torch.tensor([[[[127 / 128]], [[0.0]]]]))  # levels are multiples of 1/128
    quantized = QuantConv2d(layer, quantizer, nn.Identity())
    x0 = torch.rand(1, 500, 2, generator=torch.Generator().manual_seed(0))
    # Inputs with noise, and 0.1 too large: a fit would shrink the weights.
    x = x0 + 0.1 + 0.3 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        module._fit(module._Fit(quantized, quantizer.static_grid(), fine=True), x, x0)
    assert quantized.weight.flatten().tolist() == [0.5, -0.25]
    error = (x0.mean((0, 1)) - x.mean((0, 1))) @ torch.tensor([0.5, -0.25])
    assert quantized.bias.item() == pytest.approx(1 + error.item(), abs=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_bits_decide_what_is_compensated_for(bits, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "_fit", lambda fit, x, x0: seen.append(fit.fine))
    compensate(calibrated(tiny_edsr(), bits=bits), tiny_edsr(), [pictures()])
    assert set(seen) == {bits == 8}


def test_a_layer_with_too_few_inputs_keeps_its_nearest_levels():
    network = calibrated(tiny_edsr(), bits=8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    compensate(network, tiny_edsr(), [pictures(1)[:, :, :12, :12]])  # 144 pixels
    after = network.state_dict()
    assert not torch.equal(after["head.weight"], before["head.weight"])  # 27 weights a channel
    assert torch.equal(after["body.0.conv1.weight"], before["body.0.conv1.weight"])  # 72
