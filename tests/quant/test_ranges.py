"""Ranges against hand-computed numbers, numpy, and brute force."""

import math

import numpy as np
import pytest
import torch

from sr_quant_cli.quant import ranges
from sr_quant_cli.quant.grids import (
    affine_real,
    midrise,
    quantize,
    sym_full,
    sym_narrow,
    unsigned,
)
from sr_quant_cli.quant.ranges import (
    gaussian_step,
    histogram_clip,
    lsq_step,
    max_abs,
    min_max,
    percentile,
    search_one_sided,
    search_scale,
    search_two_sided,
)

BOUNDS = {
    "min_max": min_max,
    "percentile": lambda x, dim=None: percentile(x, 99, dim),
    "two_sided": lambda x, dim=None: search_two_sided(x, 4, dim=dim),
    "one_sided": lambda x, dim=None: search_one_sided(x, 4, dim=dim),
}
SCALES = {
    "max_abs": max_abs,
    "lsq_step": lambda x, dim=None: lsq_step(x, 7, dim),
    "scale": lambda x, dim=None: search_scale(x, sym_narrow, 4, max_abs(x, dim), dim=dim),
}
ALL = {**BOUNDS, **{name: lambda x, dim=None, f=f: (f(x, dim),) for name, f in SCALES.items()}}
each = pytest.mark.parametrize("estimate", ALL.values(), ids=ALL)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(x, grid):
    return (x - quantize(x, grid)).double().square().sum().item()


@each
@pytest.mark.parametrize(("shape", "dim"), [((5, 3, 2, 2), 0), ((5, 7), 0), ((4, 5), 1), ((5,), 0)])
def test_a_range_for_each_index_is_that_of_its_slice(estimate, shape, dim):
    x = normal(*shape)
    found = estimate(x, dim)
    expected_shape = [1] * len(shape)
    expected_shape[dim] = 5
    for bound in found:
        assert bound.shape == tuple(expected_shape)
        assert bound.dtype == torch.float32
    for index in range(5):
        for bound, alone in zip(found, estimate(x.select(dim, index)), strict=True):
            assert alone.shape == ()
            assert bound.flatten()[index].item() == pytest.approx(alone.item(), rel=1e-6)


@each
def test_no_gradient_goes_through_and_the_input_stays(estimate):
    x = normal(6, 4).requires_grad_()
    before = x.detach().clone()
    assert not any(bound.requires_grad for bound in estimate(x, 0))
    assert torch.equal(x, before)


@pytest.mark.parametrize("constant", [0.0, 0.1, -5.0, 200.0])
@pytest.mark.parametrize("count", [1, 9])
def test_a_constant_is_its_own_range(constant, count):
    x = torch.full((count,), constant)
    clips = {"histogram": lambda x: histogram_clip(x, 1e-3)}
    for estimate in (BOUNDS | clips).values():
        assert [bound.item() for bound in estimate(x)] == [x[0], x[0]]
    assert max_abs(x).item() == abs(x[0])
    assert SCALES["scale"](x).item() == abs(x[0])


