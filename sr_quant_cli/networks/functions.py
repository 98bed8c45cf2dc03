"""Functions that compute operations of imported networks.

A value is a tensor, or sizes: whole numbers that follow from the shapes of tensors, which exporters
compute with operations of their own. Sizes are NumPy arrays of objects, as they are symbols while a
network is traced.

References
----------
.. [1] Operators of ONNX, https://onnx.ai/onnx/operators
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sr_quant_cli.networks.resizing import resize, upsample

Value = Tensor | NDArray[Any]


def _is_sizes(*values: Any) -> bool:
    return all(isinstance(value, np.ndarray) for value in values)


def _numbers(values: Any) -> list[Any]:
    """Numbers of constant sizes or of an attribute."""
    return list(values.ravel()) if isinstance(values, np.ndarray) else list(values)


def _tensor(value: Any, like: Tensor) -> Any:
    """A number as it is, several ones as a tensor."""
    if not isinstance(value, np.ndarray):
        return value
    if value.size == 1 and value.ndim <= 1:
        return value.item()
    return torch.tensor(value.tolist(), dtype=like.dtype, device=like.device)


def _elementwise(
    on_tensors: Callable[..., Any], on_sizes: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Make an operation on tensors and sizes of a function of each."""

    def compute(*values: Any, **_: Any) -> Any:
        if _is_sizes(*values):
            whole = np.frompyfunc(on_sizes or on_tensors, len(values), 1)
            return np.asarray(whole(*values), dtype=object)
        like = next(value for value in values if isinstance(value, Tensor))
        operands = [_tensor(value, like) for value in values]
        return on_tensors(*operands)

    return compute


def _divide(a: Any, b: Any) -> Any:
    """Quotient; of whole numbers, which are sizes and not negative, the whole part."""
    real = isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat)
    return a / b if real else a // b


def _divide_tensors(a: Any, b: Any) -> Any:
    return torch.div(a, b) if isinstance(a, Tensor) else a / b


