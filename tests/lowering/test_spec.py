"""Codes, steps and zero points of quantized networks."""

from math import inf

import numpy as np
import pytest
import torch
from torch import nn

from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.spec import (
    InputSpec,
    QuantSpec,
    SiteSpec,
    WeightSpec,
    freeze,
    reduce_range,
    snap,
)
from sr_quant_cli.methods import build, config_class
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.grids import affine_int, affine_real, midrise, sym_full, sym_narrow
from sr_quant_cli.quant.layers import QuantConv2d, QuantMatMul
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import BoundsQuantizer, WeightRangeQuantizer
from sr_quant_cli.quant.ranges import min_max
from sr_quant_cli.quant.sites import FULL, TENSORS, Operands, Site
from tests.helpers import tiny_carn, tiny_edsr
from tests.lowered import (
    STATIC,
    One,
    inputs_of,
    lr_batch,
    quantize,
    quantized_edsr,
    twin,
    values_of,
)

each_static = pytest.mark.parametrize("name", STATIC)
each_placement = pytest.mark.parametrize("placement", ["paper", "full"])
each_width = pytest.mark.parametrize("bits", [2, 3, 4, 8])


def bounds(bits, lower, upper, to_grid=affine_real, shape=()):
    quantizer = BoundsQuantizer(bits, "clip", to_grid, min_max, shape)
    quantizer.lower.data.fill_(lower)
    quantizer.upper.data.fill_(upper)
    quantizer.batches.fill_(1)
    return quantizer


EVERYWHERE = ("dbdc_pac", "srq")
"""Methods that quantize every convolution at their own placement."""


def quantized_conv(weight_quantizer, input_quantizer, **options):
    torch.manual_seed(5)
    conv = nn.Conv2d(4, 6, 3, padding=1, **options)
    return QuantConv2d(conv, weight_quantizer, input_quantizer)


@each_width
@each_placement
@each_static
def test_codes_are_in_range_and_give_the_fake_quantized_values(name, placement, bits):
    network = quantized_edsr(name, placement, bits)
    spec = freeze(network)
    assert spec.obstacles == ()
    weights = 0
    for site in spec.sites:
        module = network.get_submodule(site.site.path)
        for given in site.inputs:
            if given is not None:
                assert 0 <= given.zero <= given.last <= 2**given.bits - 1 <= 255
                assert given.step > 0
        if site.weight is not None:
            weights += 1
            codes, width = site.weight.codes, site.weight.bits
            assert codes.dtype == torch.int8
            assert codes.shape == module.weight.shape
            per_channel = (codes.flatten(1).amax(1).int() - codes.flatten(1).amin(1)).max()
            # Codes of a grid half-way between levels count twice.
            assert per_channel <= (2 if name in ("daq", "odm") else 1) * (2**width - 1)
            with torch.no_grad():
                wanted = module.weight_quantizer(module.weight)
            assert torch.allclose(values_of(site.weight), wanted, rtol=2e-7, atol=1e-8)
    assert weights == {"paper": 8 if name in EVERYWHERE else 4, "full": 8}[placement]


@each_placement
@each_static
def test_products_of_which_both_operands_are_codes(name, placement):
    spec = freeze(quantized_edsr(name, placement, 4))
    on_integers = {site.site.path for site in spec.sites if site.on_integers}
    blocks = {f"body.{block}.conv{conv}" for block in (0, 1) for conv in (1, 2)}
    ends = {"head", "body_last", "upsampler.0", "tail"}
    everywhere = placement == "full" or name in EVERYWHERE
    assert on_integers == (blocks | ends if everywhere else blocks)
    assert all(site.site.kind in TENSORS or site.on_integers for site in spec.sites) is everywhere


@each_width
@each_static
def test_full_placement_has_no_real_offsets(name, bits):
    for site in freeze(quantized_edsr(name, "full", bits)).sites:
        assert all(given.offset == 0 for given in site.inputs if given is not None)
        assert site.weight is None or not site.weight.offset.any()


