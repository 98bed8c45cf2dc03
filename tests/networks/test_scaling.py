"""Channels that may be scaled, found in small graphs by hand."""

import pytest

from sr_quant_cli.networks.nodes import Node
from sr_quant_cli.networks.scaling import channel_groups


def node(op, operands, *gives, name=None, **attributes):
    """A node; lists among its operands are shapes of weights, tuples are numbers."""
    given = [
        {"weights": operand}
        if isinstance(operand, list)
        else {"numbers": list(operand), "shape": [len(operand)]}
        if isinstance(operand, tuple)
        else operand
        for operand in operands
    ]
    values = {"name": name or gives[0], "op": op, "operands": given, "gives": list(gives)}
    return Node.model_validate(values | {"attributes": attributes})


def conv(x, made, inputs, outputs, **attributes):
    return node("Conv", [x, [outputs, inputs, 3, 3], [outputs]], made, **attributes)


def groups(nodes, result, tensors=(), **channels):
    return channel_groups(nodes, result, channels, tensors)


def test_picture_and_result_are_never_scaled():
    found = groups([conv("picture", "a", 3, 2), conv("a", "y", 2, 3)], "y", ["a"], a=2, y=3)
    assert found.read["layers.a"] == (0, 0, 0)
    assert found.written["layers.a"] == found.read["layers.y"] == found.passed["tensors.a"]
    assert found.written["layers.a"] == (1, 2)
    assert found.written["layers.y"] == (0, 0, 0)


def test_parts_move_with_their_channels():
    nodes = [
        conv("picture", "a", 3, 4),
        node("Split", ["a", (1, 3)], "p", "q", name="split", axis=1),
        node("Concat", ["q", "p"], "x", axis=-3),
        conv("x", "y", 4, 3),
    ]
    found = groups(nodes, "y", a=4, p=1, q=3, x=4, y=3)
    assert found.written["layers.a"] == (1, 2, 3, 4)
    assert found.read["layers.y"] == (2, 3, 4, 1)


def test_both_sides_of_an_addition_have_the_same_factors():
    nodes = [
        conv("picture", "a", 3, 2),
        node("LeakyRelu", ["a"], "r"),
        conv("r", "b", 2, 2),
        node("LeakyRelu", ["b"], "s"),
        node("Add", ["s", "a"], "x"),
        conv("x", "y", 2, 3),
    ]
    found = groups(nodes, "y", a=2, r=2, b=2, s=2, x=2, y=3)
    assert found.written["layers.a"] == found.written["layers.b"] == found.read["layers.y"]
    assert found.read["layers.y"] == (1, 2)


def test_a_gate_has_no_factor_and_what_it_multiplies_keeps_its_own():
    gate = [conv("a", "g", 4, 4), node("Sigmoid", ["g"], "s")]
    for operands in (["a", "s"], ["s", "a"]):
        nodes = [
            conv("picture", "a", 3, 4),
            *gate,
            node("Mul", operands, "x"),
            conv("x", "y", 4, 3),
        ]
        found = groups(nodes, "y", a=4, g=4, s=4, x=4, y=3)
        assert found.written["layers.g"] == (0, 0, 0, 0)
        assert found.read["layers.g"] == found.read["layers.y"] == (1, 2, 3, 4)


def test_a_product_of_two_feature_maps_takes_the_factors_of_one():
    nodes = [
        conv("picture", "a", 3, 2),
        conv("picture", "b", 3, 2),
        node("Mul", ["a", "b"], "x"),
        conv("x", "y", 2, 3),
    ]
    found = groups(nodes, "y", a=2, b=2, x=2, y=3)
    assert found.written["layers.b"] == (0, 0)
    assert found.written["layers.a"] == found.read["layers.y"] == (1, 2)


