"""Untrusted model files of imported networks: any list of nodes is refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.imported import ImportedConfig
from tests.modelfiles.test_hostile import header_of, refused

CONV = {
    "name": "conv",
    "op": "Conv",
    "operands": ["picture", {"weights": [12, 3, 3, 3]}, {"weights": [12]}],
    "gives": ["c"],
    "attributes": {"pads": [1, 1, 1, 1]},
}
SHUFFLE = {
    "name": "shuffle",
    "op": "DepthToSpace",
    "operands": ["c"],
    "gives": ["y"],
    "attributes": {"blocksize": 2, "mode": "CRD"},
}


def then(op, *operands, **attributes):
    """A PixelShuffle, and an operation behind it."""
    last = {"name": "last", "op": op, "operands": list(operands), "gives": ["y"]}
    return [CONV, SHUFFLE | {"gives": ["p"]}, last | {"attributes": attributes}]


def numbers(*values):
    return {"numbers": list(values), "shape": [len(values)]}


@pytest.fixture
def model(tmp_path):
    config = ImportedConfig(
        scale=2,
        nodes=json.dumps([CONV, SHUFFLE]),
        result="y",
        input_range=[0.0, 1.0],
        output_range=[0.0, 1.0],
    )
    save_model(tmp_path / "net.safetensors", build(config), Card())
    return tmp_path / "net.safetensors"


def claim(path, nodes, **fields):
    """Write other nodes and fields into the header of a model file."""
    header = header_of(path)
    header["network"] |= {"nodes": nodes if isinstance(nodes, str) else json.dumps(nodes)} | fields
    save_file(load_file(path), path, metadata={"srq": json.dumps(header)})


def test_the_file_itself_is_read(model):
    assert load_model(model)[0](torch.rand(1, 3, 5, 4)).shape == (1, 3, 10, 8)


HOSTILE = {
    "no JSON": ("[{", "nodes"),
    "no nodes": ([], "nodes"),
    "no list": ({"op": "Relu"}, "nodes"),
    "unknown value": (then("Relu", "nothing"), "last reads nothing, which nothing before it makes"),
    "circle": (then("Add", "p", "y"), "last reads y, which nothing before it makes"),
    "same names": ([CONV, SHUFFLE, SHUFFLE], "a layer or value of this name is there already"),
    "unknown operation": (then("Evil", "p"), "unknown operation Evil"),
    "path as a name": ([CONV | {"name": "../conv"}, SHUFFLE], "nodes"),
    "wrong shape": ([CONV | {"operands": ["picture", {"weights": [12, 5, 3, 3]}]}, SHUFFLE], ""),
    "other tensors": (
        [CONV | {"operands": ["picture", {"weights": [12, 3, 1, 1]}], "attributes": {}}, SHUFFLE],
        "",
    ),
    "huge kernel": ([CONV | {"operands": ["picture", {"weights": [65536] * 4}]}, SHUFFLE], ""),
    "negative sizes": ([CONV | {"operands": ["picture", {"weights": [-1, 3, 3, 3]}]}, SHUFFLE], ""),
    "too many nodes": (
        [CONV, *(SHUFFLE | {"name": f"n{i}", "gives": [f"v{i}"]} for i in range(20_001))],
        "nodes",
    ),
    "no scale": ([CONV | {"gives": ["y"]}], "not [1, 3, 64, 64]"),
    "huge enlargement": (
        then("Resize", "p", None, numbers(1.0, 1.0, 1e5, 1e5), mode="nearest"),
        "too large",
    ),
    "huge repetition": (then("Tile", "p", numbers(1, 1, 2**20, 2**20)), "too large"),
    "huge shape": (then("Expand", "p", numbers(2**40, 3, 64, 64)), ""),
    "huge constant": (then("ConstantOfShape", numbers(2**20, 2**20, 2**20)), ""),
    "stride of zero": ([CONV | {"attributes": {"strides": [0, 0]}}, SHUFFLE], ""),
    "text as a stride": ([CONV | {"attributes": {"strides": "two"}}, SHUFFLE], ""),
    "block of zero": ([CONV, SHUFFLE | {"attributes": {"blocksize": 0, "mode": "CRD"}}], ""),
    "attributes of others": (then("Relu", "p", "c"), ""),
    "equation": (then("Einsum", "p", equation="a" * 100), ""),
    "infinity": (then("Clip", "p", {"numbers": [float("inf")], "shape": []}), ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_nodes_are_refused(name, model):
    nodes, message = HOSTILE[name]
    claim(model, nodes)
    refused(model, message)


@pytest.mark.parametrize(
    "fields",
    [
        {"result": "nothing"},
        {"input_range": [1.0, 0.0]},
        {"input_range": [0.0]},
        {"radius": 10**9},
        {"multiple": 0},
        {"least": 10**6},
        {"colours": "cmyk"},
        {"scale": 5},
    ],
)
def test_hostile_fields_are_refused(fields, model):
    claim(model, [CONV, SHUFFLE], **fields)
    refused(model, "network: ")
