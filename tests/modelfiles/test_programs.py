"""Programs for srq's own kernels in model files: what is stored, kept, ignored and refused."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sr_quant_cli import networks
from sr_quant_cli.commands.pack import PackRequest, add_program, pack
from sr_quant_cli.errors import UsageError
from sr_quant_cli.kernels.from_graph import compile_graph
from sr_quant_cli.kernels.program_file import to_plain
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.kernel_program import kernel_program
from sr_quant_cli.modelfiles.card import Card, SetScore
from sr_quant_cli.modelfiles.modelfile import load_model, record_scores, save_model
from sr_quant_cli.modelfiles.named import embedded_models
from sr_quant_cli.modelfiles.programs import ENTRY, PREFIX, read_program
from tests.lowered import quantize
from tests.tiny import network_config


def quantized(bits=8, placement="full", name="edsr"):
    torch.manual_seed(0)
    return quantize(networks.build(network_config(name)).eval(), "minmax", placement, bits)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A model file with its program, as bytes."""
    path = tmp_path_factory.mktemp("shipped") / "tiny.safetensors"
    save_model(path, quantized(), Card(name="tiny w8a8"))
    add_program(path)
    return path.read_bytes()


@pytest.fixture
def shipped(tmp_path, content):
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(content)
    return path


def same(a, b):
    (plain, arrays), (plain_b, arrays_b) = to_plain(a), to_plain(b)
    return plain == plain_b and all(np.array_equal(arrays[key], arrays_b[key]) for key in arrays)


def metadata_of(path):
    with safe_open(path, framework="np") as file:
        return file.metadata()


def rewrite(path, change):
    """Change the entry and the tensors of a file in place."""
    metadata, tensors = metadata_of(path), load_file(path)
    entry = json.loads(metadata[ENTRY])
    entry = change(entry, tensors) or entry
    save_file(tensors, path, {**metadata, ENTRY: json.dumps(entry)})


@pytest.mark.parametrize("bits", [3, 8])
def test_a_program_is_that_of_the_loaded_network(tmp_path, bits):
    path = tmp_path / "q.safetensors"
    save_model(path, quantized(bits), Card())
    add_program(path)
    network, _ = load_model(path)
    deployed = deploy(network, "q", "uint8", full_range=True)
    read = read_program(path)
    assert same(read.program, compile_graph(deployed.model))
    assert (read.traits, read.input_bits) == (deployed.traits, 8)  # of the first layer


def test_weights_are_not_stored_twice(shipped):
    added = [tensor for name, tensor in load_file(shipped).items() if name.startswith(PREFIX)]
    assert added
    assert not any(tensor.dtype == np.int8 for tensor in added)