def test_the_contrast_of_channel_attention_keeps_factors():
    contrast = [
        node("ReduceMean", ["a", (2, 3)], "m", keepdims=1),
        node("Sub", ["a", "m"], "d"),
        node("Pow", ["d", (2.0,)], "e"),
        node("ReduceSum", ["e", (-1,)], "f", keepdims=1),
        node("Sqrt", ["f"], "x"),
    ]
    counts = dict.fromkeys("mdefx", 4)
    nodes = [conv("picture", "a", 3, 4), *contrast, conv("x", "y", 4, 3)]
    found = groups(nodes, "y", ["e", "x"], a=4, y=3, **counts)
    assert found.written["layers.a"] == found.read["layers.y"] == (1, 2, 3, 4)
    assert [*found.passed] == ["tensors.x"]  # squares have the squares of factors
    without_root = [*nodes[:-2], conv("f", "y", 4, 3)]
    found = groups(without_root, "y", a=4, y=3, **counts)
    assert found.written["layers.a"] == found.read["layers.y"] == (0, 0, 0, 0)


def test_a_pixelshuffle_joins_the_channels_of_a_square():
    shuffle = node("DepthToSpace", ["a"], "x", blocksize=2, mode="CRD")
    nodes = [conv("picture", "a", 3, 8), shuffle, conv("x", "y", 2, 3)]
    found = groups(nodes, "y", a=8, x=2, y=3)
    assert found.written["layers.a"] == (1, 1, 1, 1, 5, 5, 5, 5)
    assert found.read["layers.y"] == (1, 5)
    other = [nodes[0], node("DepthToSpace", ["a"], "x", blocksize=2, mode="DCR"), nodes[2]]
    assert groups(other, "y", a=8, x=2, y=3).read["layers.y"] == (0, 0)


PASSING = {
    "ReLU": node("Relu", ["a"], "x"),
    "PReLU": node("PRelu", ["a", [4]], "x"),
    "resizing": node("Resize", ["a", None, (1.0, 1.0, 2.0, 2.0)], "x"),
    "product with a constant": node("Mul", ["a", [1, 4, 1, 1]], "x"),
    "quotient": node("Div", ["a", (6.0,)], "x"),
    "padding": node("Pad", ["a", (0, 0, 1, 1, 0, 0, 1, 1)], "x"),
    "padding by mirroring": node("Pad", ["a", (0, 0, 1, 1, 0, 0, 1, 1), (1.0,)], "x", mode="edge"),
}
FIXING = {
    "clip": node("Clip", ["a"], "x"),
    "constant that is added": node("Add", ["a", [1, 4, 1, 1]], "x"),
    "sum over channels": node("ReduceSum", ["a", (1,)], "x", keepdims=1),
    "quotient of a constant": node("Div", [(1.0,), "a"], "x"),
    "padding by ones": node("Pad", ["a", (0, 0, 1, 1, 0, 0, 1, 1), (1.0,)], "x"),
    "padding of channels": node("Pad", ["a", (0, 0, 0, 0, 0, 1, 0, 0)], "x"),
    "transposed convolution": node("ConvTranspose", ["a", [4, 4, 3, 3]], "x"),
    "softmax": node("Softmax", ["a"], "x", axis=1),
    "power of a feature map": node("Pow", ["a", "a"], "x"),
}


@pytest.mark.parametrize("name", PASSING)
def test_operations_that_pass_factors(name):
    nodes = [conv("picture", "a", 3, 4), PASSING[name], conv("x", "y", 4, 3)]
    found = groups(nodes, "y", a=4, x=4, y=3)
    assert found.written["layers.a"] == found.read["layers.y"] == (1, 2, 3, 4)


@pytest.mark.parametrize("name", FIXING)
def test_operations_that_pass_none(name):
    count = {"sum over channels": 1, "padding of channels": 5}.get(name, 4)
    nodes = [conv("picture", "a", 3, 4), FIXING[name], conv("x", "y", count, 3)]
    found = groups(nodes, "y", a=4, x=count, y=3)
    assert not any(found.written["layers.a"])
    assert not any(found.read["layers.y"])


def test_sizes_of_a_feature_map_do_not_fix_it():
    nodes = [
        conv("picture", "a", 3, 2),
        node("Shape", ["a"], "s"),
        node("Resize", ["a", None, None, "s"], "x"),
        conv("x", "y", 2, 3),
    ]
    assert groups(nodes, "y", a=2, x=2, y=3).read["layers.y"] == (1, 2)
