"""Graph files: external data, damage, lies in metadata, and random graphs."""

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.helpers import nearest_onnx
from tests.hostile.corpus import DAMAGES, damaged
from tests.hostile.processes import sizes, survive
from tests.hostile.test_models import VALUES

COMMANDS = ("info", "import", "onnxruntime", "openvino", "auto")


@pytest.fixture(scope="module")
def nearest(tmp_path_factory):
    """A graph that srq did not make."""
    return nearest_onnx(tmp_path_factory.mktemp("graphs") / "nearest.onnx").read_bytes()


def use(place, content, command, name="m.onnx", **changes):
    """Give a graph to a command, or to ``srq upscale`` with a runtime."""
    graph = place.put(name, content)
    words = {
        "info": ["info", graph],
        "import": ["import", graph, "-o", place.made / "m.safetensors"],
    }.get(command) or [
        *("upscale", place.small, "-o", place.made / "o.png", "--model", graph),
        *("--runtime", command, "--threads", 1),
    ]
    return place.attack(*words, **changes)


def described(graph: bytes, entry: object) -> bytes:
    """The graph with a metadata entry as srq writes it."""
    model = onnx.load_model_from_string(graph)
    helper.set_model_props(model, {"srq": entry if isinstance(entry, str) else json.dumps(entry)})
    return model.SerializeToString()


def traits(**changes):
    """Metadata of the nearest-neighbour graph."""
    facts = {"name": "n", "scale": 2, "receptive_radius": 1, "alignment": 1, "bytes_per_pixel": 99}
    return {"version": "0.1.0", "facts": facts | changes}


@sizes(part=6, whole=11 * 5 * 4)
def test_damaged_graphs(place, nearest, size):
    def case(damage, command, seed):
        use(place, damaged(nearest, damage, f"{seed}"), command)

    survive(place, case, size.sample(product(DAMAGES, COMMANDS, range(4))))


@sizes(part=3, whole=60)
def test_graphs_of_a_runtime_of_another_format(place, nearest, size):
    """OpenVINO's two files, damaged or of other kinds."""
    import openvino

    folder = place.folder.parent / "ir"
    model = openvino.Core().read_model(nearest, b"")
    openvino.save_model(model, folder / "m.xml", compress_to_fp16=False)
    whole = {suffix: (folder / f"m{suffix}").read_bytes() for suffix in (".xml", ".bin")}

    def case(damage, suffix, seed):
        content = dict(whole) | {suffix: damaged(whole[suffix], damage, f"{seed}")}
        place.put("m.bin", content[".bin"])
        use(place, content[".xml"], "openvino", "m.xml")

    every = list(product(DAMAGES, whole, range(3)))
    survive(place, case, size.sample(every))


