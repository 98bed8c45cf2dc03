"""Post-training methods: ranges by hand, phases and gradients, a convolutional network and a block
of a transformer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import build, config_class
from sr_quant_cli.methods.dbdc_pac import DBDCPaCConfig, ScaledBounds
from sr_quant_cli.methods.minmax import MinMaxConfig
from sr_quant_cli.methods.percentile import PercentileConfig
from sr_quant_cli.methods.twodquant import DOBIConfig, TwoDQuantConfig, released_distance
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.grids import affine_real
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import BoundsQuantizer, quantizers
from sr_quant_cli.quant.ranges import search_one_sided, search_two_sided
from sr_quant_cli.quant.sites import FULL, Operands, Site
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.training.objective import StudentLoss
from tests.helpers import picture, tiny_block, tiny_edsr, tiny_swinir

CONFIGS = {
    "minmax": MinMaxConfig(),
    "percentile": PercentileConfig(),
    "dobi": DOBIConfig(),
    "2dquant": TwoDQuantConfig(),
    "dbdc_pac": DBDCPaCConfig(),
}
W4A4 = Bits(4, 4)
TRAINED = ("2dquant", "dbdc_pac")
each_method = pytest.mark.parametrize("name", CONFIGS)


NETWORKS = {"edsr": tiny_edsr, "transformer": tiny_block}
each_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def lr_batches(count=2, side=12):
    pictures = [picture(side, side, seed) for seed in range(2 * count)]
    lr = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return list(lr.split(2))


def quantized(config, make=tiny_edsr, bits=W4A4, placement=None, batches=None):
    network, method = make(), build(config)
    quantize_network(network, method, placement or method.paper_placement(), bits)
    if batches is None:
        batches = lr_batches()
    method.calibrate(network, batches)
    return network


def recorded(network, path, batches):
    """Operands of a module of a float network, for each batch."""
    operands = []
    hook = network.get_submodule(path).register_forward_pre_hook(lambda _m, x: operands.append(x))
    with torch.no_grad():
        for batch in batches:
            network(batch)
    hook.remove()
    return operands


def bounds_of(quantizer):
    return [quantizer.lower.detach().numpy(), quantizer.upper.detach().numpy()]


# Estimates written out a second time, in numpy and float64.


def best_of(x, bits, pairs):
    def error(lower, upper):
        step = (upper - lower) / (2**bits - 1)
        return np.sum((np.round((np.clip(x, lower, upper) - lower) / step) * step + lower - x) ** 2)

    return min(pairs, key=lambda pair: error(*pair))


def two_sided(x, bits):
    low, high = x.min(), x.max()
    move = (high - low) / 200
    return best_of(x, bits, [(low + i * move, high - i * move) for i in range(100)])


def one_sided(x, bits):
    low, high = x.min(), x.max()
    return best_of(x, bits, [(low, high - i * (high - low) / 100) for i in range(100)])


def dual_clip(x, dropped):
    counts, edges = np.histogram(x, 2048)
    first, last, lost = 0, 2047, 0
    while True:
        upper_end = counts[last] <= counts[first]
        lost += min(counts[first], counts[last])
        if lost > dropped * x.size:
            return edges[first], edges[last + 1]
        first, last = (first, last - 1) if upper_end else (first + 1, last)


def min_max(x, _bits, _unsigned):
    return x.min(), x.max()


def searched(x, bits, unsigned):
    return one_sided(x, bits) if unsigned else two_sided(x, bits)


INPUT_BOUNDS = {
    "minmax": min_max,
    "percentile": lambda x, _bits, _unsigned: np.percentile(x, [1, 99]),
    "dobi": searched,
    "2dquant": searched,
    "dbdc_pac": lambda x, bits, _unsigned: dual_clip(x, 1e-5 if bits == 8 else 5e-4),
}


@each_method
def test_ranges_of_inputs_are_those_of_the_float_network(name):
    batches = lr_batches(side=16)
    network = quantized(CONFIGS[name], bits=Bits(2, 3), batches=batches)
    layers = {s: network.get_submodule(s.path) for s in network.sites()}
    layers = {site: layer for site, layer in layers.items() if isinstance(layer, QuantConv2d)}
    assert len(layers) == (8 if name == "dbdc_pac" else 4)
    for site, layer in layers.items():
        quantizer = layer.input_quantizer
        inputs = [x.double().numpy() for (x,) in recorded(tiny_edsr(), site.path, batches)]
        found = [INPUT_BOUNDS[name](x, quantizer.bits, site.unsigned) for x in inputs]
        if name == "minmax":
            expected = [min(low for low, _ in found), max(high for _, high in found)]
        else:
            expected = np.mean(found, axis=0)
        assert np.allclose(bounds_of(quantizer), expected, rtol=1e-4, atol=1e-4), site


@each_method
def test_ranges_of_weights(name):
    network = quantized(CONFIGS[name], bits=Bits(3, 4))
    for layer in (network.body[0].conv1, network.body[1].conv2):
        weight = layer.weight.detach().double().numpy()
        if name in ("dobi", "2dquant"):
            expected = two_sided(weight, 3)
        else:
            axes = (1, 2, 3) if name == "dbdc_pac" else None
            expected = [how(weight, axis=axes, keepdims=bool(axes)) for how in (np.min, np.max)]
        assert np.allclose(bounds_of(layer.weight_quantizer), expected, atol=1e-6)


@pytest.mark.parametrize("name", TRAINED)
@each_network
def test_every_bound_gets_a_gradient(name, make):
    network, method = quantized(CONFIGS[name], make, Bits(3, 3)), build(CONFIGS[name])
    lr = lr_batches()[0]
    (network(lr) - make()(lr)).abs().mean().backward()
    groups = method.parameter_groups(network)
    operands = [m for m in network.modules() if isinstance(m, QuantConv2d | QuantLinear)]
    products = [m for m in network.modules() if isinstance(m, QuantMatMul)]
    assert len(groups["weight_bounds"]) == 2 * len(operands)
    assert len(groups["bounds"]) == 2 * len(operands) + 4 * len(products)
    for parameter in groups["bounds"] + groups["weight_bounds"]:
        assert (parameter.grad != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_training_repairs_ranges_that_are_too_wide(name):
    network, method = quantized(CONFIGS[name]), build(CONFIGS[name])
    lr = lr_batches()[0]
    with torch.no_grad():
        wanted = tiny_edsr()(lr)
    groups = method.parameter_groups(network)
    rates = {"bounds": 2.0, "weight_bounds": 3e-3}
    bounds = {group: nn.utils.parameters_to_vector(groups[group]) for group in rates}
    for group, vector in bounds.items():
        nn.utils.vector_to_parameters(vector.detach() * 1.5, groups[group])
    optimizer = torch.optim.Adam([{"params": groups[group]} for group in rates])
    losses, moved = [], []
    for step in range(24):
        for (group, rate), values in zip(rates.items(), optimizer.param_groups, strict=True):
            values["lr"] = rate * method.rate_factor(group, step, 24)
        loss = (network(lr) - wanted).mul(255).square().mean()
        optimizer.zero_grad()
        loss.backward()
        before = {group: nn.utils.parameters_to_vector(groups[group]) for group in rates}
        optimizer.step()
        method.after_step(network)
        moved.append(
            tuple(
                not torch.equal(nn.utils.parameters_to_vector(groups[group]), before[group])
                for group in rates
            )
        )
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.9 * losses[0]
    halves = [(True, False), (False, True)] if name == "dbdc_pac" else [(True, True)] * 2
    assert [set(moved[:12]), set(moved[12:])] == [{halves[0]}, {halves[1]}]
    assert all((q.upper > q.lower).all() for q in quantizers(network))


def test_phases_of_pixel_aware_calibration():
    method = build(DBDCPaCConfig())
    factors = {
        group: [method.rate_factor(group, step, 501) for step in range(501)]
        for group in ("bounds", "weight_bounds")
    }
    for now, later in zip(factors["bounds"], factors["weight_bounds"], strict=True):
        assert (now == 0) != (later == 0)
    assert factors["bounds"][0] == 1
    assert factors["bounds"][250] == pytest.approx(0.4, abs=1e-4)
    assert factors["weight_bounds"][251] == pytest.approx(1, abs=1e-4)
    assert factors["weight_bounds"][500] == pytest.approx(0.4, abs=1e-4)


@pytest.mark.parametrize(("bits", "largest_code"), [(2, 1), (4, 7), (8, 127)])
def test_scaled_bounds_change_the_gradient_of_bounds_alone(bits, largest_code):
    x = torch.randn(3, 5, 7, 2, generator=torch.Generator().manual_seed(0))
    results = []
    for kind in (BoundsQuantizer, ScaledBounds):
        quantizer = kind(bits, "clip", affine_real, lambda _x: (torch.tensor(-1.1), torch.pi / 3))
        quantizer.observe(x)
        leaf = x.clone().requires_grad_()
        y = quantizer(leaf)
        (y * x.roll(1)).sum().backward()
        results.append((y, leaf.grad, quantizer.lower.grad, quantizer.upper.grad))
    plain, scaled = results
    assert torch.equal(scaled[0], plain[0])
    assert torch.equal(scaled[1], plain[1])
    factor = 1 / math.sqrt(210 * largest_code)
    for grad, whole in zip(scaled[2:], plain[2:], strict=True):
        assert grad.item() == pytest.approx(whole.item() * factor, rel=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_extreme_weights_give_their_bounds_nothing(bits):
    # Two channels whose bounds are on their extremes: only the rounding error moves them.
    weight = (0.7 * torch.arange(18.0)).sin().view(2, 1, 3, 3)
    quantizer = build(DBDCPaCConfig()).weight_quantizer(Site("", "block", 1), weight, bits)
    quantizer.observe(weight)
    to_output = (1.3 * torch.arange(18.0)).cos().view(2, 1, 3, 3)
    (quantizer(weight) * to_output).sum().backward()
    n = 2**bits - 1
    for channel in range(2):
        w, g = weight[channel], to_output[channel]
        lower, upper = w.min(), w.max()
        step = (upper - lower) / n
        e = ((w - lower) - step * ((w - lower) / step).round()) / (upper - lower)
        scale = 1 / math.sqrt(18 * (2 ** (bits - 1) - 1))
        found = [bound.grad[channel].item() for bound in (quantizer.lower, quantizer.upper)]
        expected = scale * (g * e).sum().item()
        assert found == pytest.approx([expected, -expected], rel=1e-3, abs=1e-7)


def test_the_released_dual_clipping():
    x = torch.linspace(0, 2048, 100_001).square() / 2048
    site = Site("", "block", 1)
    found = {}
    for variant in ("corrected", "paper", "code"):
        config = DBDCPaCConfig(variant=variant, dropped=0.0)
        quantizer = build(config).input_quantizer(site, 4)
        quantizer.observe(x)
        found[variant] = bounds_of(quantizer)
    assert found["corrected"] == found["paper"] == [0, 2048]
    # 1e-4 of the values are 10, and a bin at the upper end has some 24.
    assert np.allclose(found["code"], [1, 2048])


def test_weights_of_dbdc_may_be_clipped():
    weight = torch.linspace(-1, 1, 202).view(2, 101, 1, 1)
    site = Site("", "block", 101)
    for variant, share in (("corrected", 0.1), ("code", 0.0)):
        method = build(DBDCPaCConfig(variant=variant, weight_clip=0.1))
        quantizer = method.weight_quantizer(site, weight, 4)
        quantizer.observe(weight)
        expected = np.quantile(weight.numpy(), [share, 1 - share], axis=(1, 2, 3), keepdims=True)
        assert np.allclose(bounds_of(quantizer), expected, atol=1e-6)


def test_placement_of_dbdc():
    network = quantized(DBDCPaCConfig(), bits=Bits(4, 3))
    layers = {path: m for path, m in network.named_modules() if isinstance(m, QuantConv2d)}
    ends = {"head": (8, 8), "tail": (8, 8)}
    assert {
        path: (m.weight_quantizer.bits, m.input_quantizer.bits) for path, m in layers.items()
    } == {path: ends.get(path, (4, 3)) for path in layers}
    assert not [m for m in network.modules() if isinstance(m, nn.Conv2d)]


def with_outliers(seed):
    """A network in which one feature is 4 times as large as all others, at three pixels."""
    network = tiny_edsr(seed=seed)
    lr = torch.from_numpy(picture(64, 64, seed)).permute(2, 0, 1)[None].float() / 255
    ((features,),) = recorded(network, "body.0.conv2", [lr])
    conv = network.body[0].conv1
    with torch.no_grad():
        ((x,),) = recorded(network, "body.0.conv1", [lr])
        response = nn.functional.conv2d(x, conv.weight[:1], conv.bias[:1], padding=1)
        highest = response.flatten().sort(descending=True).values
        scale = 4 * features.max() / (highest[0] - highest[3])
        conv.weight[0] *= scale
        conv.bias[0] = (conv.bias[0] - highest[3]) * scale
    return network, lr


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_outliers_hurt_the_widest_range_most_and_the_searched_one_least(seed):
    network, lr = with_outliers(seed)
    inputs = {"block_first": Operands("low"), "block": Operands("low")}

    def again():
        twin = tiny_edsr()
        twin.load_state_dict(network.state_dict())
        return twin

    errors = {}
    with torch.no_grad():
        wanted = network(lr)
        for name, config in CONFIGS.items():
            student = quantized(config, again, W4A4, inputs, [lr])
            errors[name] = (student(lr) - wanted).square().mean().sqrt().item()
    assert errors["minmax"] > 1.2 * max(errors["percentile"], errors["dbdc_pac"])
    assert min(errors["percentile"], errors["dbdc_pac"]) > 1.02 * errors["dobi"]
    assert errors["dobi"] == errors["2dquant"]


@pytest.mark.parametrize("name", ["minmax", "percentile", "dobi", "2dquant"])
def test_placement_in_a_transformer(name):
    network = quantized(CONFIGS[name], tiny_block)
    assert isinstance(network.head, nn.Conv2d)
    assert isinstance(network.tail[0], nn.Conv2d)
    # Six linear layers with two operands each, two products with two.
    assert [q.lower.shape for q in quantizers(network)] == [()] * 16
    whole = quantized(CONFIGS[name], tiny_block, placement=FULL)
    assert len(list(quantizers(whole))) == 20


def test_dbdc_in_a_transformer_has_weight_ranges_per_output():
    network = quantized(DBDCPaCConfig(), tiny_block)
    assert network.fc1.weight_quantizer.lower.shape == (16, 1)
    assert network.fc1.input_quantizer.lower.shape == ()
    assert isinstance(network.head, QuantConv2d)


@pytest.mark.parametrize("variant", ["corrected", "paper", "code"])
@pytest.mark.parametrize("kind", [DOBIConfig, TwoDQuantConfig])
def test_one_sided_search_after_softmax_and_gelu(kind, variant):
    (batch,) = batches = lr_batches(1)
    network = quantized(kind(variant=variant), tiny_block, Bits(2, 2), batches=batches)
    reach = {"corrected": 1.0, "paper": 0.5}
    crowded = {
        network.mix.left_quantizer: recorded(tiny_block(), "mix", [batch])[0][0],
        network.fc2.input_quantizer: recorded(tiny_block(), "fc2", [batch])[0][0],
    }
    for quantizer, x in crowded.items():
        if variant == "code":
            expected = search_two_sided(x, 2)
            assert quantizer.lower > x.min()
        else:
            expected = search_one_sided(x, 2, reach=reach[variant])
            assert quantizer.lower == x.min()
        assert torch.allclose(torch.stack(expected), torch.tensor(np.array(bounds_of(quantizer))))
    bell_shaped = {
        network.mix.right_quantizer: recorded(tiny_block(), "mix", [batch])[0][1],
        network.scores.left_quantizer: recorded(tiny_block(), "scores", [batch])[0][0],
        network.fc1.input_quantizer: recorded(tiny_block(), "fc1", [batch])[0][0],
    }
    for quantizer, x in bell_shaped.items():
        expected = search_two_sided(x, 2)
        assert torch.allclose(torch.stack(expected), torch.tensor(np.array(bounds_of(quantizer))))


def test_the_step_of_the_paper_does_not_reach_the_best_bound_of_a_long_tail():
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    x = -uniform.log()
    site = Site("", "block", 1, unsigned=True)
    errors, uppers = {}, {}
    for variant in ("corrected", "paper", "code"):
        quantizer = build(DOBIConfig(variant=variant)).input_quantizer(site, 2)
        quantizer.observe(x)
        errors[variant] = (quantizer(x) - x).square().mean().item()
        uppers[variant] = quantizer.upper.item() / x.max().item()
    assert uppers["paper"] > 0.5 > uppers["corrected"]
    assert errors["corrected"] < 0.8 * errors["paper"]
    assert errors["corrected"] < errors["code"]


def test_the_released_feature_loss_of_2dquant():
    # Measured with optimize_parameters of the authors (github.com/Kai-Liu001/2DQuant, 972eb42).
    student = (0.37 * torch.arange(60.0)).sin().view(2, 6, 5).requires_grad_()
    teacher = (0.41 * torch.arange(60.0)).sin().view(2, 6, 5)
    loss = 5 * released_distance(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0.0020202791783958673, rel=1e-5)
    assert student.grad[0, 0, 1].item() == pytest.approx(-3.047927748411894e-06, rel=1e-4)


@pytest.mark.parametrize("variant", ["corrected", "code"])
def test_variant_code_of_2dquant_has_the_released_loss(variant):
    changes = ["network.scale=2", f"method.variant={variant}"]
    recipe = load_recipe("2dquant-swinir_light", changes)
    student, teacher = tiny_swinir(), tiny_swinir(seed=1)
    generator = torch.Generator().manual_seed(0)
    lr, hr = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        output, wanted = student(lr), teacher(lr)
    objective = StudentLoss(student, recipe, build(recipe.method), teacher)
    losses = objective(lr, hr)
    expected = (output - wanted).abs().mean().item() / (3 * 16 * 16 if variant == "code" else 1)
    assert losses["pixel"].item() == pytest.approx(expected, rel=1e-3)
    with torch.no_grad():
        student.body[-1].conv.weight.mul_(3)  # behind the features of the released loss
    changed = objective(lr, hr)["feature"].item() != losses["feature"].item()
    assert changed == (variant == "corrected")


def test_2dquant_leaves_the_pace_to_the_recipe():
    method = build(TwoDQuantConfig())
    assert {
        method.rate_factor(g, step, 9) for g in ("bounds", "weight_bounds") for step in (0, 8)
    } == {1}


@pytest.mark.parametrize(
    ("config", "value"),
    [
        (PercentileConfig, {"percent": 0.99}),
        (DOBIConfig, {"candidates": 0}),
        (DBDCPaCConfig, {"dropped": 1.0}),
        (DBDCPaCConfig, {"weight_clip": 0.5}),
    ],
)
def test_values_without_meaning_are_refused(config, value):
    with pytest.raises(ValueError, match=next(iter(value))):
        config(**value)


@pytest.mark.parametrize("name", ["minmax", "percentile", "cabm", "granular_dq"])
def test_a_method_without_variants_refuses_them(name):
    assert config_class(name).variants() == ("corrected",)
    with pytest.raises(
        UsageError, match=r"^`overrides` method\.variant=code: must be 'corrected'$"
    ):
        load_recipe(f"{name}-edsr", ["method.variant=code"])


@pytest.mark.parametrize(
    ("changes", "bits", "ignored"),
    [
        ({"weight_clip": 0.1}, 4, "method.weight_clip"),
        ({"dropped": 0.1}, 4, "method.dropped"),
        ({"dropped": 0.1, "weight_clip": 0.1}, 4, "method.weight_clip and method.dropped"),
        ({"dropped": 0.1}, 8, None),
        ({}, 4, None),
    ],
)
def test_what_the_released_code_does_not_heed_is_told(changes, bits, ignored):
    cautions = build(DBDCPaCConfig(variant="code", **changes)).cautions(Bits(bits, bits))
    expected = f"variant code clips no weight and 1e-4 of an activation, whatever {ignored} says"
    assert cautions == ([expected] if ignored else [])
    assert build(DBDCPaCConfig(**changes)).cautions(Bits(bits, bits)) == []
