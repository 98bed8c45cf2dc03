"""Convolutions of training in float32 on a CPU: Winograd's F(4x4, 3x3) (Lavin and Gray 2016).

A tile of 4x4 outputs takes 36 products for each pair of channels, not 144. With ``d`` a tile of 6x6
inputs and ``g`` a kernel,

    y = A^T ((G g G^T) * (B^T d B)) A,

summed over the input channels, which makes 36 matrix products. Gradients are the adjoints of the
same transforms, with as few products. Results differ from those of a direct convolution by about
1e-5 of the largest value.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sr_quant_cli.kernels.library import missing, tile_transform
from sr_quant_cli.system.choices import Precision

_LANES = 8
"""channels are a multiple of this"""
_FEWEST = 32
"""channels below which a direct convolution is as fast"""
_TILE, _PRODUCTS = 4, 36

_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
_KERNEL = torch.kron(_G, _G).float()
"""``[36, 9]``: transforms a kernel of 3x3, as a vector"""


class _Kind(IntEnum):
    """Transforms of ``tiles.c``."""

    INPUT = 0
    OUTPUT = 1
    OF_OUTPUT = 2
    OF_INPUT = 3


def fast_convolutions(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which 3x3 convolutions run by F(4x4, 3x3), where that is faster.

    That is in float32 on a CPU, if srq's kernels were built. Others stay as they are: those with a
    stride, groups or another padding than one pixel, fewer than 32 channels, or a number of them
    that is no multiple of 8.
    """
    if precision != "fp32" or device.type != "cpu" or missing():
        return nullcontext()
    return _FastConvolutions()


class _FastConvolutions(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.conv2d and not kwargs and _suits(*args):
            bias = args[2] if len(args) > 2 else None
            return _Convolution.apply(*args[:2], bias)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _suits(
    x: Tensor,
    weight: Tensor,
    _bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    outputs, inputs, *size = weight.shape
    return (
        size == [3, 3]
        and inputs % _LANES == outputs % _LANES == 0
        and min(inputs, outputs) >= _FEWEST
        and _pair(stride) == _pair(padding) == _pair(dilation) == (1, 1)
        and groups == 1
        and x.dim() == 4
        and x.dtype == weight.dtype == torch.float32
    )


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else tuple(value)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs, inputs = weight.shape[:2]
        kernel = _KERNEL @ weight.permute(2, 3, 1, 0).reshape(9, inputs * outputs)
        kernel = kernel.view(_PRODUCTS, inputs, outputs)
        ctx.save_for_backward(x, kernel)
        products = torch.bmm(_to_tiles(_Kind.INPUT, x), kernel)
        return _to_picture(_Kind.OUTPUT, products, x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        _, inputs, outputs = kernel.shape
        to_x, to_weight, to_bias = ctx.needs_input_grad
        products = _to_tiles(_Kind.OF_OUTPUT, gradient)
        of_x = of_weight = None
        if to_x:
            tiles = torch.bmm(products, kernel.transpose(1, 2))
            of_x = _to_picture(_Kind.OF_INPUT, tiles, x)
        if to_weight:
            # Transforming the input again takes less memory than keeping it, and little time.
            of_kernel = torch.bmm(_to_tiles(_Kind.INPUT, x).transpose(1, 2), products)
            of_weight = _KERNEL.T @ of_kernel.view(_PRODUCTS, inputs * outputs)
            of_weight = of_weight.view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
        return of_x, of_weight, gradient.sum((0, 2, 3)) if to_bias else None


def _to_tiles(kind: _Kind, picture: Tensor) -> Tensor:
    """``[N, C, H, W]`` -> ``[36, tiles, C]``."""
    count, channels, height, width = picture.shape
    picture = picture.contiguous(memory_format=torch.channels_last)
    each = -(-height // _TILE) * -(-width // _TILE)
    tiles = picture.new_empty(_PRODUCTS, count * each, channels)
    _transform(kind, picture, None, tiles, (count, height, width, channels))
    return tiles


def _to_picture(kind: _Kind, tiles: Tensor, like: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[36, tiles, C]`` -> ``[N, C, H, W]`` with the sizes of ``like``."""
    (count, _, height, width), channels = like.shape, tiles.shape[2]
    shape = (count, channels, height, width)
    picture = torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)
    bias = None if bias is None else bias.contiguous()
    _transform(kind, tiles, bias, picture, (count, height, width, channels))
    return picture


def _transform(
    kind: _Kind, source: Tensor, bias: Tensor | None, made: Tensor, sizes: tuple[int, ...]
) -> None:
    """Transform all pictures, shared by the threads of torch."""
    call, count = tile_transform(), sizes[0]
    addresses = [each if each is None else each.data_ptr() for each in (source, bias, made)]

    def run(part: int) -> None:
        first, end = part * count // threads, (part + 1) * count // threads
        call(kind, *addresses, *sizes, first, end)

    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        call(kind, *addresses, *sizes, 0, count)
    else:
        list(_pool(threads).map(run, range(threads)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "convolutions")