def external(location: str, offset: int = 0, length: int = 144) -> bytes:
    """The graph with its weights in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[12, 3, 1, 1])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        weight.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="DCR"),
        ],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [weight],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, marks=() if each in ("import", "onnxruntime") else pytest.mark.hostile)
        for each in COMMANDS
    ],
)
def test_external_data_outside_the_folder_is_refused(place, command):
    """The file is there and has the right size, so only its place is wrong."""

    def case(kind):
        secret = place.put("elsewhere/secret.bin", np.ones(36, np.float32).tobytes())
        (place.given / "folder").mkdir()
        (place.given / "folder/link.bin").symlink_to("../elsewhere/secret.bin")
        (place.given / "folder/inner").symlink_to("../elsewhere")
        location = {
            "absolute": str(secret),
            "parent": "../elsewhere/secret.bin",
            "within": "inner/../../elsewhere/secret.bin",
            "link": "link.bin",
            "linked folder": "inner/secret.bin",
            "address": secret.as_uri(),
            "nothing": "",
            "folder": ".",
            "missing": "missing.bin",
        }[kind]
        ended = use(place, external(location), command, "folder/m.onnx")
        assert ended.code == 2, ended

    kinds = ["absolute", "parent", "within", "link", "missing", "address", "nothing", "folder"]
    survive(place, case, [(kind,) for kind in [*kinds, "linked folder"]])


@pytest.mark.parametrize("command", ["import", "onnxruntime", "openvino"])
def test_external_data_of_wrong_extents_is_refused(place, command):
    extents = [(0, 2**62), (2**62, 144), (-4, 144), (100, 144), (0, 4)]

    def case(offset, length):
        place.put("w.bin", np.ones(36, np.float32).tobytes())
        assert use(place, external("w.bin", offset, length), command).code == 2

    survive(place, case, extents)


@sizes(part=6, whole=150)
def test_metadata_that_lies(place, nearest, size):
    keys = st.sampled_from([*traits()["facts"], "least", "other"])
    lies = st.one_of(
        st.dictionaries(keys, VALUES, max_size=3).map(lambda changes: traits(**changes)), VALUES
    )

    @size.examples
    @given(lies, st.sampled_from(["info", "onnxruntime", "auto"]))
    def attack(entry, command):
        use(place, described(nearest, entry), command)
        place.clear()

    attack()


OPERATIONS = {
    "Conv": 2,
    "Add": 2,
    "Relu": 1,
    "Reshape": 2,
    "Resize": 4,
    "DepthToSpace": 1,
    "Pad": 2,
    "Tile": 2,
    "Concat": 2,
    "Clip": 3,
    "Slice": 4,
    "Gather": 2,
    "MatMul": 2,
    "Transpose": 1,
    "Cast": 1,
    "QuantizeLinear": 3,
    "Einsum": 2,
    "Constant": 0,
    "ConstantOfShape": 1,
    "Split": 2,
    "Expand": 2,
    "Range": 3,
    "LSTM": 3,
    "Unknown": 1,
}
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        [
            "kernel_shape",
            "pads",
            "strides",
            "dilations",
            "group",
            "blocksize",
            "mode",
            "perm",
            "axis",
            "to",
            "equation",
            "value",
        ]
    ),
    st.one_of(
        st.integers(-(2**40), 2**40),
        st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**31, -(2**31), 2**62]), min_size=1, max_size=5),
        st.floats(allow_nan=True),
        st.sampled_from(["CRD", "nearest", "x", "", "ij,jk->ik", "a" * 500]),
    ),
    max_size=3,
)
CONSTANTS = st.tuples(
    st.sampled_from([np.float32, np.int64, np.uint8, np.int8]),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 100]), max_size=3),
    st.lists(st.integers(0, 127), min_size=1, max_size=3),
)


@st.composite
def graphs(draw):
    """Random nodes on random values, which hardly ever fit each other."""
    names, nodes, constants = ["x", ""], [], []
    for index in range(draw(st.integers(0, 3))):
        kind, shape, values = draw(CONSTANTS)
        filled = np.resize(np.array(values, kind), shape)
        constants.append(numpy_helper.from_array(filled, f"c{index}"))
        names.append(f"c{index}")
    for index in range(draw(st.integers(1, 5))):
        operation = draw(st.sampled_from(sorted(OPERATIONS)))
        given = [draw(st.sampled_from(names)) for _ in range(OPERATIONS[operation])]
        nodes.append(helper.make_node(operation, given, [f"n{index}"], **draw(ATTRIBUTES)))
        names.append(f"n{index}")
    shape = draw(
        st.sampled_from([["n", 3, "h", "w"], [1, 3, 8, 8], [3], [], [None] * 5, [2**40] * 4])
    )
    kind = draw(st.sampled_from([TensorProto.FLOAT, TensorProto.UINT8, TensorProto.STRING]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(names[-1] or "x", TensorProto.FLOAT, [None] * 4)],
        constants,
    )
    opset = helper.make_opsetid("", draw(st.sampled_from([1, 13, 17, 21, 99])))
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


@sizes(part=8, whole=250)
def test_random_graphs(place, size):
    @size.examples
    @given(graphs(), st.sampled_from(COMMANDS))
    def attack(graph, command):
        use(place, graph, command, cpu=40)
        place.clear()

    attack()


@pytest.mark.hostile
def test_names_that_would_write_to_the_terminal(place, nearest):
    """Escape sequences in the names of nodes and values reach no message."""
    content = nearest.replace(b"DepthToSpace", b"Dep\x1b[2J\x07Spac")
    assert content != nearest
    for command in COMMANDS:
        use(place, content, command)
        place.clear()


@pytest.mark.hostile
def test_a_name_of_a_file_is_only_shown(place, nearest):
    for name in (
        "a\x1b]0;t\x07.onnx",
        "-rf.onnx",
        "$(touch canary).onnx",
        "a\nb.onnx",
        "\udcff.onnx",
    ):
        graph = place.given / name
        graph.write_bytes(nearest)
        place.attack("info", Path(os.curdir) / "given" / name)
        place.clear()