@pytest.mark.parametrize("name", ["dbdc_pac", "dobi", "pams", "quantsr", "ddtb"])
def test_a_packed_file_comes_down_to_the_same_codes(tmp_path, name):
    network = quantized_edsr(name, "paper", 3)
    save_model(tmp_path / "q.safetensors", network, Card())
    for ours, theirs in zip(
        freeze(network).sites,
        freeze(load_model(tmp_path / "q.safetensors")[0]).sites,
        strict=True,
    ):
        for a, b in zip(ours.inputs, theirs.inputs, strict=True):
            assert (a is None) is (b is None)
            if a is not None:
                assert (a.bits, a.step, a.zero, a.last, a.offset) == (
                    *(b.bits, b.step, b.zero, b.last),
                    b.offset,
                )
                assert (a.shift is None) is (b.shift is None)
        assert (ours.weight is None) is (theirs.weight is None)
        if ours.weight is not None:
            assert torch.equal(ours.weight.codes, theirs.weight.codes)
            assert torch.allclose(values_of(ours.weight), values_of(theirs.weight), rtol=2e-7)


def test_after_a_relu_a_symmetric_range_loses_the_codes_below_zero():
    spec = freeze(quantized_edsr("pams", "full", 4))
    last = {site.site.path: site.inputs[0] for site in spec.sites if site.inputs}
    assert (last["body.0.conv2"].zero, last["body.0.conv2"].last) == (0, 7)
    assert (last["body_last"].zero, last["body_last"].last) == (7, 14)


def test_a_softmax_gives_the_left_operand_alone():
    product = QuantMatMul(bounds(4, 0, 15, affine_int), bounds(4, -8, 7, affine_int))
    _, site = twin(product, kind="matmul", unsigned=True)
    left, right = site.inputs
    assert (left.zero, left.last) == (0, 15)
    assert (right.zero, right.last) == (8, 15)


@pytest.mark.parametrize(
    ("lower", "upper", "zero", "offset"),
    [
        (-1.0, 2.0, 1, 0.0),
        (-1.25, 1.75, 1, -0.25),
        (-0.75, 2.25, 1, 0.25),
        (3.0, 6.0, 0, 3.0),
        (-6.0, -3.0, 3, -3.0),
        (0.25, 3.25, 0, 0.25),
    ],
)
def test_zero_point_and_offset_of_a_range(lower, upper, zero, offset):
    _, site = twin(quantized_conv(bounds(2, -1, 1), bounds(2, lower, upper)))
    (given,) = site.inputs
    assert (given.step, given.last) == (1, 3)
    assert (given.zero, given.offset) == (zero, pytest.approx(offset))


def test_weights_with_an_integer_zero_point_are_plain_codes():
    # Levels 3 .. 18 steps of 0.25: codes of their own fit.
    conv = quantized_conv(bounds(4, 0.75, 4.5, affine_int), bounds(4, -1, 1))
    conv.weight.data.uniform_(0.5, 5)
    _, site = twin(conv)
    assert not site.weight.offset.any()
    assert (int(site.weight.codes.min()), int(site.weight.codes.max())) == (3, 18)
    # Levels 400 .. 415 do not.
    conv = quantized_conv(bounds(4, 100, 103.75, affine_int), bounds(4, -1, 1))
    conv.weight.data.uniform_(99, 105)
    _, site = twin(conv)
    assert site.weight.offset.tolist() == [pytest.approx(102.0)] * 6
    assert torch.allclose(values_of(site.weight), conv.weight_quantizer(conv.weight))


@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_weights_between_levels_are_odd_codes_of_half_the_step(bits):
    quantizer = WeightRangeQuantizer(bits, "ste", lambda w, b: midrise(torch.tensor(0.5), b))
    conv = quantized_conv(quantizer, bounds(4, -1, 1))
    conv.weight.data.mul_(0.25 * 2**bits / conv.weight.abs().max())
    _, site = twin(conv)
    assert not site.weight.offset.any()
    assert site.weight.step.tolist() == [0.25] * 6
    assert (site.weight.codes % 2 == 1).all()
    assert site.weight.codes.abs().max() == 2**bits - 1
    assert torch.equal(values_of(site.weight), quantizer(conv.weight).detach())


@pytest.mark.parametrize("halves", [-9, -1, 1, 9])
def test_seven_bits_between_levels_stay_within_a_byte(halves):
    # From code -64 plus some halves of a step on.
    lower = -64 + halves / 2
    conv = quantized_conv(bounds(7, lower, lower + 127), bounds(4, -1, 1))
    conv.weight.data.uniform_(lower - 5, lower + 132)
    _, site = twin(conv)
    assert torch.equal(values_of(site.weight), conv.weight_quantizer(conv.weight).detach())


