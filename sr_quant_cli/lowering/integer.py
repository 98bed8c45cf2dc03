"""Integer layers, in the form that runtimes recognize as integer kernels.

An input becomes quantize, clip, dequantize. A weight becomes integer codes and a dequantization.
Runtimes fuse these with the convolution between them into an integer kernel. Real offsets are added
in floating point: the one of a weight times the sum of a window, the one of an input times the sum
of the weights. The latter differs at the border, where the padding is a true zero.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_quant_cli.lowering.spec import ChosenSpec, InputSpec, WeightSpec
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.layers import Denormalize, Leaf
from sr_quant_cli.networks.tracing import output_stage
from sr_quant_cli.quant.dynamic import BitProvider
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear


@torch.library.custom_op("srq::fake_quantize", mutates_args=())
def fake_quantize(
    x: Tensor,
    step: Tensor,
    zero: Tensor,
    bounds: Tensor | None,
    least: Tensor | None,
    step_out: Tensor,
) -> Tensor:
    """Quantize to codes and back: float32 -> float32 of the same shape.

    Codes have the type of ``zero``, uint8 or int8, and are clipped to ``bounds``, ``[2]`` of this
    type; None: to all that it holds. If ``step_out`` differs from ``step``, values are scaled by
    the ratio. Codes are at least ``least``, if given.
    """
    held = torch.iinfo(zero.dtype)
    first, last = (held.min, held.max) if bounds is None else bounds.tolist()
    codes = torch.round(x / step).add_(zero).clamp_(first, last)
    if least is not None:
        codes = codes.maximum(least)
    return codes.sub_(zero).mul_(step_out)


@fake_quantize.register_fake
def _(
    x: Tensor,
    step: Tensor,
    zero: Tensor,
    bounds: Tensor | None,
    least: Tensor | None,
    step_out: Tensor,
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("srq::dequantize", mutates_args=())
def dequantize(codes: Tensor, step: Tensor, axis: int = 0) -> Tensor:
    """Multiply int8 codes by float32 steps ``[C]`` along an axis: float32 of the same shape."""
    return codes.float() * step.view(-1, *[1] * (codes.ndim - 1 - axis))


@dequantize.register_fake
def _(codes: Tensor, step: Tensor, axis: int = 0) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


@torch.library.custom_op("srq::to_pixels", mutates_args=())
def to_pixels(x: Tensor) -> Tensor:
    """Float 0..1 -> uint8 of the same shape, rounded half to even and clipped."""
    return (x * 255).round_().clamp_(0, 255).to(torch.uint8)


@to_pixels.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


class IntegerInput(Leaf):
    """Quantizes an activation to codes, and gives their values without the offset."""

    offset: Tensor | None
    step: Tensor
    zero: Tensor
    bounds: Tensor | None
    shift: Tensor | None
    least: Tensor | None
    step_out: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.last = spec.last
        self.register_buffer("offset", torch.tensor(spec.offset) if spec.offset else None)
        self.register_buffer("step", torch.tensor(spec.step, dtype=torch.float32))
        self.register_buffer("step_out", self.step.clone())
        self.register_buffer("zero", torch.tensor(spec.zero, dtype=torch.uint8))
        bounds = None if spec.last == 255 else torch.tensor([0, spec.last], dtype=torch.uint8)
        self.register_buffer("bounds", bounds)
        self.register_buffer("shift", spec.shift)
        self.register_buffer("least", None)

    def give_up_shift(self, *, after_relu: bool) -> Tensor:
        """Leave the shift, ``[C, 1, 1]``, to the preceding layer, and return it.

        A ReLU between is not shifted. Its zeros were, so upward shifts become the lowest code.
        """
        assert self.shift is not None
        shift, self.shift = self.shift, None
        least = torch.round(shift / self.step).clamp_(0, self.last).to(torch.uint8)
        self.least = least if after_relu and least.any() else None
        return shift

    def count_from_zero(self) -> None:
        """Switch to signed codes with zero point 0, if they fit 8 bits."""
        zero = int(self.zero)
        if zero <= 128 and self.last - zero <= 127:
            self.zero = torch.zeros((), dtype=torch.int8)
            bounds = torch.tensor([-zero, self.last - zero], dtype=torch.int8)
            self.bounds = None if self.last == 255 else bounds

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        if self.shift is not None:
            x = x + self.shift
        if self.offset is not None:
            x = x - self.offset
        y: Tensor = fake_quantize(x, self.step, self.zero, self.bounds, self.least, self.step_out)
        return y


class IntegerTensor(Leaf):
    """A tensor that is passed on as codes."""

    offset: Tensor | None

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.input = IntegerInput(spec)
        self.register_buffer("offset", torch.tensor(spec.offset) if spec.offset else None)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C, H, W]``."""
        y: Tensor = self.input(x)
        return y if self.offset is None else y + self.offset

    def multiply(self, factor: float) -> None:
        """Merge a factor of the output."""
        self.input.step_out *= factor
        if self.offset is not None:
            self.offset *= factor


