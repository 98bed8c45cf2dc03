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
from onnx.reference import ReferenceEvaluator

from sr_quant_cli.kernels.executor import mirrored
from sr_quant_cli.kernels.packing import CHANNELS
from sr_quant_cli.kernels.program import (
    Add,
    Again,
    Codes,
    Convolution,
    Place,
    Program,
    Recode,
    Shuffle,
    Skip,
    Step,
)
from sr_quant_cli.kernels.terms import (
    Both,
    Levels,
    Parts,
    Quantized,
    Sums,
    Term,
    Values,
    Weights,
    channels_of,
    enlargement_of,
)

_SIZES = (2, 3, 7, 20)
"""sizes of a picture at which positions that the graph computes are compared with mirrored ones"""


class UnsupportedError(Exception):
    """The kernels do not run a graph; the message is the reason."""


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
        self.steps: list[Step] = []
        self.places: dict[Any, Place] = {}
        """codes that were made of a term, by the term and its quantization"""
        self.shared: set[str] = set()
        """names of codes that several places of the graph quantize"""
        self.count = 0
        self.tables: NDArray[np.uint8] | None = None
        self.surround: list[int] = []
        self.crop: list[int] = []

    def program(self) -> Program:
        """Follow all nodes."""
        graph = self.model.graph
        (picture,), (output, *others) = graph.input, graph.output
        if picture.type.tensor_type.elem_type != onnx.TensorProto.UINT8 or others:
            raise UnsupportedError("the graph does not make 8-bit pictures of 8-bit pictures alone")
        self.known[picture.name] = Levels()
        for node in graph.node:
            self._follow(node)
        result = self.known.get(output.name)
        if not isinstance(result, Quantized) or self.tables is None:
            raise UnsupportedError("the output is not quantized to levels")
        codes = self._codes(result)
        around = self.surround or [0, 0]
        scale = codes.enlargement
        if codes.channels != 3 or len(set(around)) != 1:
            raise UnsupportedError("the output is no picture of three colours")
        if (self.crop or [0, 0]) != [scale * width for width in around]:
            raise UnsupportedError("the output is cut in another way than the input is surrounded")
        return Program(scale, around[0], self.tables, self.input, tuple(self.steps), codes)

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
        if not isinstance(x, Levels) or axis not in (2, 3):
            raise UnsupportedError("pixels in another order inside the network")
        self.surround.append(self._mirrored(node.input[1], axis - 2))
        return x

    def _Slice(
        self, node: Any, x: Any, starts: Any, ends: Any, axes: Any, *steps: Any
    ) -> Quantized:
        cut = [int(np.ravel(value)[0]) for value in (starts, ends, axes)]
        if not isinstance(x, Quantized) or cut[0] != -cut[1] or cut[2] not in (2, 3):
            raise UnsupportedError("a part of a picture inside the network")
        self.crop.append(cut[0])
        return x

    def _Add(self, node: Any, a: Any, b: Any) -> Term:
        if isinstance(a, np.ndarray):
            a, b = b, a
        if isinstance(b, np.ndarray):
            shift = np.asarray(b, np.float64).reshape(-1)
            match a:
                case Levels():
                    return replace(a, bias=shift if a.bias is None else a.bias + shift)
                case Values(slope=None):
                    return replace(a, shift=shift if a.shift is None else a.shift + shift)
                case Sums(slope=None):
                    return replace(a, bias=a.bias + shift)
        if isinstance(a, Values) and isinstance(b, Values):
            return Both(a, b, sole=self.readers[node.output[0]] == 1)
        raise UnsupportedError("a sum of numbers that are no codes")

    def _Sub(self, node: Any, a: Any, b: Any) -> Term:
        if not isinstance(b, np.ndarray):
            raise UnsupportedError("a difference of pictures")
        return self._Add(node, a, np.asarray(-b))

    def _Mul(self, node: Any, a: Any, b: Any) -> Term:
        if isinstance(a, np.ndarray):
            a, b = b, a
        if isinstance(b, np.ndarray) and b.size == 1 and float(b.item()) > 0:
            factor = float(b.item())
            match a:
                case Levels():
                    bias = None if a.bias is None else a.bias * factor
                    return replace(a, scale=a.scale * factor, bias=bias)
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
        codes = _ungrouped(weights.codes, how.get("group", 1))
        scale = x.step * weights.step
        given = np.zeros(len(codes)) if bias is None else np.asarray(bias, np.float64)
        return Sums(x.codes, codes, scale, given)

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
        if not isinstance(x, Quantized) or x.codes is not None:
            raise UnsupportedError("a clip of numbers that are no codes")
        least, most = (
            bound if given is None else int(given.item())
            for given, bound in ((low, x.low), (high, x.high))
        )
        return replace(x, low=max(x.low, least), high=min(x.high, most))

    def _Max(self, node: Any, x: Any, least: Any) -> Quantized:
        if not isinstance(least, np.ndarray) or least.size > 1:
            raise UnsupportedError("a maximum of several numbers")
        return self._Clip(node, x, least)

    def _DequantizeLinear(self, node: Any, x: Any, step: Any, zero: Any, axis: int = 1) -> Values:
        if not isinstance(x, Quantized) or step.size != 1 or int(zero.item()) != x.zero:
            raise UnsupportedError("codes that are read with another zero")
        sole = all(self.readers[name] == 1 for name in (node.input[0], node.output[0]))
        return Values(self._codes(x), float(step.item()), sole=sole)

    def _DepthToSpace(self, node: Any, x: Any, blocksize: int, mode: bytes = b"DCR") -> Any:
        if mode != b"CRD" or not isinstance(x, Quantized | Values):
            raise UnsupportedError("a rearrangement of channels that is no PixelShuffle of codes")
        before = self._codes(x) if isinstance(x, Quantized) else x.codes
        channels = before.channels // blocksize**2
        after = self._new(channels, before.enlargement * blocksize, before)
        self.steps.append(Shuffle(Place(before), Place(after), channels, blocksize))
        if isinstance(x, Values):
            if x.shift is not None or (x.slope is not None and x.slope.size > 1):
                raise UnsupportedError("a PixelShuffle of values that are no codes")
            return replace(x, codes=after, sole=False)
        return replace(x, term=None, codes=after)

    # Steps.

    def _codes(self, quantized: Quantized) -> Codes:
        """Make the codes of a quantized term, once, as a picture of their own."""
        if quantized.codes is not None:
            return quantized.codes
        assert quantized.term is not None
        place, channels = self._place(quantized.term, quantized), channels_of(quantized.term)
        if place.codes.channels == channels:
            return place.codes
        own = Place(self._new(channels, place.codes.enlargement, quantized))
        self._copy(place, own, channels)
        return own.codes

    def _place(self, term: Term, to: Quantized, target: Place | None = None) -> Place:
        """Make the codes of a term, at ``target`` if given; or copy them from where they are."""
        key = (term, to.step, to.zero, to.low, to.high)
        made = self.places.get(key)
        if made is not None:
            self.shared.add(made.codes.name)
            if target is not None:
                self._copy(made, target, channels_of(term))
            return target or made
        if isinstance(term, Values):
            place = self._recode(term, to, target)
        else:
            place = target or Place(self._new(channels_of(term), enlargement_of(term), to))
            match term:
                case Levels():
                    self._quantize_levels(term, to, place)
                case Sums():
                    self._convolve(term, to, place)
                case Both():
                    self._add(term, to, place)
                case Parts():
                    self._concatenate(term, to, place)
        self.places[key] = place
        return place

    def _quantize_levels(self, term: Levels, to: Quantized, target: Place) -> None:
        if self.tables is not None:
            raise UnsupportedError("the picture is quantized twice")
        bias = np.broadcast_to(0.0 if term.bias is None else term.bias, 3)[:, None]
        codes = np.rint((term.scale * np.arange(256) + bias) / to.step) + to.zero
        self.tables = codes.clip(to.low, to.high).astype(np.uint8)
        self.input = target.codes

    def _convolve(self, term: Sums, to: Quantized, target: Place) -> None:
        low, zero = to.low, float(to.zero)
        slope = None if term.slope is None else np.broadcast_to(term.slope, len(term.scale))
        scale, bias = term.scale / to.step, term.bias / to.step
        if slope is not None and not slope.any():
            slope, low = None, max(low, to.zero)
        if slope is None:
            bias, zero = bias + zero, 0.0
        self.steps.append(
            Convolution(
                Place(term.source),
                target,
                term.weights,
                scale.astype(np.float32),
                bias.astype(np.float32),
                None if slope is None else slope.astype(np.float32),
                zero,
                low,
                to.high,
            )
        )

    def _add(self, term: Both, to: Quantized, target: Place) -> None:
        left, right = term.left, term.right
        if any(x.shift is not None or x.slope is not None for x in (left, right)):
            raise UnsupportedError("a sum of values that are no codes")
        low = max(to.low, to.zero) if term.relu else to.low
        scales = left.step / to.step, right.step / to.step
        constant = to.zero - scales[0] * left.codes.zero - scales[1] * right.codes.zero
        places = Place(left.codes), Place(right.codes)
        if term.sole:
            for own, other in ((1, 0), (0, 1)):
                maker = self._maker_to_end(term.right if own else term.left, places[other].codes)
                if maker is not None:
                    index, step = maker
                    skip = Skip(places[other], scales[own], scales[other], constant, low, to.high)
                    self.steps[index] = replace(step, target=target, skip=skip)
                    return
        self.steps.append(
            Add(places[0], target, places[1], left.codes.channels, *scales, constant, low, to.high)
        )

    def _maker_to_end(self, values: Values, other: Codes) -> tuple[int, Convolution] | None:
        """Find the convolution that can add ``other`` to its output, which nothing else reads."""
        codes = values.codes
        index, before = self._maker(codes), self._maker(other)
        if index is None or not values.sole or codes.name in self.shared:
            return None
        step = self.steps[index]
        if not isinstance(step, Convolution) or step.skip or step.again:
            return None
        if step.target.codes is not codes or (before is not None and before > index):
            return None
        self.places = {key: place for key, place in self.places.items() if place.codes is not codes}
        return index, step

    def _concatenate(self, term: Parts, to: Quantized, target: Place) -> None:
        first = target.first
        for part in term.parts:
            if channels_of(part) % CHANNELS or enlargement_of(part) != target.codes.enlargement:
                raise UnsupportedError(f"parts of channels that are no multiple of {CHANNELS}")
            self._place(part, to, Place(target.codes, first))
            first += channels_of(part)

    def _recode(self, term: Values, to: Quantized, target: Place | None) -> Place:
        codes, channels = term.codes, term.codes.channels
        plain = term.shift is None and term.slope is None
        same = plain and term.step == to.step and codes.zero == to.zero
        if target is None and same and codes.low >= to.low and codes.high <= to.high:
            return Place(codes)
        target = target or Place(self._new(channels, codes.enlargement, to))
        shift = 0.0 if term.shift is None else term.shift[:, None]
        values = term.step * (np.arange(256.0) - codes.zero) + shift
        if term.slope is not None:
            slope = term.slope if term.slope.size == 1 else term.slope[:, None]
            values = np.where(values < 0, values * slope, values)
        table = (np.rint(values / to.step) + to.zero).clip(to.low, to.high).astype(np.uint8)
        index = self._maker(codes)
        step = None if index is None else self.steps[index]
        if (
            plain
            and isinstance(step, Convolution)
            and step.again is None
            and step.target.codes is codes
        ):
            assert index is not None
            scale = term.step / to.step
            bias = np.full(channels, to.zero - scale * codes.zero, np.float32)
            again = Again(target, scale, bias, to.low, to.high)
            self.steps[index] = replace(step, again=again)
        else:
            self.steps.append(Recode(Place(codes), target, channels, table))
        return target

    def _copy(self, source: Place, target: Place, channels: int) -> None:
        self.steps.append(Recode(source, target, channels, np.arange(256, dtype=np.uint8)))

    def _new(self, channels: int, enlargement: int, like: Quantized | Codes) -> Codes:
        self.count += 1
        name = f"codes{self.count}"
        return Codes(name, channels, enlargement, like.zero, like.low, like.high)

    def _maker(self, codes: Codes) -> int | None:
        """Index of the last step that writes a picture; None for the first picture."""
        made = [i for i, step in enumerate(self.steps) if codes in [p.codes for p in step.targets]]
        return made[-1] if made else None

    def _mirrored(self, name: str, axis: int) -> int:
        """Find by how many pixels the graph surrounds a picture with mirrored ones.

        The positions that it computes from the size of the picture are compared with mirrored ones.
        """
        (picture,) = self.model.graph.input
        makers = {output: node for node in self.model.graph.node for output in node.output}
        needed, pending = set(), [name]
        while pending:
            node = makers.get(pending.pop())
            if node is not None and id(node) not in needed:
                needed.add(id(node))
                pending += node.input
        graph = onnx.helper.make_graph(
            [node for node in self.model.graph.node if id(node) in needed],
            "positions",
            [picture],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [None])],
            self.model.graph.initializer,
        )
        opsets = self.model.opset_import
        evaluate = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets))
        widths = set()
        for size in _SIZES:
            shape = [1, 9, 9, 3]
            shape[1 + axis] = size
            (found,) = evaluate.run(None, {picture.name: np.zeros(shape, np.uint8)})
            width = (len(found) - size) // 2
            if not np.array_equal(found, mirrored(size, max(width, 0))):
                raise UnsupportedError("pixels around the picture that are not mirrored ones")
            widths.add(width)
        return widths.pop()


def _ungrouped(weights: NDArray[np.int8], groups: int) -> NDArray[np.int8]:
    """Weights of a grouped convolution as those of one without groups: zeros between groups."""
    if groups == 1:
        return weights
    outputs, inputs, *size = weights.shape
    whole = np.zeros((groups, outputs // groups, groups, inputs, *size), np.int8)
    for group, part in enumerate(np.split(weights, groups)):
        whole[group, :, group] = part
    return whole.reshape(outputs, groups * inputs, *size)