def test_eight_bits_between_levels_do_not_fit_and_keep_their_offset():
    quantizer = WeightRangeQuantizer(8, "ste", lambda w, b: midrise(torch.tensor(0.5), b))
    conv = quantized_conv(quantizer, bounds(4, -1, 1))
    conv.weight.data.mul_(70 / conv.weight.abs().max())
    _, site = twin(conv)
    assert site.weight.offset.tolist() == [0.25] * 6
    assert torch.equal(values_of(site.weight), quantizer(conv.weight).detach())


def test_daq_is_an_obstacle_that_names_site_and_reason():
    network = quantize(tiny_edsr(), "daq", "paper", 4)
    spec = freeze(network)
    assert [path for path, _ in spec.obstacles] == [
        f"body.{block}.conv{conv}" for block in (0, 1) for conv in (1, 2)
    ]
    assert {why for _, why in spec.obstacles} == {"its range follows from the picture at run time"}
    assert not any(site.on_integers for site in spec.sites)
    x = lr_batch(2, first=5)
    with torch.no_grad():
        assert torch.equal(lower(network, spec)(x), network(x))


def test_only_chosen_gates_of_ddtb_are_obstacles():
    network = quantize(tiny_edsr(), "ddtb", "paper", 4)
    chosen = network.get_submodule("body.1.conv2.input_quantizer")
    chosen.dynamic.fill_(True)
    chosen.applied.fill_(True)
    spec = freeze(network)
    assert [path for path, _ in spec.obstacles] == ["body.1.conv2"]
    assert "at run time" in spec.obstacles[0][1]
    on_integers = [site.site.path for site in spec.sites if site.on_integers]
    assert on_integers == ["body.0.conv1", "body.0.conv2", "body.1.conv1"]


def test_a_dynamic_block_input_is_float_for_the_layer_behind_it_too():
    network = quantize(tiny_edsr(), "ddtb", "paper", 4)
    chosen = network.get_submodule("body.0.block_in.input_quantizer")
    chosen.dynamic.fill_(True)
    chosen.applied.fill_(True)
    spec = freeze(network)
    assert [path for path, _ in spec.obstacles] == ["body.0.block_in"]
    on_integers = [site.site.path for site in spec.sites if site.on_integers]
    assert on_integers == ["body.0.conv2", "body.1.conv1", "body.1.conv2"]


@each_width
@pytest.mark.parametrize("name", ["dbdc_pac", "dobi", "minmax"])
def test_snapped_values_move_by_half_a_step_at_most(name, bits):
    before = freeze(quantized_edsr(name, "paper", bits))
    after = snap(before)
    moved = 0
    for old, new in zip(before.sites, after.sites, strict=True):
        for a, b in zip(old.inputs, new.inputs, strict=True):
            if a is not None:
                assert b.offset == 0
                assert (b.step, b.zero, b.last) == (a.step, a.zero, a.last)
                assert abs(a.offset) <= 0.5 * a.step
                moved += a.offset != 0
        if old.weight is not None:
            shape = [-1, *[1] * (old.weight.codes.ndim - 1)]
            way = (values_of(new.weight) - values_of(old.weight)).abs() / old.weight.step.view(
                shape
            )
            assert way.max() <= 0.5001
            moved += bool(way.max() > 1e-3)
            if old.weight.bits < 8:
                assert not new.weight.offset.any()
    assert moved


def test_what_cannot_be_snapped_within_half_a_step_stays():
    weights_too_far = quantized_conv(bounds(8, 3, 5), bounds(4, -1.2, 1))
    weights_too_far.weight.data.uniform_(3, 5)
    for conv in (weights_too_far, quantized_conv(bounds(4, -1, 1), bounds(4, 3, 5))):
        spec = freeze(One(conv))
        (before,), (after,) = spec.sites, snap(spec).sites
        assert torch.allclose(values_of(after.weight), values_of(before.weight), atol=0.5 / 7.5)
        if conv is weights_too_far:
            assert after.weight.offset.all()
        x = inputs_of(before.inputs[0], (1, 4, 6, 6), beyond=0)
        lowered = lower(One(conv), snap(spec)).layer.input(x) + after.inputs[0].offset
        assert (lowered - x).abs().max() <= 1.0001 * before.inputs[0].step


