"""Programs from graphs of uint8 pictures, with operations that quantize and dequantize.

Each value of the graph is followed as a term: levels of the picture, values of codes, sums of a
convolution, a sum of two pictures, parts to concatenate. Where the graph quantizes a term, it
becomes steps of a program.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sr_quant_cli.kernels.graph_values import mirrored_width, phases, ungrouped
from sr_quant_cli.kernels.making import Maker
from sr_quant_cli.kernels.program import Codes, Place, Program, Recode, Step
from sr_quant_cli.kernels.terms import (
    Both,
    Levels,
    Parts,
    Quantized,
    Sums,
    Term,
    UnsupportedError,
    Values,
    Weights,
    channels_of,
)

__all__ = ["UnsupportedError", "compile_graph"]


def compile_graph(model: onnx.ModelProto) -> Program:
    """Make the program of a graph: uint8 ``[1, h, w, 3]`` -> uint8 ``[1, sh, sw, 3]``.

    Raises
    ------
    UnsupportedError
        The graph has an operation, or operations in an order, that the kernels do not have.
    """
    return _Compiler(model).program()


class _Compiler:
    """Follows a graph from its input to its output."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
        self.readers = Counter(name for node in model.graph.node for name in node.input)
        self.known: dict[str, Any] = {}
        """what is known of values that depend on the picture, and weights, by names"""
        self.maker = Maker()
        self.surround: list[int] = []
        self.crop: list[int] = []

    def program(self) -> Program:
        """Follow all nodes."""
        graph = self.model.graph
        (picture,), (output, *others) = graph.input, graph.output
        if picture.type.tensor_type.elem_type != onnx.TensorProto.UINT8 or others:
            raise UnsupportedError("the graph does not make 8-bit pictures of 8-bit pictures alone")
        self.known[picture.name] = Levels(np.eye(3), np.zeros(3))
        for node in graph.node:
            self._follow(node)
        result = self.known.get(output.name)
        if not isinstance(result, Quantized):
            raise UnsupportedError("the output is not quantized to levels")
        codes = self.maker.place(result).codes
        around = self.surround or [0, 0]
        scale = codes.enlargement
        if codes.channels != 3 or len(set(around)) != 1:
            raise UnsupportedError("the output is no picture of three colours")
        if (self.crop or [0, 0]) != [scale * width for width in around]:
            raise UnsupportedError("the output is cut in another way than the input is surrounded")
        tables, given, steps = _with_tables(self.maker.levels, self.maker.steps)
        return Program(scale, around[0], tables, given, tuple(steps), codes)

    def _follow(self, node: onnx.NodeProto) -> None:
        name = node.output[0]
        inputs = [self.known.get(x, self.constants.get(x)) for x in node.input]
        if node.op_type == "DequantizeLinear" and isinstance(inputs[0], np.ndarray):
            codes, step, *zero = (np.asarray(x) for x in inputs)
            if codes.dtype == np.int8 and not any(map(np.any, zero)):
                steps = np.broadcast_to(step.astype(np.float64).ravel(), len(codes))
                self.known[name] = Weights(codes, steps)
            return
        if not any(isinstance(x, Term | Quantized) for x in inputs):
            return  # arithmetic of sizes
        if node.op_type in ("Shape", "Size"):
            return
        follow = getattr(self, f"_{node.op_type}", None)
        if follow is None:
            raise UnsupportedError(f"there is no kernel for {node.op_type}")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.known[name] = follow(node, *inputs, **attributes)

    # One method for each operation of ONNX, by its name.

    def _Transpose(self, node: Any, x: Any, perm: Any = ()) -> Any:
        if isinstance(x, Levels | Quantized) and list(perm) in ([0, 3, 1, 2], [0, 2, 3, 1]):
            return x
        raise UnsupportedError("a transposition inside the network")

    def _Cast(self, node: Any, x: Any, to: int) -> Levels:
        if isinstance(x, Levels) and to == onnx.TensorProto.FLOAT:
            return x
        raise UnsupportedError("a conversion of types inside the network")

    def _Gather(self, node: Any, x: Any, index: Any, axis: int = 0) -> Levels:
        if not isinstance(x, Levels) or x.phases is not None or axis not in (2, 3):
            raise UnsupportedError("pixels in another order inside the network")
        self.surround.append(mirrored_width(self.model, node.input[1], axis - 2))
        return x

    def _Slice(self, node: Any, x: Any, *bounds: Any) -> Any:
        if not all(isinstance(value, np.ndarray) and value.size == 1 for value in bounds):
            raise UnsupportedError("a part of a picture inside the network")
        first, end, axis, step = (int(value.item()) for value in (*bounds, np.ones(1))[:4])
        if axis == 1 and step == 1 and isinstance(x, Values):
            there = range(x.channels)[first:end]
            return x.part(there.start, len(there))
        if first != -end or axis not in (2, 3) or not isinstance(x, Quantized | Levels):
            raise UnsupportedError("a part of a picture inside the network")
        self.crop.append(first)
        return x

    def _Split(self, node: Any, x: Any, sizes: Any = None, axis: int = 0, **how: Any) -> Any:
        if axis != 1 or not isinstance(x, Values) or not isinstance(sizes, np.ndarray):
            raise UnsupportedError("a part of a picture inside the network")
        first = 0
        for name, size in zip(node.output, sizes.tolist(), strict=True):
            self.known[name] = x.part(first, size)
            first += size
        return self.known[node.output[0]]

    def _Resize(
        self, node: Any, x: Any, region: Any, scales: Any, sizes: Any = None, **how: Any
    ) -> Levels:
        mode = how.get("mode", b"nearest").decode()
        usual = how.get("coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
        if how.get("antialias") or how.get("exclude_outside") or mode not in ("cubic", "linear"):
            usual = False
        if not usual or not isinstance(scales, np.ndarray) or scales.size != 4:
            raise UnsupportedError("a change of size that is neither bicubic nor bilinear")
        factor = round(float(scales[2]))
        if scales.tolist() != [1, 1, factor, factor] or factor < 1:
            raise UnsupportedError("an enlargement by a factor that is not a whole number")
        if not isinstance(x, Levels) or x.phases is not None or x.other is not None:
            raise UnsupportedError("an enlargement of numbers that are not the picture")
        return replace(x, phases=phases(factor, mode, how.get("cubic_coeff_a", -0.75)))

    def _ReduceSum(self, node: Any, x: Any, axes: Any, keepdims: int = 1, **how: Any) -> Levels:
        if not isinstance(x, Levels) or np.ravel(axes).tolist() != [1] or not keepdims:
            raise UnsupportedError("a sum over pixels, or over channels of codes")
        other = None if x.other_weights is None else x.other_weights.sum(0, keepdims=True)
        weights, bias = x.weights.sum(0, keepdims=True), x.bias.sum(keepdims=True)
        return replace(x, weights=weights, bias=bias, other_weights=other)

    def _Add(self, node: Any, a: Any, b: Any) -> Term:
        if isinstance(a, np.ndarray):
            a, b = b, a
        if isinstance(b, np.ndarray):
            shift = np.asarray(b, np.float64).reshape(-1)
            match a:
                case Levels():
                    return replace(a, bias=a.bias + shift)
                case Values(slope=None) | Both(relu=False):
                    return replace(a, shift=shift if a.shift is None else a.shift + shift)
                case Sums(slope=None):
                    return replace(a, bias=a.bias + shift)
        if isinstance(a, Levels) or isinstance(b, Levels):
            levels, other = (a, b) if isinstance(a, Levels) else (b, a)
            if isinstance(other, Levels | Values):
                return levels.plus(other)
        if isinstance(a, Values | Parts) and isinstance(b, Values | Parts):
            return Both(a, b, sole=self.readers[node.output[0]] == 1)
        raise UnsupportedError("a sum of numbers that are no codes")

    def _Sub(self, node: Any, a: Any, b: Any) -> Term:
        if isinstance(b, Levels):
            return self._Add(node, a, b.times(np.array(-1.0)))
        if not isinstance(b, np.ndarray):
            raise UnsupportedError("a difference of pictures")
        return self._Add(node, a, np.asarray(-b))

    def _Mul(self, node: Any, a: Any, b: Any) -> Term:
        if isinstance(a, np.ndarray):
            a, b = b, a
        if isinstance(b, np.ndarray) and isinstance(a, Levels):
            return a.times(b.astype(np.float64))
        if isinstance(b, np.ndarray) and b.size == 1 and float(b.item()) > 0:
            factor = float(b.item())
            match a:
                case Values(shift=None, slope=None):
                    return replace(a, step=a.step * factor)
                case Sums():
                    return replace(a, scale=a.scale * factor, bias=a.bias * factor)
        raise UnsupportedError("a product of pictures, or of a picture and several factors")

    def _Div(self, node: Any, a: Any, b: Any) -> Term:
        if not isinstance(b, np.ndarray):
            raise UnsupportedError("a quotient of pictures")
        return self._Mul(node, a, np.asarray(1 / b.astype(np.float64)))

    def _Conv(self, node: Any, x: Any, weights: Any, bias: Any = None, **how: Any) -> Sums:
        if not isinstance(x, Values) or not isinstance(weights, Weights):
            raise UnsupportedError(f"a convolution in floating point ({node.output[0]})")
        if x.shift is not None or x.slope is not None:
            raise UnsupportedError("a convolution of values that are no codes")
        size = weights.codes.shape[2:]
        ones = [how.get(name, [1, 1]) for name in ("strides", "dilations")]
        if ones != [[1, 1], [1, 1]] or size[0] != size[1] or size[0] % 2 == 0:
            raise UnsupportedError("a convolution with a stride, a dilation or an even window")
        if how.get("pads", [0] * 4) != [size[0] // 2] * 4:
            raise UnsupportedError("a convolution that changes the size of a picture")
        codes = ungrouped(weights.codes, how.get("group", 1))
        scale = x.step * weights.step
        given = np.zeros(len(codes)) if bias is None else np.asarray(bias, np.float64)
        return Sums(x.place, codes, scale, given)

    def _Relu(self, node: Any, x: Any) -> Term:
        if isinstance(x, Both):
            return replace(x, relu=True, sole=x.sole and self.readers[node.output[0]] == 1)
        return self._LeakyRelu(node, x, 0.0)

    def _LeakyRelu(self, node: Any, x: Any, alpha: float = 0.01) -> Term:
        return self._PRelu(node, x, np.array(alpha))

    def _PRelu(self, node: Any, x: Any, slope: Any) -> Term:
        if not isinstance(x, Sums | Values) or x.slope is not None or isinstance(slope, Term):
            raise UnsupportedError("an activation of numbers that are no sums")
        return replace(x, slope=slope.astype(np.float64).ravel())

    def _Concat(self, node: Any, *terms: Any, axis: int = 1) -> Parts:
        if axis != 1 or not all(isinstance(term, Term) for term in terms):
            raise UnsupportedError("a concatenation of numbers that are no channels")
        parts: list[Term] = []
        for term in terms:
            parts += term.parts if isinstance(term, Parts) else [term]
        return Parts(tuple(parts))

    def _QuantizeLinear(self, node: Any, x: Any, step: Any, zero: Any, axis: int = 1) -> Quantized:
        if not isinstance(x, Term) or step.size != 1 or zero.dtype != np.uint8:
            raise UnsupportedError("codes that are not unsigned, or have several steps")
        return Quantized(x, float(step.item()), int(zero.item()))

    def _Clip(self, node: Any, x: Any, low: Any = None, high: Any = None) -> Quantized:
        if not isinstance(x, Quantized):
            raise UnsupportedError("a clip of numbers that are no codes")
        least, most = (
            bound if given is None else int(given.item())
            for given, bound in ((low, x.low), (high, x.high))
        )
        return replace(x, low=max(x.low, least), high=min(x.high, most))

    def _Max(self, node: Any, x: Any, least: Any) -> Quantized:
        if not isinstance(x, Quantized) or not isinstance(least, np.ndarray):
            raise UnsupportedError("a maximum of numbers that are no codes")
        clipped: Quantized = self._Clip(node, x, least.min())
        if least.min() == least.max():
            return clipped
        place = self.maker.at_least(self.maker.place(clipped), least.ravel())
        return replace(clipped, term=Values(place, least.size, clipped.step))

    def _DequantizeLinear(self, node: Any, x: Any, step: Any, zero: Any, axis: int = 1) -> Values:
        if not isinstance(x, Quantized) or step.size != 1 or int(zero.item()) != x.zero:
            raise UnsupportedError("codes that are read with another zero")
        sole = all(self.readers[name] == 1 for name in (node.input[0], node.output[0]))
        place, channels = self.maker.place(x), channels_of(x.term)
        return Values(place, channels, float(step.item()), sole=sole)

    def _DepthToSpace(self, node: Any, x: Any, blocksize: int, mode: bytes = b"DCR") -> Any:
        if mode != b"CRD" or not isinstance(x, Quantized | Values):
            raise UnsupportedError("a rearrangement of channels that is no PixelShuffle of codes")
        if isinstance(x, Quantized):
            values = Values(self.maker.place(x), channels_of(x.term), x.step)
        else:
            values = x
        if values.shift is not None or (values.slope is not None and values.slope.size > 1):
            raise UnsupportedError("a PixelShuffle of values that are no codes")
        shuffled = self.maker.shuffle(values, blocksize)
        return replace(x, term=shuffled) if isinstance(x, Quantized) else shuffled


def _with_tables(levels: Codes, steps: list[Step]) -> tuple[NDArray[np.uint8], Codes, list[Step]]:
    """Tables, codes and steps of a program: the first step becomes tables if it alone reads."""
    readers = [step for step in steps if levels in [place.codes for place in step.sources]]
    first = readers[0]
    alone = len(readers) == 1 and first is steps[0]
    if alone and isinstance(first, Recode) and first.target == Place(first.target.codes):
        return first.table, first.target.codes, steps[1:]
    return np.tile(np.arange(256, dtype=np.uint8), (3, 1)), levels, steps
