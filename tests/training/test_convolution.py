"""Winograd convolutions of training: equal to direct ones, in values and gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_quant_cli.kernels import library
from sr_quant_cli.kernels.library import missing
from sr_quant_cli.training import convolution
from sr_quant_cli.training.convolution import fast_convolutions

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(bool(missing()), reason="srq's kernels were not built")


@pytest.fixture
def counted(monkeypatch):
    """Kinds of the transforms that ran."""
    kinds = []
    transform = convolution._transform

    def noted(kind, *rest):
        kinds.append(kind.name)
        transform(kind, *rest)

    monkeypatch.setattr(convolution, "_transform", noted)
    return kinds


def operands(count, inputs, outputs, height, width, *, bias=True):
    """Whole numbers, so that a direct convolution is exact; float64."""
    torch.manual_seed(height + width)
    x = torch.randint(-9, 10, (count, inputs, height, width)).double()
    weight = torch.randint(-9, 10, (outputs, inputs, 3, 3)).double()
    values = torch.randint(-9, 10, (outputs,)).double() if bias else None
    return x, weight, values


def with_gradients(x, weight, bias):
    """A convolution, and the gradients of a weighted sum of it."""
    leaves = [each.requires_grad_() for each in (x, weight, bias) if each is not None]
    y = F.conv2d(x, weight, bias, 1, 1)
    shares = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y.detach(), *torch.autograd.grad((y * shares).sum(), leaves)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("count", "inputs", "outputs", "height", "width", "bias"),
    [
        (2, 32, 32, 8, 12, True),  # whole tiles
        (3, 32, 40, 7, 9, True),  # tiles over the border
        (1, 40, 32, 1, 1, False),
        (1, 64, 32, 2, 17, False),
    ],
)
def test_values_and_gradients_are_those_of_a_direct_convolution(
    count, inputs, outputs, height, width, bias, threads, counted
):
    given = operands(count, inputs, outputs, height, width, bias=bias)
    wanted = with_gradients(*given)
    singles = [each if each is None else each.detach().float() for each in given]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with fast_convolutions("fp32", CPU):
            found = with_gradients(*singles)
    finally:
        torch.set_num_threads(before)
    assert counted == ["INPUT", "OUTPUT", "OF_OUTPUT", "OF_INPUT", "INPUT"]
    for ours, exact in zip(found, wanted, strict=True):
        assert ours.shape == exact.shape
        assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()


@needs_kernels
def test_what_needs_no_gradient_is_not_computed(counted):
    x, weight, bias = (each.float() for each in operands(1, 32, 32, 5, 6))
    with fast_convolutions("fp32", CPU):
        F.conv2d(x, weight.requires_grad_(), bias, 1, 1).sum().backward()
        assert counted == ["INPUT", "OUTPUT", "OF_OUTPUT", "INPUT"]
        assert bias.grad is None
        counted.clear()
        F.conv2d(x.requires_grad_(), weight.detach(), None, 1, 1).sum().backward()
        assert counted == ["INPUT", "OUTPUT", "OF_OUTPUT", "OF_INPUT"]


@needs_kernels
@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        (nn.Conv2d(32, 32, 3, padding=1, stride=2), torch.float32),
        (nn.Conv2d(32, 32, 3, padding=0), torch.float32),
        (nn.Conv2d(32, 32, 3, padding=2, dilation=2), torch.float32),
        (nn.Conv2d(64, 64, 3, padding=1, groups=2), torch.float32),
        (nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"), torch.float32),
        (nn.Conv2d(32, 36, 3, padding=1), torch.float32),
        (nn.Conv2d(24, 32, 3, padding=1), torch.float32),
        (nn.Conv2d(32, 32, 5, padding=1), torch.float32),
        (nn.Conv2d(32, 32, 3, padding="same"), torch.float32),
        (nn.Conv2d(32, 32, 3, padding=1), torch.float64),
    ],
)
def test_other_convolutions_stay_direct(layer, dtype, counted):
    layer = layer.to(dtype)
    x = torch.rand(2, layer.in_channels, 9, 10, dtype=dtype)
    wanted = layer(x)
    with fast_convolutions("fp32", CPU):
        assert torch.equal(layer(x), wanted)
    assert counted == []


@pytest.mark.parametrize(("precision", "device"), [("bf16", "cpu"), ("fp32", "cuda")])
def test_other_arithmetic_and_devices_stay_direct(precision, device, counted):
    layer = nn.Conv2d(32, 32, 3, padding=1)
    with fast_convolutions(precision, torch.device(device)):
        layer(torch.rand(1, 32, 4, 4))
    assert counted == []


def test_without_kernels_convolutions_are_direct(monkeypatch, counted):
    monkeypatch.setattr(convolution, "missing", lambda: "they were not built")
    layer, x = nn.Conv2d(32, 32, 3, padding=1), torch.rand(1, 32, 4, 4)
    with fast_convolutions("fp32", CPU):
        layer(x)
    assert counted == []


@needs_kernels
@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx2"), reason="there is no AVX2 here")
def test_both_instruction_sets_transform_alike(monkeypatch):
    given = [each.float() for each in operands(2, 32, 32, 9, 7)]
    found = []
    for here in ("avx2 fma", ""):
        monkeypatch.setattr(library, "features", lambda here=here: here)
        transform = library.tile_transform.__wrapped__()
        monkeypatch.setattr(convolution, "tile_transform", lambda transform=transform: transform)
        with fast_convolutions("fp32", CPU):
            found.append(with_gradients(*given))
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()