def test_nothing_is_snapped_where_zero_is_a_level():
    spec = freeze(quantized_edsr("minmax", "full", 4))
    assert all(a is b for a, b in zip(spec.sites, snap(spec).sites, strict=True))


@each_static
def test_reduced_weights(name):
    before = freeze(quantized_edsr(name, "full", 8))
    after = reduce_range(before)
    reduced = 0
    for old, new in zip(before.sites, after.sites, strict=True):
        wide = any(given is not None and given.last > 127 for given in old.inputs)
        if old.weight is None or not wide:
            assert new is old
            continue
        assert new.weight.codes.int().abs().max() <= 64
        step = old.weight.step.view(-1, 1, 1, 1)
        assert ((values_of(new.weight) - values_of(old.weight)).abs() <= 1.001 * step).all()
        assert new.inputs is old.inputs
        reduced += new is not old
    assert reduced or name in ("quantsr", "lsq")


def weight_of_codes(*codes):
    return WeightSpec(8, torch.tensor([codes], dtype=torch.int8), torch.ones(1), torch.zeros(1))


@pytest.mark.parametrize(
    ("codes", "last", "expected"),
    [
        ((-128, 10), 255, [-64, 5]),
        ((127, 1), 255, [64, 0]),
        ((-127, 3), 128, [-64, 2]),
        ((64, -64), 255, None),
        ((-128, 127), 127, None),
    ],
)
def test_a_range_is_reduced_where_16_bits_could_overflow(codes, last, expected):
    given = InputSpec(8, 1.0, 0, last)
    site = SiteSpec(Site("layer", "linear", 2), (given,), weight_of_codes(*codes))
    (found,) = reduce_range(QuantSpec((site,), ())).sites
    if expected is None:
        assert found is site
    else:
        assert found.weight.codes[0].tolist() == expected
        assert found.weight.step.tolist() == [2.0]


def pairs_in_16_bits(inputs, weights):
    """Compute dot products of rows like x86 processors without VNNI: pairs saturate."""
    products = inputs.astype(np.int64) * weights
    pairs = products[:, ::2] + products[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(1)


def test_why_a_range_is_reduced():
    assert 255 * 127 * 2 > np.iinfo(np.int16).max >= 255 * 64 * 2
    assert np.iinfo(np.int16).min <= -255 * 64 * 2
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (200, 72))
    weights = random.integers(-128, 128, (200, 72))
    reduced = np.rint(weights / 2).astype(np.int64)
    assert (pairs_in_16_bits(inputs, weights) != (inputs * weights).sum(1)).mean() > 0.5
    assert (pairs_in_16_bits(inputs, reduced) == (inputs * reduced).sum(1)).all()
    # Unsigned codes up to 127 never overflow.
    assert (pairs_in_16_bits(inputs // 2, weights) == (inputs // 2 * weights).sum(1)).all()


@pytest.mark.parametrize("to_grid", [sym_narrow, sym_full])
def test_symmetric_weights_keep_their_codes(to_grid):
    quantizer = WeightRangeQuantizer(8, "ste", lambda w, b: to_grid(torch.tensor(1.0), b))
    conv = quantized_conv(quantizer, bounds(8, -1, 1, affine_int))
    conv.weight.data.fill_(-inf)
    _, site = twin(conv)
    assert set(site.weight.codes.flatten().tolist()) == {-127 if to_grid is sym_narrow else -128}
    assert not site.weight.offset.any()


@pytest.mark.parametrize(
    ("make", "placement", "codes"),
    [
        (tiny_edsr, FULL, True),
        (tiny_edsr, FULL | {"block_out": Operands()}, False),
        (tiny_edsr, FULL | {"long_skip": Operands()}, False),
        (tiny_edsr, {kind: FULL[kind] for kind in ("head", "block", "upsampler", "tail")}, False),
        (tiny_carn, FULL, True),
        (tiny_carn, FULL | {"concat_in": Operands()}, False),
    ],
)
def test_products_pass_codes_where_every_tensor_between_them_is_quantized(make, placement, codes):
    network, method = make(), build(config_class("minmax")())
    quantize_network(network, method, placement, Bits(8, 8))
    method.calibrate(network, [lr_batch(2)])
    assert freeze(network).passes_codes == codes