class IntegerConv2d(Leaf):
    """A convolution of integer codes."""

    codes: Tensor
    step: Tensor
    bias: Tensor
    offset: Tensor | None
    border: Tensor | None
    ones: Tensor
    one: Tensor

    def __init__(self, layer: QuantConv2d, inputs: InputSpec, weight: WeightSpec) -> None:
        super().__init__()
        self.input = IntegerInput(inputs)
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups
        shape = [-1, *[1] * (weight.codes.ndim - 1)]
        values = weight.codes * weight.step.view(shape) + weight.offset.view(shape)
        bias = torch.zeros(len(values)) if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("codes", weight.codes)
        self.register_buffer("step", weight.step.clone())
        self.register_buffer("bias", bias)
        # Padding has no offset, so the contribution of the offset differs at the border.
        border = values.sum(1, keepdim=True) * inputs.offset if inputs.offset else None
        self.register_buffer("border", border)
        offset = weight.offset.view(-1, 1, 1).clone() if weight.offset.any() else None
        self.register_buffer("offset", offset)
        # A kernel of ones sums a window, for each group of channels.
        self.register_buffer("ones", torch.ones_like(weight.codes[: self.groups]))
        self.register_buffer("one", torch.ones_like(weight.step[: self.groups]))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, Cin, H, W]`` -> ``[N, Cout, H', W']``."""
        x = self.input(x)
        y = self._convolve(x, dequantize(self.codes, self.step), self.bias, self.groups)
        if self.offset is not None:
            sums = self._convolve(x, dequantize(self.ones, self.one), None, self.groups)
            y = y + sums.repeat_interleave(len(self.codes) // self.groups, 1) * self.offset
        if self.border is not None:
            inside = torch.ones_like(x[:1, :1])
            y = y + self._convolve(inside, self.border, None, 1)
        return y

    def scale(self, factor: Tensor, shift: Tensor) -> None:
        """Merge a factor and a shift of the output, each ``[Cout]``."""
        sign = factor.sign()
        self.codes *= sign.to(torch.int8).view(-1, *[1] * (self.codes.ndim - 1))
        # Where a factor is 0 all codes are.
        self.step *= torch.where(sign == 0, 1, factor.abs())
        self.bias *= factor
        self.bias += shift
        if self.offset is not None:
            self.offset *= factor.view(-1, 1, 1)
        if self.border is not None:
            self.border *= factor.view(-1, 1, 1, 1)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)


class ChosenSteps(Leaf):
    """Divides an activation by the step of the bits that are chosen at run time.

    Parameters
    ----------
    chooses
        True if the choice is made here; False if it was made at a tensor before.
    """

    steps: Tensor
    bounds: Tensor

    def __init__(self, spec: ChosenSpec, provider: BitProvider, *, chooses: bool) -> None:
        super().__init__()
        self._layer, self._provider, self._chooses = spec.layer, (provider,), chooses
        self.register_buffer("steps", spec.steps)
        self.register_buffer("bounds", spec.bounds)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[1, C, H, W]`` -> same shape, clipped, in steps; and the step ``[1]``."""
        (provider,) = self._provider
        made = provider.choice(self._layer, x) if self._chooses else provider.latest(self._layer)
        step, bound = self.steps[made.index], self.bounds[made.index]
        return x.clamp(-bound, bound) / step, step


class ChosenTensor(Leaf):
    """A tensor that is passed on as codes of bits chosen at run time."""

    def __init__(self, spec: ChosenSpec, steps: ChosenSteps) -> None:
        super().__init__()
        self.steps, self.codes = steps, IntegerInput(spec)

    def forward(self, x: Tensor) -> Tensor:
        """``[1, C, H, W]`` -> ``[1, C, H, W]``."""
        x, step = self.steps(x)
        y: Tensor = self.codes(x) * step
        return y


