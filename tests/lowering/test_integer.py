"""Integer layers compared with fake-quantized ones on the same inputs, border included."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from sr_quant_cli.lowering.integer import (
    IntegerConv2d,
    IntegerInput,
    IntegerLinear,
    IntegerMatMul,
    IntegerTensor,
    OnFloats,
    OnPixels,
    ToPixels,
    give_pixels,
)
from sr_quant_cli.lowering.lower import absorb_shifts, lower, quantize_early
from sr_quant_cli.lowering.spec import InputSpec, freeze, snap
from sr_quant_cli.methods import build, config_class
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.networks.layers import Denormalize
from sr_quant_cli.networks.tracing import output_stage
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.grids import affine_int, affine_real
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear, QuantMatMul
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import BoundsQuantizer
from sr_quant_cli.quant.ranges import min_max
from sr_quant_cli.quant.sites import FULL, RESIDUAL_BLOCKS, Site
from tests.helpers import BlockConfig, tiny_edsr
from tests.lowered import (
    STATIC,
    Transformer,
    equal,
    inputs_of,
    lr_batch,
    network,
    quantize,
    quantized_edsr,
    scaled_edsr,
    transformer,
    twin,
)

INTEGER = (IntegerConv2d, IntegerLinear, IntegerMatMul, IntegerTensor)


def bounds(bits, lower, upper, to_grid=affine_real):
    """Make a range for each row of ``lower`` and ``upper``, or one."""
    lower, upper = torch.tensor(lower), torch.tensor(upper)
    quantizer = BoundsQuantizer(bits, "clip", to_grid, min_max, lower.shape)
    quantizer.lower.data.copy_(lower)
    quantizer.upper.data.copy_(upper)
    quantizer.batches.fill_(1)
    return quantizer


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("placement", ["paper", "full"])
@pytest.mark.parametrize("name", STATIC)
@torch.no_grad()
def test_every_layer_equals_its_simulation(name, placement, bits):
    simulated = quantized_edsr(name, placement, bits)
    spec = freeze(simulated)
    lowered = lower(simulated, spec)
    found = 0
    for site in spec.sites:
        module, integer = (n.get_submodule(site.site.path) for n in (simulated, lowered))
        if not isinstance(integer, INTEGER):
            continue
        found += 1
        (given,) = site.inputs
        channels = site.site.channels
        x = inputs_of(given, (2, channels, 7, 6), positive=site.site.unsigned)
        if isinstance(module.input_quantizer, nn.Identity):
            # It reads an input that a tensor site has quantized.
            x = integer.input(x) + given.offset
        assert equal(integer(x), module(x))
        codes = (integer.input(x) / given.step).round() + given.zero
        assert equal((codes - given.zero) * given.step, integer.input(x))
        assert (codes.min(), codes.max()) == (0, given.last)
    assert found == sum(None not in site.inputs and len(site.inputs) for site in spec.sites)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["paper", "full"])
@pytest.mark.parametrize("name", STATIC)
@torch.no_grad()
def test_networks_differ_by_codes_at_ties_alone(name, placement):
    x = lr_batch(7, first=4) * 1.1
    worst = []
    for bits in (2, 3, 4, 8):
        simulated = quantized_edsr(name, placement, bits)
        wanted, found = simulated(x), lower(simulated, freeze(simulated))(x)
        assert wanted.std() > 0.01
        worst += (wanted - found).abs().amax((1, 2, 3)).tolist()
    assert sum(difference <= 1e-5 for difference in worst) > len(worst) / 2
    assert max(worst) <= 0.03


@pytest.mark.parametrize(
    ("name", "placement"), [("pams", FULL), ("minmax", FULL), ("minmax", RESIDUAL_BLOCKS)]
)
@torch.no_grad()
def test_a_factor_on_a_branch_goes_with_its_codes(name, placement):
    simulated, method = scaled_edsr(), build(config_class(name)())
    quantize_network(simulated, method, placement, Bits(8, 8))
    method.calibrate(simulated, [lr_batch(2)])
    spec = freeze(simulated)
    lowered = lower(simulated, spec)
    assert [block.res_scale for block in simulated.body] == [0.3, 0.3]
    inputs = {site.site.path: site.inputs for site in spec.sites}
    for index, (block, integer) in enumerate(zip(simulated.body, lowered.body, strict=True)):
        (given,) = inputs[f"body.{index}.block_out"]
        assert bool(given.offset) == (placement is RESIDUAL_BLOCKS)
        x = inputs_of(given, (1, 8, 5, 5))
        assert equal(integer.block_out(x), 0.3 * block.block_out(x))
    x = lr_batch(4, first=5)
    worst = (lowered(x) - simulated(x)).abs().amax((1, 2, 3))
    assert worst.median() <= 2e-3
    simulated.body[0].res_scale = 1.0
    assert (lowered(x) - simulated(x)).abs().amax((1, 2, 3)).median() > 1e-2


CONVOLUTIONS = {
    "plain": {},
    "groups": {"groups": 2},
    "depthwise": {"groups": 6},
    "stride": {"stride": 2},
    "dilation": {"dilation": 2, "padding": 2},
    "all": {"groups": 3, "stride": (2, 1), "dilation": (1, 2), "padding": (2, 3)},
    "wide padding": {"padding": 3},
    "no padding": {"padding": 0},
    "rows": {"kernel_size": (1, 5), "padding": (0, 2)},
    "no bias": {"bias": False},
}
RANGES = {"around 0": (-1.13, 1.9), "above 0": (0.77, 3.1), "below 0": (-4.0, -1.7)}


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["one range", "a range each", "plain codes"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("given", RANGES.values(), ids=RANGES.keys())
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@torch.no_grad()
def test_convolutions_with_real_offsets(options, given, bits, weights):
    torch.manual_seed(2)
    shape = {"in_channels": 6, "out_channels": 12, "kernel_size": 3, "padding": 1, **options}
    conv = nn.Conv2d(**shape)
    lower_bound, upper_bound = -0.31, 0.23
    if weights == "a range each":
        rows = (len(conv.weight), 1, 1, 1)
        lower_bound = (torch.rand(rows) - 0.7).tolist()
        upper_bound = (torch.rand(rows) + 0.31).tolist()
    to_grid = affine_int if weights == "plain codes" else affine_real
    weight_quantizer = bounds(bits, lower_bound, upper_bound, to_grid)
    layer = QuantConv2d(conv, weight_quantizer, bounds(bits, *given))
    integer, site = twin(layer)
    assert isinstance(integer, IntegerConv2d)
    assert site.inputs[0].offset != 0
    if weights != "plain codes" or bits < 8:
        assert site.weight.offset.any() == (weights != "plain codes")
    x = inputs_of(site.inputs[0], (2, 6, 9, 8))
    assert equal(integer(x), layer(x))
    if conv.padding not in (0, (0, 0)):
        # The border differs: without the term of the padding it would be wrong.
        integer.border.zero_()
        assert not equal(integer(x), layer(x))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("given", RANGES.values(), ids=RANGES.keys())
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_linear_layers_with_real_offsets(bits, given, bias):
    torch.manual_seed(2)
    linear = nn.Linear(10, 7, bias=bias)
    layer = QuantLinear(linear, bounds(bits, -0.21, 0.33), bounds(bits, *given))
    integer, site = twin(layer, kind="linear")
    assert isinstance(integer, IntegerLinear)
    assert site.inputs[0].offset != 0
    assert site.weight.offset.any()
    x = inputs_of(site.inputs[0], (2, 5, 10))
    assert equal(integer(x), layer(x))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("left", RANGES.values(), ids=RANGES.keys())
@pytest.mark.parametrize("right", [*RANGES.values(), (-8.0, 7.0)], ids=[*RANGES.keys(), "levels"])
@torch.no_grad()
def test_products_with_real_offsets(bits, left, right):
    layer = QuantMatMul(bounds(bits, *left), bounds(bits, *right))
    integer, site = twin(layer, kind="matmul")
    assert isinstance(integer, IntegerMatMul)
    a = inputs_of(site.inputs[0], (2, 3, 5, 8))
    b = inputs_of(site.inputs[1], (2, 3, 8, 4))
    assert equal(integer(a, b), layer(a, b))


@pytest.mark.parametrize(("name", "placement"), [("minmax", "paper"), ("ddtb", "full")])
@torch.no_grad()
def test_a_transformer_equals_its_simulation(name, placement):
    simulated = quantize(transformer(), name, placement, bits=8)
    spec = freeze(simulated)
    lowered = lower(simulated, spec)
    kinds = {type(module) for module in lowered.modules()}
    assert {IntegerLinear, IntegerMatMul} <= kinds
    x = lr_batch(2, first=3)
    assert (lowered(x) - simulated(x)).abs().max() <= 2e-3
    for path in ("scores", "mix"):
        one, other = (n.get_submodule(path) for n in (simulated, lowered))
        left, right = next(site.inputs for site in spec.sites if site.site.path == path)
        a = inputs_of(left, (1, 5, 6), positive=path == "mix")
        b = inputs_of(right, (1, 6, 7))
        assert equal(other(a, b), one(a, b))


@torch.no_grad()
def test_a_shift_is_added_before_and_never_taken_away():
    simulated = quantized_edsr("quantsr", "paper", 4)
    spec = freeze(simulated)
    for site in spec.sites:
        if site.weight is not None:
            quantizer = simulated.get_submodule(site.site.path).input_quantizer
            assert torch.equal(site.inputs[0].shift, quantizer.shift)
            x = inputs_of(site.inputs[0], (1, 8, 5, 5))
            integer = lower(simulated, spec).get_submodule(site.site.path)
            assert torch.equal(integer.input(x), quantizer(x))
            assert not torch.equal(integer.input(x - 9 * quantizer.shift), quantizer(x))


@pytest.mark.parametrize("name", ["quantsr", "minmax"])
@torch.no_grad()
def test_what_makes_kernels_fusable_changes_no_output(name):
    simulated = quantized_edsr(name, "full", 4)
    plain = lower(simulated, freeze(simulated))
    changed = deepcopy(plain)
    absorb_shifts(changed)
    quantize_early(changed)
    shifts = [m.shift is not None for m in changed.modules() if isinstance(m, IntegerInput)]
    # Shifts of the head, of first convolutions of blocks and of two sums cannot be merged.
    assert sum(shifts) == (5 if name == "quantsr" else 0)
    assert isinstance(changed.get_submodule("upsampler.0"), nn.Sequential)
    x = lr_batch(2, first=5, size=19)
    assert (changed(x) - plain(x)).abs().max() <= 1e-5


@torch.no_grad()
def test_a_shift_upwards_behind_a_relu_leaves_a_least_code():
    given = IntegerInput(InputSpec(4, 0.5, 0, 15, 0.0, torch.tensor([1.2, -1.2]).view(2, 1, 1)))
    x = torch.tensor([-3.0, 0.4, 2.0, -3.0, 0.4, 2.0]).view(1, 2, 1, 3)
    wanted = given(x.relu())
    shift = given.give_up_shift(after_relu=True)
    assert given.least is not None
    assert given.least.flatten().tolist() == [2, 0]
    assert torch.equal(given((x + shift).relu()), wanted)
    assert wanted.flatten().tolist() == [1.0, 1.5, 3.0, 0.0, 0.0, 1.0]


def test_lowering_leaves_the_network_as_it_is():
    simulated = quantized_edsr("dbdc_pac", "paper", 4)
    before = {key: value.clone() for key, value in simulated.state_dict().items()}
    spec = freeze(simulated)
    codes = [site.weight.codes.clone() for site in spec.sites if site.weight is not None]
    steps = [site.weight.step.clone() for site in spec.sites if site.weight is not None]
    give_pixels(lower(simulated, spec))
    assert all(torch.equal(simulated.state_dict()[key], value) for key, value in before.items())
    weights = [site.weight for site in spec.sites if site.weight is not None]
    assert all(torch.equal(w.codes, c) for w, c in zip(weights, codes, strict=True))
    assert all(torch.equal(w.step, s) for w, s in zip(weights, steps, strict=True))


class TwoShuffles(Transformer):
    """A network that ends with a convolution, two PixelShuffles and a value for each colour."""

    def __init__(self, config):
        super().__init__(config)
        self.tail = nn.Sequential(
            nn.Conv2d(8, 48, 3, padding=1), nn.PixelShuffle(2), nn.PixelShuffle(2)
        )
        mean = torch.tensor([0.1, 0.5, 0.8]).view(3, 1, 1)
        self.denormalize = Denormalize(3.0, mean)

    def declared_sites(self):
        return Site("head", "head", 3), Site("tail.0", "tail", 8)

    def forward(self, x):
        return self.denormalize(self.tail(self.head(x)))


def two_shuffles():
    torch.manual_seed(0)
    return TwoShuffles(BlockConfig(scale=4)).eval()


ENDS = {
    "tail": lambda: quantized_edsr("minmax", "full", 8),
    "offsets": lambda: quantized_edsr("dbdc_pac", "paper", 8),
    "shift": lambda: quantized_edsr("quantsr", "full", 8),
    "shuffle x4": lambda: quantize(fold(tiny_edsr(4)), "minmax", bits=8),
    "shuffle x3, offsets": lambda: quantize(fold(tiny_edsr(3)), "dbdc_pac", "paper", bits=8),
    "two shuffles": lambda: quantize(two_shuffles(), "dbdc_pac", "paper", bits=8),
}


@pytest.mark.parametrize("make", ENDS.values(), ids=ENDS.keys())
@torch.no_grad()
def test_the_last_convolution_gives_pixels(make):
    simulated = make()
    plain = lower(simulated, freeze(simulated))
    x = lr_batch(2, first=5, size=9) * 1.4 - 0.2
    wanted = plain(x)
    changed = deepcopy(plain)
    stage = output_stage(changed, (IntegerConv2d,))
    assert give_pixels(changed)
    pixels = changed(x)
    assert pixels.dtype == torch.uint8
    levels = (wanted * 255).round().clamp(0, 255)
    assert (pixels - levels).abs().max() <= 1
    assert (pixels != levels).float().mean() < 1e-3
    # Before rounding it equals the plain network.
    convolution, rounding = changed.get_submodule(stage.convolution)
    assert isinstance(rounding, ToPixels)
    changed.set_submodule(stage.convolution, convolution)
    assert equal(changed(x), wanted)


@pytest.mark.parametrize(
    "make",
    [tiny_edsr, lambda: quantized_edsr("minmax", "paper", 8), lambda: network("transformer")],
)
@torch.no_grad()
def test_networks_that_end_otherwise_give_floats(make):
    simulated = make()
    plain = simulated
    if simulated.quantization is not None:
        plain = lower(simulated, freeze(simulated))
    x = lr_batch(1, first=5)
    wanted = plain(x)
    same = deepcopy(plain)
    assert not give_pixels(same)
    assert torch.equal(same(x), wanted)
    (floats,) = OnFloats(deepcopy(plain))(x)
    assert torch.equal(floats, wanted)
    (pixels,) = OnPixels(deepcopy(plain))((x * 255).byte().permute(0, 2, 3, 1))
    assert pixels.dtype == torch.uint8
    levels = (wanted * 255).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert (pixels - levels).abs().max() <= 1


def test_pixels_are_rounded_half_to_even_and_clipped():
    # 127.5 is exact in float32; the others are far from ties.
    x = torch.tensor([-3.0, -0.001, 0.0, 0.5, 1.4 / 255, 1.6 / 255, 254.6 / 255, 1.0, 1.1, 400.0])
    expected = [0, 0, 0, 128, 1, 2, 255, 255, 255, 255]
    pixels = ToPixels()(x)
    assert pixels.dtype == torch.uint8
    assert pixels.tolist() == expected


@torch.no_grad()
def test_snapped_offsets_need_nothing_but_integers():
    simulated = quantized_edsr("dbdc_pac", "paper", 4)
    spec = freeze(simulated)
    exact, snapped = lower(simulated, spec), lower(simulated, snap(spec))
    low = [s.site.path for s in spec.sites if s.weight is not None and s.weight.bits == 4]
    assert len(low) == 6
    for path in low:
        before, after = (n.get_submodule(path) for n in (exact, snapped))
        assert before.offset is not None
        assert after.offset is after.border is None
    assert sum(exact.get_submodule(path).border is not None for path in low) >= 2