def _minimum(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.minimum(a, b)
    return a.clamp(max=b) if isinstance(a, Tensor) else b.clamp(max=a)


def _maximum(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.maximum(a, b)
    return a.clamp(min=b) if isinstance(a, Tensor) else b.clamp(min=a)


def _several(combine: Callable[[Any, Any], Any], on_sizes: Callable[..., Any]) -> Any:
    pair = _elementwise(combine, on_sizes)

    def compute(first: Any, *others: Any) -> Any:
        for other in others:
            first = pair(first, other)
        return first

    return compute


def _modulo(a: Any, b: Any, fmod: int = 0) -> Any:
    return _elementwise(torch.fmod if fmod else lambda a, b: a % b, lambda a, b: a % b)(a, b)


def _where(condition: Any, a: Any, b: Any) -> Any:
    if _is_sizes(condition, a, b):
        return np.where(condition.astype(bool), a, b)
    like = next(value for value in (a, b, condition) if isinstance(value, Tensor))
    if isinstance(condition, np.ndarray):
        condition = torch.tensor(condition.tolist(), device=like.device)
    return torch.where(condition.bool(), _tensor(a, like), _tensor(b, like))


def _cast(x: Value, to: int, **_: Any) -> Value:
    """Change the type: floats stay float32, sizes become whole where they are to be."""
    if isinstance(x, Tensor):
        if to == _BOOL:
            return x.bool()
        if to in _WHOLE:
            return x.long() if not x.is_floating_point() else x.trunc()
        return x.float()
    return np.asarray(np.frompyfunc(_whole if to in _WHOLE else _real, 1, 1)(x), dtype=object)


_BOOL = 9
_WHOLE = (2, 3, 4, 5, 6, 7, 12, 13)
"""types of ONNX: bool; uint8 to int64, uint32, uint64"""


def _whole(value: Any) -> Any:
    return value if isinstance(value, int | torch.SymInt) else torch.sym_int(value)  # type: ignore[no-untyped-call]


def _real(value: Any) -> Any:
    return value if isinstance(value, float | torch.SymFloat) else torch.sym_float(value)  # type: ignore[no-untyped-call]


def _shape(x: Tensor, start: int = 0, end: int | None = None) -> Value:
    sizes = np.empty(x.ndim, dtype=object)
    sizes[:] = list(x.shape)
    return sizes[start:end]


# Shapes


def _gather(x: Value, index: Any, axis: int = 0) -> Value:
    if isinstance(x, np.ndarray):
        return np.asarray(np.take(x, np.asarray(index, dtype=np.int64), axis), dtype=object)
    if isinstance(index, np.ndarray):
        if index.ndim == 0:
            return x.select(axis, int(index.item()))
        index = torch.tensor(index.tolist(), device=x.device)
    where = index % x.shape[axis]
    axis %= x.ndim
    taken = x.index_select(axis, where.flatten())
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _slice(x: Value, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Value:
    starts, ends = _numbers(starts), _numbers(ends)
    axes = range(len(starts)) if axes is None else _numbers(axes)
    steps = [1] * len(starts) if steps is None else _numbers(steps)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if isinstance(end, int) and abs(end) >= 2**31 - 1:
            end = None
        part = [slice(None)] * x.ndim
        if step > 0 or isinstance(x, np.ndarray):
            part[axis] = slice(start, end, step)
            x = x[tuple(part)]
            continue
        # From the last one on, backwards.
        if step != -1 or end is not None or start not in (-1, x.shape[axis] - 1):
            raise ValueError("a slice with a negative step must reverse a whole axis")
        x = x.flip(axis)
    return x


def _concat(*parts: Value, axis: int) -> Value:
    if _is_sizes(*parts):
        return np.concatenate(parts)
    like = next(part for part in parts if isinstance(part, Tensor))
    return torch.cat(
        [
            part
            if isinstance(part, Tensor)
            else torch.tensor(part.tolist(), dtype=like.dtype, device=like.device)
            for part in parts
        ],
        axis,
    )


def _split(x: Value, sizes: Any = None, axis: int = 0, num_outputs: int = 0, **how: Any) -> Any:
    given = how.get("split", sizes)
    if isinstance(x, np.ndarray):
        ends = np.cumsum(_numbers(given))[:-1]
        return tuple(np.split(x, [int(end) for end in ends]))
    if given is not None:
        return torch.split(x, _numbers(given), axis)
    size = -(-x.shape[axis] // num_outputs)
    return torch.split(x, size, axis)


def _reshape(x: Value, shape: Any, allowzero: int = 0) -> Value:
    wanted = [
        x.shape[place] if not allowzero and isinstance(size, int) and size == 0 else size
        for place, size in enumerate(_numbers(shape))
    ]
    return x.reshape(wanted)


def _transpose(x: Value, perm: Any = None) -> Value:
    if isinstance(x, np.ndarray):
        return x.transpose(perm)
    return x.permute(*(range(x.ndim)[::-1] if perm is None else perm))


def _squeeze(x: Value, given: Any = None, axes: Any = None) -> Value:
    axes = given if axes is None else axes
    if axes is None:
        if isinstance(x, Tensor):
            raise ValueError("Squeeze needs axes")
        return np.squeeze(x)
    where = tuple(axis % x.ndim for axis in _numbers(axes))
    return np.squeeze(x, where) if isinstance(x, np.ndarray) else x.squeeze(where)


def _unsqueeze(x: Value, given: Any = None, axes: Any = None) -> Value:
    where = _numbers(given if axes is None else axes)
    ndim = x.ndim + len(where)
    for axis in sorted(axis % ndim for axis in where):
        x = np.expand_dims(x, axis) if isinstance(x, np.ndarray) else x.unsqueeze(axis)
    return x


def _expand(x: Tensor, shape: Any) -> Tensor:
    wanted = _numbers(shape)
    if len(wanted) < x.ndim:
        wanted = [1] * (x.ndim - len(wanted)) + wanted
    padded = [1] * (len(wanted) - x.ndim) + list(x.shape)
    # A size of 1 broadcasts in both directions.
    return x.expand(
        [
            have if isinstance(want, int) and want == 1 else want
            for have, want in zip(padded, wanted, strict=True)
        ]
    )


def _range(start: Any, end: Any, step: Any) -> Value:
    first, last, by = (value.item() for value in (start, end, step))
    return torch.arange(first, last, by)


def _constant_of_shape(shape: Any, value: float = 0.0) -> Value:
    sides = _numbers(shape)
    if isinstance(value, int) and len(sides) == 1 and isinstance(sides[0], int):
        return np.full(sides, value, dtype=object)  # part of sizes
    return torch.full(sides, value)


def _pad(
    x: Tensor,
    given: Any = None,
    value: Any = None,
    axes: Any = None,
    *,
    mode: str = "constant",
    pads: Any = None,
) -> Tensor:
    amounts = _numbers(given if pads is None else pads)
    where = list(range(x.ndim)) if axes is None else [a % x.ndim for a in _numbers(axes)]
    befores, behinds = amounts[: len(where)], amounts[len(where) :]
    widths: list[Any] = [0] * (2 * x.ndim)
    for axis, before, behind in zip(where, befores, behinds, strict=True):
        place = 2 * (x.ndim - 1 - axis)
        widths[place], widths[place + 1] = before, behind
    while len(widths) > 2 and all(isinstance(w, int) and w == 0 for w in widths[-2:]):
        widths = widths[:-2]
    if mode != "constant":
        if len(widths) == 2 and x.ndim == 4:
            widths += [0, 0]
        return F.pad(x, widths, mode=_PADDINGS[mode])
    fill = value.item() if isinstance(value, np.ndarray) else value or 0.0
    return F.pad(x, widths, value=float(fill))


_PADDINGS = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
"""names in torch of the kinds of padding"""


def _depth_to_space(x: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "DCR":
        n, c, h, w = x.shape
        x = x.reshape(n, blocksize**2, c // blocksize**2, h, w).transpose(1, 2)
        x = x.reshape(n, c, h, w)
    return F.pixel_shuffle(x, blocksize)


def _space_to_depth(x: Tensor, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    x = F.pixel_unshuffle(x, blocksize).reshape(n, c, blocksize**2, h // blocksize, w // blocksize)
    return x.transpose(1, 2).reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


# Reductions and norms


def _reduce(
    on_axes: Callable[..., Any], on_sizes: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    def compute(x: Any, given: Any = None, axes: Any = None, keepdims: int = 1, **how: Any) -> Any:
        axes = given if axes is None else axes
        where = [] if axes is None else [int(axis) for axis in _numbers(axes)]
        if not where and how.get("noop_with_empty_axes"):
            return x
        if isinstance(x, np.ndarray):
            if on_sizes is None or x.ndim > 1:
                raise ValueError("a reduction of sizes that is not known")
            reduced = np.array(on_sizes(list(x.ravel())), object)
            return reduced.reshape([1]) if keepdims and x.ndim else reduced
        return on_axes(x, where or list(range(x.ndim)), bool(keepdims))

    return compute


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _layer_norm(
    x: Tensor, scale: Tensor, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, **_: Any
) -> Tensor:
    return F.layer_norm(x, x.shape[axis % x.ndim :], scale, bias, epsilon)


def _batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    epsilon: float = 1e-5,
    **_: Any,
) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def _instance_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, num_groups: int, epsilon: float = 1e-5, **_: Any
) -> Tensor:
    repeats = x.shape[1] // len(scale)  # one for each group, before version 21
    scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def _pads(x: Tensor, pads: Any, value: float) -> tuple[Tensor, list[int]]:
    """Padding that a pooling does itself; what it cannot do is padded before."""
    top, left, bottom, right = pads or [0, 0, 0, 0]
    if (top, left) == (bottom, right):
        return x, [top, left]
    return F.pad(x, (left, right, top, bottom), value=value), [0, 0]


def _max_pool(
    x: Tensor, kernel_shape: Any, strides: Any = (1, 1), pads: Any = None, dilations: Any = (1, 1),
    ceil_mode: int = 0, **_: Any,
) -> Tensor:  # fmt: skip
    x, around = _pads(x, pads, -math.inf)
    return F.max_pool2d(x, kernel_shape, strides, around, dilations, bool(ceil_mode))


def _average_pool(
    x: Tensor, kernel_shape: Any, strides: Any = (1, 1), pads: Any = None, ceil_mode: int = 0,
    count_include_pad: int = 0, **_: Any,
) -> Tensor:  # fmt: skip
    top, left, bottom, right = pads or [0, 0, 0, 0]
    if (top, left) != (bottom, right) and not count_include_pad:
        raise ValueError("AveragePool with uneven padding that does not count is not known")
    x, around = _pads(x, pads, 0.0)
    return F.avg_pool2d(x, kernel_shape, strides, around, bool(ceil_mode), bool(count_include_pad))


def _clip(x: Any, low: Any = None, high: Any = None, **how: Any) -> Any:
    bounds = [how.get(key, value) for key, value in (("min", low), ("max", high))]
    if bounds == [None, None]:
        return x
    if isinstance(x, np.ndarray):
        return np.clip(x, *bounds)
    return x.clamp(*(None if bound is None else _tensor(bound, x) for bound in bounds))


def _gemm(
    a: Tensor, b: Tensor, c: Any = None, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,  # noqa: N803 - ONNX's names
) -> Tensor:  # fmt: skip
    y = alpha * ((a.mT if transA else a) @ (b.mT if transB else b))
    return y if c is None else y + beta * _tensor(c, y)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Shape": _shape,
    "Size": lambda x: np.array(math.prod(x.shape), dtype=object),
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Split": _split,
    "Reshape": _reshape,
    "Flatten": lambda x, axis=1: x.reshape(math.prod(x.shape[:axis]), -1),
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": lambda x, repeats: x.repeat(*_numbers(repeats)),
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Resize": resize,
    "Upsample": upsample,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_divide_tensors, _divide),
    "Mod": _modulo,
    "Pow": _elementwise(torch.pow, lambda a, b: a**b),
    "Min": _several(_minimum, min),
    "Max": _several(_maximum, max),
    "Sum": _several(lambda a, b: a + b, lambda a, b: a + b),
    "Equal": _elementwise(lambda a, b: a == b),
    "Less": _elementwise(lambda a, b: a < b),
    "Greater": _elementwise(lambda a, b: a > b),
    "LessOrEqual": _elementwise(lambda a, b: a <= b),
    "GreaterOrEqual": _elementwise(lambda a, b: a >= b),
    "And": _elementwise(lambda a, b: a & b),
    "Or": _elementwise(lambda a, b: a | b),
    "Not": _elementwise(torch.logical_not, lambda a: not a),
    "Where": _where,
    "Neg": _elementwise(lambda a: -a),
    "Abs": _elementwise(abs),
    "Sqrt": _elementwise(torch.sqrt, math.sqrt),
    "Floor": _elementwise(torch.floor, math.floor),
    "Ceil": _elementwise(torch.ceil, math.ceil),
    "Round": _elementwise(torch.round, round),
    "Reciprocal": _elementwise(torch.reciprocal, lambda a: 1 / a),
    "Exp": _elementwise(torch.exp),
    "Log": _elementwise(torch.log),
    "Erf": _elementwise(torch.erf),
    "Sin": _elementwise(torch.sin),
    "Cos": _elementwise(torch.cos),
    "Tanh": _elementwise(torch.tanh),
    "Sigmoid": _elementwise(torch.sigmoid),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": _elementwise(F.hardswish),
    "Softplus": _elementwise(F.softplus),
    "Softsign": _elementwise(F.softsign),
    "Mish": _elementwise(F.mish),
    "Elu": lambda x, alpha=1.0: F.elu(x, alpha),
    "Selu": lambda x, alpha=1.6732632423543772, gamma=1.0507009873554805: gamma * F.elu(x, alpha),
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Gelu": lambda x, approximate="none": F.gelu(x, approximate=approximate),
    "Swish": lambda x, alpha=1.0: x * torch.sigmoid(alpha * x),
    "Clip": _clip,
    "Softmax": lambda x, axis=-1: x.softmax(axis),
    "LpNormalization": lambda x, axis=-1, p=2: F.normalize(x, p, axis),
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax((2, 3), keepdim=True),
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep), sum),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keepdim=keep), max),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keepdim=keep), min),
    "ReduceL2": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "ReduceProd": _reduce(_product, math.prod),
    "Einsum": lambda *values, equation: torch.einsum(equation, *values),
    "Gemm": _gemm,
    "MatMul": lambda a, b: a @ b,
}
"""function of each operation, of its operands and attributes [1]_"""
