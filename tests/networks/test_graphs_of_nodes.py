"""Graphs of imported networks, such as arithmetic with sizes, against ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from tests.nodes import PICTURE, agree, number, rng, values, whole

ZERO = numpy_helper.from_array(whole(0))

GRAPHS = {
    "split into equal parts": (
        [("Split", ["x"], ["a", "b"], {"axis": 1}), ("Sub", ["a", "b"], ["y"], {})],
        {},
        13,
    ),
    "split by an operand": (
        [
            ("Split", ["x", "c"], ["a", "b"], {"axis": -3}),
            ("Concat", ["b", "a"], ["y"], {"axis": 1}),
        ],
        {"c": whole(1, 3)},
        13,
    ),
    "split by an attribute": (
        [
            ("Split", ["x"], ["a", "b"], {"axis": 1, "split": [3, 1]}),
            ("Concat", ["b", "a"], ["y"], {"axis": -3}),
        ],
        {},
        11,
    ),
    "split into parts of which the last is smaller": (
        [
            ("Split", ["x"], ["a", "b", "d"], {"axis": 3, "num_outputs": 3}),
            ("Concat", ["d", "b", "a"], ["y"], {"axis": 3}),
        ],
        {},
        18,
    ),
    "a split of which a part is not used": (
        [("Split", ["x"], ["y", "unused"], {"axis": 1})],
        {},
        13,
    ),
    "the second result of a pooling is not used": (
        [("MaxPool", ["x"], ["y", "where"], {"kernel_shape": [2, 2]})],
        {},
        13,
    ),
    "concatenation with constants": (
        [("Concat", ["x", "c"], ["y"], {"axis": 1})],
        {"c": values(2, 1, 6, 5)},
        13,
    ),
    "concatenation with a single number": (
        [("Reshape", ["x", "flat"], ["a"], {}), ("Concat", ["a", "c"], ["y"], {"axis": 0})],
        {"flat": whole(-1), "c": values(1)},
        13,
    ),
    "einsum": (
        [("Einsum", ["x", "c"], ["y"], {"equation": "nchw,cd->ndhw"})],
        {"c": values(4, 3)},
        13,
    ),
    "comparisons and a choice": (
        [
            ("Greater", ["x", "zero"], ["a"], {}),
            ("Less", ["x", "one"], ["b"], {}),
            ("And", ["a", "b"], ["ab"], {}),
            ("GreaterOrEqual", ["x", "two"], ["d"], {}),
            ("LessOrEqual", ["x", "minus"], ["e"], {}),
            ("Or", ["d", "e"], ["de"], {}),
            ("Or", ["ab", "de"], ["f"], {}),
            ("Not", ["f"], ["g"], {}),
            ("Where", ["g", "x", "zero"], ["y"], {}),
        ],
        {"zero": number(0), "one": number(1), "two": number(2), "minus": number(-1)},
        18,
    ),
    "a choice by constants": (
        [("Where", ["c", "x", "d"], ["y"], {})],
        {"c": rng.random((6, 5)) > 0.5, "d": values(4, 1, 1)},
        13,
    ),
    "two equal shapes": (
        [
            ("Shape", ["x"], ["s"], {}),
            ("Equal", ["s", "c"], ["same"], {}),
            ("Where", ["same", "one", "s"], ["wanted"], {}),
            ("ReduceMean", ["x"], ["m"], {"axes": [2], "keepdims": 1}),
            ("Expand", ["m", "wanted"], ["y"], {}),
        ],
        {"c": whole(2, 4, 9, 5), "one": whole(1, 1, 1, 1)},
        13,
    ),
    "sizes of a resized picture": (
        [
            ("Shape", ["x"], ["s"], {}),
            ("Slice", ["s", "two", "four", "zero"], ["hw"], {}),
            ("Mul", ["hw", "three"], ["large"], {}),
            ("Slice", ["s", "zero", "two", "zero"], ["nc"], {}),
            ("Concat", ["nc", "large"], ["sizes"], {"axis": 0}),
            ("Resize", ["x", "", "", "sizes"], ["y"], {"mode": "linear"}),
        ],
        {"zero": whole(0), "two": whole(2), "three": whole(3), "four": whole(4)},
        13,
    ),
    "sizes that pass through floats": (
        [
            ("Shape", ["x"], ["s"], {}),
            ("Gather", ["s", "two"], ["h"], {"axis": 0}),
            ("Cast", ["h"], ["f"], {"to": TensorProto.FLOAT}),
            ("Div", ["f", "by"], ["q"], {}),
            ("Ceil", ["q"], ["c"], {}),
            ("Floor", ["q"], ["d"], {}),
            ("Mul", ["c", "d"], ["e"], {}),
            ("Sqrt", ["e"], ["g"], {}),
            ("Cast", ["g"], ["i"], {"to": TensorProto.INT64}),
            ("Unsqueeze", ["i", "zero"], ["n"], {}),
            ("Concat", ["n", "rest"], ["shape"], {"axis": 0}),
            ("Reshape", ["x", "shape"], ["y"], {}),
        ],
        {"two": np.array(2), "by": number(2.5), "zero": whole(0), "rest": whole(-1, 5)},
        13,
    ),
    "padding to a multiple as torch exports it": (
        [
            ("Shape", ["x"], ["s"], {}),
            ("Gather", ["s", "three"], ["w"], {"axis": 0}),
            ("Mod", ["w", "eight"], ["m"], {}),
            ("Sub", ["eight", "m"], ["d"], {}),
            ("Unsqueeze", ["d", "axes"], ["u"], {}),
            ("Concat", ["zero", "u", "zero", "zero"], ["four"], {"axis": 0}),
            ("Shape", ["four"], ["given"], {}),
            ("Gather", ["given", "axes"], ["count"], {"axis": 0}),
            ("Sub", ["eight", "count"], ["missing"], {}),
            ("ConstantOfShape", ["missing"], ["zeros"], {"value": ZERO}),
            ("Concat", ["four", "zeros"], ["pads"], {"axis": 0}),
            ("Reshape", ["pads", "pairs"], ["p"], {}),
            ("Slice", ["p", "minus", "first", "axes", "minus"], ["r"], {}),
            ("Transpose", ["r"], ["t"], {"perm": [1, 0]}),
            ("Reshape", ["t", "minus"], ["flat"], {}),
            ("Cast", ["flat"], ["last"], {"to": TensorProto.INT64}),
            ("Pad", ["x", "last"], ["y"], {"mode": "reflect"}),
        ],
        {
            "three": np.array(3),
            "eight": np.array(8),
            "axes": whole(0),
            "zero": whole(0),
            "pairs": whole(-1, 2),
            "minus": whole(-1),
            "first": whole(-(2**63)),
        },
        13,
    ),
    "a field of constants": (
        [
            ("Shape", ["x"], ["s"], {"start": 2}),
            ("ConstantOfShape", ["s"], ["c"], {}),
            ("Add", ["x", "c"], ["y"], {}),
        ],
        {},
        15,
    ),
    "coordinates": (
        [
            ("Shape", ["x"], ["s"], {}),
            ("Gather", ["s", "three"], ["w"], {"axis": 0}),
            ("Range", ["zero", "w", "two"], ["at"], {}),
            ("Gather", ["x", "at"], ["g"], {"axis": 3}),
            ("Cast", ["at"], ["f"], {"to": TensorProto.FLOAT}),
            ("Mul", ["g", "f"], ["y"], {}),
        ],
        {"three": np.array(3), "zero": np.array(0), "two": np.array(2)},
        13,
    ),
    "the number of values": (
        [
            ("Size", ["x"], ["n"], {}),
            ("Shape", ["x"], ["s"], {}),
            ("ReduceProd", ["s"], ["p"], {"keepdims": 0}),
            ("ReduceMax", ["s"], ["m"], {"keepdims": 1}),
            ("Add", ["n", "p"], ["np"], {}),
            ("Div", ["np", "m"], ["q"], {}),
            ("Cast", ["q"], ["f"], {"to": TensorProto.FLOAT}),
            ("Mul", ["x", "f"], ["y"], {}),
        ],
        {},
        13,
    ),
    "a mask of a diagonal": (
        [("Not", ["c"], ["n"], {}), ("Where", ["n", "x", "low"], ["y"], {})],
        {"c": np.tri(6, 5) > 0, "low": number(-9)},
        13,
    ),
}
"""Nodes, constants and version of graphs with results or operands of several operations."""


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_equals_that_of_onnx_runtime(name):
    nodes, constants, opset = GRAPHS[name]
    agree(nodes, constants, PICTURE, opset)