class ChosenConv2d(Leaf):
    """A convolution of integer codes whose input has bits chosen at run time."""

    bias: Tensor

    def __init__(
        self, layer: QuantConv2d, spec: ChosenSpec, weight: WeightSpec, steps: ChosenSteps
    ) -> None:
        super().__init__()
        self.steps, self.convolution = steps, IntegerConv2d(layer, spec, weight)
        self.register_buffer("bias", self.convolution.bias)
        self.convolution.bias = torch.zeros_like(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[1, Cin, H, W]`` -> ``[1, Cout, H', W']``."""
        x, step = self.steps(x)
        y: Tensor = self.convolution(x) * step + self.bias.view(-1, 1, 1)
        return y


class IntegerLinear(Leaf):
    """A linear layer of integer codes."""

    codes: Tensor
    step: Tensor
    bias: Tensor
    offset: Tensor | None

    def __init__(self, layer: QuantLinear, inputs: InputSpec, weight: WeightSpec) -> None:
        super().__init__()
        self.input = IntegerInput(inputs)
        values = weight.codes * weight.step[:, None] + weight.offset[:, None]
        bias = torch.zeros(len(values)) if layer.bias is None else layer.bias.detach().clone()
        # Stored transposed: runtimes do not recognize codes behind a transposition.
        self.register_buffer("codes", weight.codes.T.contiguous())
        self.register_buffer("step", weight.step)
        self.register_buffer("bias", bias + values.sum(1) * inputs.offset)
        self.register_buffer("offset", weight.offset if weight.offset.any() else None)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        x = self.input(x)
        y: Tensor = x @ dequantize(self.codes, self.step, axis=1) + self.bias
        return y if self.offset is None else y + x.sum(-1, keepdim=True) * self.offset


class IntegerMatMul(Leaf):
    """A product of integer codes."""

    def __init__(self, left: InputSpec, right: InputSpec) -> None:
        super().__init__()
        self.left, self.right = IntegerInput(left), IntegerInput(right)
        # OpenVINO needs the right operand signed with zero point 0, ONNX Runtime the left unsigned.
        self.right.count_from_zero()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., n, k]`` and ``[..., k, m]`` -> ``[..., n, m]``."""
        a, b = self.left(a), self.right(b)
        y = a @ b
        if self.right.offset is not None:
            y = y + a.sum(-1, keepdim=True) * self.right.offset
            b = b + self.right.offset
        if self.left.offset is not None:
            y = y + b.sum(-2, keepdim=True) * self.left.offset
        return y


class ToPixels(Leaf):
    """Converts float 0..1 to 8 bits, rounded half to even and clipped."""

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[N, 3, H, W]`` -> uint8, same shape."""
        y: Tensor = to_pixels(x)
        return y


def give_pixels(network: Network) -> bool:
    """Make the last convolution output 8-bit pixels, in place; False if it is a float one.

    Integer kernels have integer outputs: without this the last one would run in floating point.
    """
    stage = output_stage(network, (IntegerConv2d,))
    if stage is None:
        return False
    convolution = network.get_submodule(stage.convolution)
    denormalize = network.get_submodule(stage.denormalize)
    assert isinstance(convolution, IntegerConv2d)
    assert isinstance(denormalize, Denormalize)
    mean = denormalize.mean.flatten().repeat_interleave(stage.enlargement**2)
    convolution.scale(torch.full_like(mean, 1 / denormalize.scale), mean)
    network.set_submodule(stage.denormalize, nn.Identity())
    network.set_submodule(stage.convolution, nn.Sequential(convolution, ToPixels()))
    return True


class OnFloats(nn.Module):
    """A network with float input and output, RGB 0..1 ``[1, 3, H, W]``.

    If the last convolution runs on integers, the output is rounded to pixels and clipped.

    Parameters
    ----------
    network
        Float, or from ``lower``; it is changed.
    rounded
        False: the output is never rounded; the last convolution has a float kernel.
    """

    def __init__(self, network: Network, *, rounded: bool = True) -> None:
        super().__init__()
        self.pixels = rounded and give_pixels(network)
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Float ``[1, 3, h, w]`` -> float ``[1, 3, sh, sw]``, and the chosen bits if any."""
        y: Tensor = self.network(x)
        return _with_bits(y.float() / 255 if self.pixels else y, self.network)


class OnPixels(nn.Module):
    """A network with 8-bit input and output, RGB ``[1, H, W, 3]``.

    Parameters
    ----------
    network
        Float, or from ``lower``; it is changed.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.last = nn.Identity() if give_pixels(network) else ToPixels()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Uint8 ``[1, h, w, 3]`` -> uint8 ``[1, sh, sw, 3]``, and the chosen bits if any."""
        y: Tensor = self.last(self.network(x.permute(0, 3, 1, 2).float() / 255))
        return _with_bits(y.permute(0, 2, 3, 1), self.network)


def _with_bits(y: Tensor, network: Network) -> tuple[Tensor, ...]:
    provider = network.bit_provider
    return (y,) if provider is None else (y, provider.chosen())
