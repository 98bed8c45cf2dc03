"""Layers with quantized operands."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class QuantConv2d(nn.Module):
    """Convolution with quantized input and weight; the bias stays float.

    Parameters
    ----------
    conv
        Convolution whose weight ``[Cout, Cin / groups, kh, kw]`` and bias are shared, not copied.
    weight_quantizer, input_quantizer
        ``nn.Identity`` for a float operand.
    """

    weight: Tensor
    weight_quantizer: nn.Module

    def __init__(
        self, conv: nn.Conv2d, weight_quantizer: nn.Module, input_quantizer: nn.Module
    ) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.weight_quantizer, self.input_quantizer = weight_quantizer, input_quantizer
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """``[N, Cin, H, W]`` -> ``[N, Cout, H', W']``."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def operands(self, x: Tensor, count: int, random: torch.Generator) -> Tensor:
        """Input windows of randomly drawn output pixels, as columns of a matrix product.

        ``[N, Cin, H, W]`` -> ``[groups, pixels, Cin / groups * kh * kw]``; padding must be numeric.
        """
        (kh, kw), (sh, sw), (dh, dw) = self.weight.shape[2:], self.stride, self.dilation
        ph, pw = (int(p) for p in self.padding)
        padded = F.pad(x, (pw, pw, ph, ph))
        windows = padded.unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)
        n, _, h, w = windows.shape[:4]
        picked = torch.randint(n * h * w, (count,), generator=random)
        seen = windows[picked // (h * w), :, picked // w % h, picked % w, ::dh, ::dw]
        return seen.reshape(count, self.groups, -1).transpose(0, 1)


class QuantLinear(nn.Module):
    """Linear layer with quantized input and weight ``[out, in]``."""

    weight: Tensor
    weight_quantizer: nn.Module

    def __init__(
        self, linear: nn.Linear, weight_quantizer: nn.Module, input_quantizer: nn.Module
    ) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_quantizer, self.input_quantizer = weight_quantizer, input_quantizer

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        return F.linear(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)

    def operands(self, x: Tensor, count: int, random: torch.Generator) -> Tensor:
        """Randomly drawn input vectors: ``[..., in]`` -> ``[1, vectors, in]``."""
        rows = x.flatten(0, -2)
        return rows[torch.randint(len(rows), (count,), generator=random)][None]


class QuantMatMul(nn.Module):
    """Product of two quantized activations."""

    def __init__(self, left_quantizer: nn.Module, right_quantizer: nn.Module) -> None:
        super().__init__()
        self.left_quantizer, self.right_quantizer = left_quantizer, right_quantizer

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``[..., n, k]`` and ``[..., k, m]`` -> ``[..., n, m]``."""
        product: Tensor = self.left_quantizer(a) @ self.right_quantizer(b)
        return product


class QuantTensor(nn.Module):
    """Quantized tensor between layers: a shortcut, the output of a branch."""

    def __init__(self, input_quantizer: nn.Module) -> None:
        super().__init__()
        self.input_quantizer = input_quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, float32."""
        y: Tensor = self.input_quantizer(x)
        return y