def test_a_network_is_loaded_as_without_a_program(shipped, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_model(plain, quantized(), Card())
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        assert torch.equal(load_model(shipped)[0](x), load_model(plain)[0](x))


def test_scores_and_copies_keep_the_program(shipped, tmp_path):
    before = read_program(shipped)
    score = SetScore(
        bench="Set5", images=5, scale=2, protocol="y", border=2, lr="bicubic", psnr=30, ssim=0.9
    )
    record_scores(shipped, [score])
    assert same(read_program(shipped).program, before.program)
    pack(PackRequest(shipped, tmp_path / "copy.safetensors", name="other"))
    copy = read_program(tmp_path / "copy.safetensors")
    assert same(copy.program, before.program)
    assert copy.traits.name == "other"


@pytest.mark.parametrize(
    "network",
    [
        lambda: quantized(placement="paper"),
        lambda: quantized(name="swinir_light"),
        lambda: networks.build(network_config("edsr")).eval(),
    ],
    ids=["float layers", "operations", "float"],
)
def test_what_the_kernels_do_not_run_has_no_program(tmp_path, network):
    made, path = network(), tmp_path / "m.safetensors"
    assert kernel_program(made, "m") is None
    save_model(path, made, Card())
    before = path.read_bytes()
    add_program(path)
    assert path.read_bytes() == before
    assert read_program(path) is None


def test_other_formats_and_changed_tensors_are_ignored(shipped, content):
    def newer(entry, tensors):
        entry["format"] += 1

    def changed(entry, tensors):
        tensors["head.bias"] = tensors["head.bias"] + 1

    for change in (newer, changed, lambda entry, tensors: [1], lambda entry, tensors: "x"):
        shipped.write_bytes(content)
        rewrite(shipped, change)
        assert read_program(shipped) is None
        load_model(shipped)


def at(*keys, value):
    def change(entry, tensors):
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = value

    return change


def without_a_vector(entry, tensors):
    del tensors[PREFIX + "steps.0.scale"]


def not_finite(entry, tensors):
    tensors[PREFIX + "steps.0.scale"][0] = np.inf


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (at("program", value=None), "must be a table with codes"),
        (at("program", "scale", value=3), "3 times the size"),
        (at("program", "steps", 1, "source", "first", value=1), "channel 1 is no multiple"),
        (at("traits", value=[]), "packed and traits must be tables"),
        (at("traits", "scale", value=4), "that of the network is 4"),
        (at("traits", "receptive_radius", value=-1), "receptive_radius = -1"),
        (at("traits", "name", value={}), "."),
        (at("input_bits", value=True), "input_bits True: must be 1 to 32"),
        (at("packed", value=3), "packed and traits must be tables"),
        (at("packed", "steps.1.weights", value=3), "packed.steps.1.weights: a value is missing"),
        (at("packed", "steps.1.weights", "more", value=3), "a value is missing or unknown"),
        (at("packed", "steps.1.weights", "tensor", value="x"), "there are no codes 'x'"),
        (at("packed", "steps.1.weights", "tensor", value="head.bias"), "no codes 'head.bias'"),
        (at("packed", "steps.1.weights", "tensor", value=[]), "a value has another type"),
        (at("packed", "steps.1.weights", "bits", value=9), "must be codes of 8 bits"),
        (at("packed", "steps.1.weights", "bits", value=4), "another length"),
        (at("packed", "steps.1.weights", "first", value=-129), "must be codes of 8 bits"),
        (at("packed", "steps.1.weights", "shape", value=[2**14, 2**9, 3, 3]), "another length"),
        (at("packed", "steps.1.weights", "shape", value=[2**40, 2**40, 3, 3]), "268,435,456 we"),
        (at("packed", "steps.1.weights", "shape", value=[-8, -8, 3, 3]), "must be codes"),
        (at("packed", "steps.1.weights", "shape", value=[8.0, 8, 3, 3]), "another type"),
        (at("packed", "steps.1.weights", "shape", value=[64, 1, 3, 3]), "scale: shape"),
        (without_a_vector, "steps.0.scale: must be the name of an array"),
        (not_finite, "scale: must be finite"),
    ],
)
def test_damaged_programs_are_one_line(shipped, change, problem):
    rewrite(shipped, change)
    if problem == ".":  # the name is that of the card
        assert read_program(shipped).traits.name == "tiny w8a8"
        return
    with pytest.raises(UsageError, match=rf"tiny.safetensors, program: .*{problem}"):
        read_program(shipped)


def test_files_that_are_no_models_have_no_program(tmp_path):
    for content in (b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0null"):
        (tmp_path / "x").write_bytes(content)
        assert read_program(tmp_path / "x") is None
    assert read_program(tmp_path / "none") is None


EMBEDDED = [name for name in embedded_models() if "-w" in name]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * ("small" not in name)) for name in EMBEDDED],
)
def test_embedded_programs_are_those_of_this_version(name):
    """If this fails, make them again: see sr_quant_cli/models/README.md."""
    path = embedded_models()[name]
    read = read_program(path)
    made = kernel_program(load_model(path)[0], name)
    assert same(read.program, made.program)
    assert (read.traits, read.input_bits) == (made.traits, made.input_bits)