def test_hand_computed_values():
    w = torch.tensor([[[[-3.0, 1.0]]], [[[0.5, 2.0]]]])
    assert max_abs(w).item() == 3
    assert max_abs(w, 0).tolist() == [[[[3.0]]], [[[2.0]]]]
    assert [bound.flatten().tolist() for bound in min_max(w, 0)] == [[-3.0, 0.5], [1.0, 2.0]]
    # 2 * mean(3, 1, 0.5, 2) / sqrt(7) and, by channel, of (3, 1) and (0.5, 2).
    assert lsq_step(w, 7).item() == pytest.approx(3.25 / math.sqrt(7))
    assert lsq_step(w, 7, 0).flatten().tolist() == pytest.approx(
        [4 / math.sqrt(7), 2.5 / math.sqrt(7)]
    )


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9, 100])
@pytest.mark.parametrize("size", [1, 2, 37, 1000])
def test_percentiles_are_numpys(percent, size):
    x = normal(3, size)
    for dim, axis in ((None, None), (0, 1)):
        expected = np.percentile(x.double().numpy(), [100 - percent, percent], axis=axis)
        for found, wanted in zip(percentile(x, percent, dim), expected, strict=True):
            assert found.flatten().numpy() == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_percentiles_of_more_values_than_torch_quantile_takes():
    x = normal(17_000_000)
    expected = np.percentile(x.numpy(), [1, 99])
    assert [bound.item() for bound in percentile(x, 99)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("percent", [0.99, 49, 101])
def test_a_percentile_that_is_none_is_refused(percent):
    with pytest.raises(ValueError, match=r"must be 50 to 100"):
        percentile(torch.zeros(3), percent)


# Bins of width 1 over 0..10 with 1, 2, 4, 10, 20, 30, 20, 6, 3, 4 values: 100 in all.
COUNTS = [1, 2, 4, 10, 20, 30, 20, 6, 3, 4]


@pytest.mark.parametrize(
    ("dropped", "bounds"),
    [
        (0.0, (0, 10)),
        (0.009, (0, 10)),
        (0.01, (1, 10)),  # 1 < 4: the lower one
        (0.03, (2, 10)),  # 2 < 4
        (0.07, (2, 9)),  # 4 = 4: the upper one
        (0.10, (2, 8)),  # 3 < 4
        (0.14, (3, 8)),  # 4 < 6
        (0.19, (3, 8)),  # 6 < 10, but 20 of 100 would be lost
        (0.20, (3, 7)),
    ],
)
def test_dual_clipping_drops_the_thinner_end(dropped, bounds):
    values = torch.repeat_interleave(torch.arange(10) + 0.5, torch.tensor(COUNTS))
    values[0], values[-1] = 0.0, 10.0  # the histogram reaches from the least to the largest value
    assert tuple(bound.item() for bound in histogram_clip(values, dropped, bins=10)) == bounds


def test_dual_clipping_never_drops_a_bin_that_is_too_heavy():
    assert [bound.item() for bound in histogram_clip(torch.tensor([0.0, 7.0]), 0.4)] == [0, 7]


def test_dual_clipping_loses_at_most_its_share():
    x = normal(100_000).relu()
    lower, upper = histogram_clip(x, 5e-4)
    assert lower == 0
    assert 4e-4 < (x > upper).float().mean() <= 5e-4


@pytest.mark.parametrize("dropped", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(dropped):
    with pytest.raises(ValueError, match="below 1"):
        histogram_clip(torch.zeros(3), dropped)


SAMPLES = {
    "normal": normal(2000),
    "heavy tails": normal(2000, seed=1) ** 3,
    "after relu": normal(2000, seed=2).relu(),
    "far from zero": 1000 + normal(2000, seed=3),
    "few": normal(5, seed=4),
}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("x", SAMPLES.values(), ids=SAMPLES)
def test_searched_bounds_are_the_best_of_all_candidates(x, bits):
    low, high = x.min(), x.max()
    width = high - low
    candidates = {
        search_two_sided: [(low + i * width / 80, high - i * width / 80) for i in range(40)],
        search_one_sided: [(low, high - i * width / 40) for i in range(40)],
    }
    for search, pairs in candidates.items():
        errors = [error(x, affine_real(lower, upper, bits)) for lower, upper in pairs]
        bounds = search(x, bits, 40)
        # Float32 rounding decides between candidates that are equal otherwise.
        assert error(x, affine_real(*bounds, bits)) == pytest.approx(min(errors), rel=1e-5)
        assert any(torch.allclose(torch.stack(bounds), torch.stack(pair)) for pair in pairs)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("grid_of", [sym_narrow, sym_full, unsigned, midrise])
def test_a_searched_scale_is_the_best_of_all_candidates(grid_of, bits):
    w = torch.stack([normal(300), normal(300, seed=1) ** 3, torch.zeros(300)]).reshape(3, 3, 10, 10)
    start = max_abs(w, 0) / (1 if grid_of is sym_narrow else 2 ** (bits - 1))
    found = search_scale(w, grid_of, bits, start, 40, dim=0)
    assert found.shape == (3, 1, 1, 1)
    for channel, first, scale in zip(w, start.flatten(), found.flatten(), strict=True):
        errors = [error(channel, grid_of(first * i / 40, bits)) for i in range(1, 41)]
        assert error(channel, grid_of(scale, bits)) == pytest.approx(min(errors), rel=1e-5)


def test_of_equal_errors_the_widest_range_is_taken():
    # The values are levels of the widest range, -3, -1, 1, 3, and of [-1, 1].
    x = torch.tensor([-3.0, -1.0, 1.0, 3.0])
    assert [bound.item() for bound in search_two_sided(x, 2, 6)] == [-3, 3]
    zero_or_one = torch.tensor([0.0, 1.0])
    assert search_scale(zero_or_one, unsigned, 2, torch.tensor(1.0), 6).item() == 1
    # Steps of 1/2 and 1/3 have 1 as a level, too.
    assert search_scale(zero_or_one, unsigned, 2, torch.tensor(0.5), 3).item() == 0.5


@pytest.mark.parametrize("bits", range(2, 9))
def test_gaussian_steps_are_the_optimal_ones(bits):
    one = torch.tensor(1.0)
    step, late = (gaussian_step(one, bits, table).item() for table in ("optimal", "daq"))
    steps = [step, late, *(step * (0.5 + i / 50) for i in range(51))]
    steps += [step + i * 1e-4 for i in range(-10, 11)]
    # The squared error on N(0, 1) by the midpoint rule, on one half of the symmetric grid.
    width = 8 / 40_000
    x = (torch.arange(40_000, dtype=torch.float64) + 0.5) * width
    density = torch.exp(-(x**2) / 2) * math.sqrt(2 / math.pi) * width
    grids = midrise(torch.tensor(steps, dtype=torch.float64)[:, None], bits)
    errors = (x - quantize(x, grids)).square() @ density
    assert steps[int(errors.argmin())] == pytest.approx(step, abs=5e-4)
    assert errors[0] <= 1.001 * errors.min()
    if bits <= 4:
        expected = {2: 1.80, 3: 2.21, 4: 2.48}[bits]
        assert (errors[1] / errors.min()).item() == pytest.approx(expected, abs=0.01)


def test_the_table_of_daq_is_one_bit_late():
    deviation = torch.tensor([0.0, 2.0])
    assert gaussian_step(deviation, 2, "daq").tolist() == pytest.approx([0, 2 * 1.596])
    assert gaussian_step(deviation, 8, "daq").tolist() == pytest.approx([0, 2 * 0.057])
    for bits in range(2, 8):
        assert torch.equal(
            gaussian_step(deviation, bits + 1, "daq"), gaussian_step(deviation, bits, "optimal")
        )
    with pytest.raises(ValueError, match="must be 2 to 8"):
        gaussian_step(deviation, 1, "optimal")


def test_sorting_without_numpy_gives_the_same(monkeypatch):
    x = normal(3, 500)
    expected = [estimate(x, 0) for estimate in ALL.values()]
    monkeypatch.setattr(ranges, "_sorted", lambda values: values.sort().values)
    for estimate, wanted in zip(ALL.values(), expected, strict=True):
        for bound, other in zip(estimate(x, 0), wanted, strict=True):
            assert torch.equal(bound, other)
