"""Gradients against closed forms and against autograd of the written-out formulas."""

import math

import pytest
import torch

from sr_quant_cli.quant.fake import fake_quantize, scale_gradient
from sr_quant_cli.quant.grids import (
    affine_int,
    affine_real,
    midrise,
    sym_full,
    sym_narrow,
    unsigned,
)


def values(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class TanhRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.round()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        t = x - x.floor() - 0.5
        return g * (1 - t.tanh() ** 2) / (2 * math.tanh(0.5))


def gradients(function, *inputs):
    leaves = [value.clone().requires_grad_() for value in inputs]
    out = function(*leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weights).sum().backward()
    return out.detach(), [leaf.grad for leaf in leaves]


def assert_same(ours, written_out, *inputs):
    out, grads = gradients(ours, *inputs)
    expected, expected_grads = gradients(written_out, *inputs)
    assert torch.allclose(out, expected, atol=1e-5)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        assert torch.allclose(grad, wanted, rtol=1e-4, atol=1e-3)


def test_pams_is_its_formula():
    def formula(x, alpha):
        clipped = torch.maximum(torch.minimum(x, alpha), -alpha)
        return Round.apply(clipped * 7 / alpha) * alpha / 7

    assert_same(
        lambda x, alpha: fake_quantize(x, sym_narrow(alpha, 4), "half"),
        formula,
        values(400),
        torch.tensor(2.5),
    )


def test_pams_closed_form():
    x = torch.tensor([-5.0, -1.0, 0.3, 2.0, 9.0], requires_grad=True)
    alpha = torch.tensor(3.5, requires_grad=True)
    fake_quantize(x, sym_narrow(alpha, 4), "half").sum().backward()
    v = x.detach()[1:4] * 7 / 3.5
    assert alpha.grad.item() == pytest.approx(((v.round() - v) / 7).sum().item() - 1 + 1, abs=1e-6)
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_ddtb_is_its_formula():
    def formula(x, lower, upper):
        clipped = torch.maximum(torch.minimum(x, upper), lower)
        scale = 15 / (upper - lower)
        zero = Round.apply(scale * lower) + 8
        return (Round.apply(scale * clipped - zero) + zero) / scale

    assert_same(
        lambda x, lower, upper: fake_quantize(x, affine_int(lower, upper, 4), "half"),
        formula,
        values(400),
        torch.tensor(-1.7),
        torch.tensor(3.1),
    )


def test_2dquant_is_its_formula_and_its_closed_form():
    lower, upper = torch.tensor(-1.7), torch.tensor(3.1)
    x = values(400)

    def formula(x, lower, upper):
        step = (upper - lower) / 7
        return Round.apply((x.clamp(lower, upper) - lower) / step) * step + lower

    ours = lambda x, lower, upper: fake_quantize(x, affine_real(lower, upper, 3), "clip")  # noqa: E731
    assert_same(ours, formula, x, lower, upper)
    out, (_, of_lower, of_upper) = gradients(ours, x, lower, upper)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    e = (x.clamp(lower, upper) - out) / (upper - lower)
    assert of_upper.item() == pytest.approx((weights * ((x >= upper) * 1.0 - e)).sum().item(), 1e-4)
    assert of_lower.item() == pytest.approx((weights * ((x <= lower) * 1.0 + e)).sum().item(), 1e-4)


@pytest.mark.parametrize(("grid", "first", "last"), [(sym_full, -4, 3), (unsigned, 0, 7)])
@pytest.mark.parametrize(("rule", "rounding"), [("clip", Round), ("tanh", TanhRound)])
def test_lsq_is_its_formula(grid, first, last, rule, rounding):
    def formula(x, step):
        return rounding.apply((x / step).clamp(first, last)) * step

    assert_same(
        lambda x, step: fake_quantize(x, grid(step, 3), rule),
        formula,
        values(400),
        torch.tensor(0.9),
    )


def test_tanh_slope_between_levels_and_on_a_level():
    x = torch.tensor([0.5, 1.0, 1.5, 2.0], requires_grad=True)
    fake_quantize(x, sym_full(torch.tensor(1.0), 4), "tanh").sum().backward()
    assert x.grad.tolist() == pytest.approx([1.082, 0.851, 1.082, 0.851], abs=1e-3)


def test_straight_through_passes_clipped_values_too():
    x = torch.tensor([-90.0, 0.2, 90.0], requires_grad=True)
    y = fake_quantize(x, midrise(torch.tensor(2.0), 2), "ste")
    y.sum().backward()
    assert y.tolist() == [-3.0, 1.0, 3.0]
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("rule", "tie", "to_bound"), [("half", 0.5, 0.5), ("clip", 1.0, 1.0), ("clamp", 1.0, 0.0)]
)
def test_ties_at_a_bound(rule, tie, to_bound):
    x = torch.tensor([0.0, 3.0, 1.0], requires_grad=True)
    lower, upper = torch.tensor(0.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    fake_quantize(x, affine_real(lower, upper, 2), rule).sum().backward()
    assert x.grad.tolist() == [tie, tie, 1.0]
    assert (lower.grad.item(), upper.grad.item()) == (to_bound, to_bound)


def test_one_range_per_output_channel():
    x = values(5, 3, 2, 2)
    lower = torch.tensor([-1.0, -2.0, -0.5, -3.0, -1.0]).view(5, 1, 1, 1)
    upper = torch.tensor([2.0, 1.0, 0.5, 3.0, 4.0]).view(5, 1, 1, 1)
    run = lambda x, l, u: fake_quantize(x, affine_real(l, u, 2), "clip")  # noqa: E731, E741
    out, grads = gradients(run, x, lower, upper)
    for channel in range(5):
        one = run(x[channel], lower[channel], upper[channel])
        assert torch.equal(out[channel], one)
    assert grads[1].shape == lower.shape
    assert grads[2].abs().min() > 0


def test_float32_inside_autocast():
    x = torch.tensor([100.1], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = fake_quantize(x, affine_real(torch.tensor(0.0), torch.tensor(255.0), 8), "clip")
    assert y.dtype == torch.float32
    assert y.item() == 100.0


def test_a_gradient_is_scaled_and_the_range_kept():
    alpha = torch.tensor(3.0, requires_grad=True)
    grid = scale_gradient(sym_narrow(alpha, 3), 0.25)
    assert (grid.lower.item(), grid.upper.item()) == (-3.0, 3.0)
    (2 * grid.upper - grid.lower).backward()
    assert alpha.grad == 0.75
