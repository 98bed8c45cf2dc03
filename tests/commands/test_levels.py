"""Levels from the option to the kernels: run names, files, reports, graphs, training."""

import json

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors import safe_open

from sr_quant_cli.commands.export import ExportRequest, export
from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.errors import UsageError
from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.from_graph import compile_graph
from sr_quant_cli.modelfiles.catalog import describe
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.quant.grids import encode
from sr_quant_cli.quant.layers import QuantConv2d
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.widths import NarrowBits
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.recipe.schema import QuantizeRecipe
from tests.commands.test_quantize import request
from tests.training.runs import entries, equal, weights

BODY = ("body.0.conv1", "body.0.conv2", "body.1.conv1", "body.1.conv2", "body_last")


def narrowed(model, photographs, run, *overrides, **changes):
    settings = {"method": "minmax", "w": "29L", "a": 6, "placement": "full"} | changes
    quantize(request(model, photographs, run, *overrides, **settings))
    return run / "model.safetensors"


@pytest.fixture
def model(tiny_model, photographs, tmp_path):
    return narrowed(tiny_model, photographs, tmp_path / "run")


def layers(network):
    return {name: layer for name, layer in network.named_modules() if type(layer) is QuantConv2d}


def test_a_file_has_the_levels_of_its_weights(model):
    network, header = load_model(model)
    assert network.quantization.bits == Bits(NarrowBits(29), 6)
    assert header.card.training[-1].recipe["bits"] == {"w": "29L", "a": 6}
    with safe_open(model, framework="pt") as file:
        stored = json.loads(file.metadata()["srq"])["quantization"]
        sizes = {name: file.get_tensor(f"{name}.weight_codes").numel() for name in BODY}
    assert (stored["w"], stored["a"]) == ("29L", 6)
    assert stored["sites"]["body.0.conv1"] == {"input": 6, "weight": "29L", "integer": True}
    assert stored["sites"]["head"] == {"input": 8, "weight": 8, "integer": True}
    assert set(sizes.values()) == {8 * 8 * 9 * 5 // 8}  # 5 bits a code
    for name in BODY:
        layer = layers(network)[name]
        codes = encode(layer.weight, layer.weight_quantizer.grid(layer.weight))
        assert (codes.min(), codes.max()) == (-14, 14)


def test_saved_levels_give_the_same_picture(model):
    packed, trainable = (
        load_model(model)[0],
        load_model(model.with_name("trainable.safetensors"))[0],
    )
    lr = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(packed(lr), trainable(lr))


def test_reports_name_the_levels(srq, model):
    _, out, _ = srq("info", model)
    assert "; w29La6\n" in out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert any(row.startswith("body.0.conv1 block_first 6 bits 29 levels (5 bits)") for row in rows)
    srq("info", model, "--json", model.with_name("info.json"))
    sites = json.loads(model.with_name("info.json").read_text())["quantization"]["sites"]
    site = next(site for site in sites if site["path"] == "body.0.conv1")
    assert (site["weight_bits"], site["weight_levels"], site["input_levels"]) == (5, 29, 64)
    named = describe("mine", identify(model))
    assert named.bits == "w29La6"
    assert dict(named.sites)["body.0.conv1"].weight == NarrowBits(29)
    operations = {each.name: each for each in count_operations(load_model(model)[0], 8, 8)}
    assert int(operations["body.0.conv1"].weight_bits) == 5


def test_runs_are_named_by_levels(tiny_model, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"w": "29L", "a": 6, "placement": "full"}
    quantize(request(tiny_model, photographs, None, **settings))
    assert (tmp_path / "runs/edsr-x2-minmax-w29La6-full/model.safetensors").is_file()


def test_graphs_have_the_codes_that_winograd_needs(model, tmp_path):
    export(ExportRequest(model=model, output=tmp_path / "m.onnx", io="uint8", full_range=True))
    graph = onnx.load(tmp_path / "m.onnx")
    constants = [numpy_helper.to_array(each) for each in graph.graph.initializer]
    kernels_3x3 = [c for c in constants if c.dtype == "int8" and c.shape[:2] == (8, 8)]
    assert [abs(c.astype(int)).max() for c in kernels_3x3] == [14] * len(BODY)
    if not kernels.missing():
        assert Executor(compile_graph(graph), 1).winograd_layers() == len(BODY)


def test_eight_bits_beside_them_stay_direct(tiny_model, photographs, tmp_path):
    run = tmp_path / "eight"
    model = narrowed(tiny_model, photographs, run, 'sites."body.1.conv2".weight=8')
    network, _ = load_model(model)
    assert [entry.site.path for entry in network.quantization.exceptions()] == ["body.1.conv2"]
    if not kernels.missing():
        export(ExportRequest(model=model, output=run / "m.onnx", io="uint8", full_range=True))
        program = compile_graph(onnx.load(run / "m.onnx"))
        assert Executor(program, 1).winograd_layers() == len(BODY) - 1


@pytest.mark.parametrize("method", ["2dquant", "pams"])
def test_training_keeps_the_levels_and_resumes_exactly(tiny_model, photographs, tmp_path, method):
    settings = {"method": method, "iters": 8}
    whole = narrowed(tiny_model, photographs, tmp_path / "a", "optim.lr=1e-3", **settings)
    for limit in (0.001, None):
        options = settings | {"max_time": limit}
        narrowed(tiny_model, photographs, tmp_path / "b", "optim.lr=1e-3", **options)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert entries(tmp_path / "a") == entries(tmp_path / "b")
    for layer in (layers(load_model(whole)[0])[name] for name in BODY):
        codes = encode(layer.weight, layer.weight_quantizer.grid(layer.weight))
        assert codes.abs().max() <= 14


def test_a_run_of_levels_is_repeated_by_its_recipe(tiny_model, photographs, tmp_path):
    narrowed(tiny_model, photographs, tmp_path / "a", "sites.head.weight=27L", iters=0)
    recipe = load_recipe(str(tmp_path / "a/recipe.toml"), (), QuantizeRecipe)
    assert (recipe.bits.w, recipe.sites.changes()) == (
        NarrowBits(29),
        {"head": {"weight": NarrowBits(27)}},
    )
    again = request(
        tiny_model, photographs, tmp_path / "b", w=None, a=None, method=None,
        recipe=str(tmp_path / "a/recipe.toml"),
    )  # fmt: skip
    quantize(again)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--w", "28L"],
            "--w 28L: must be 2 to 8 (bits), or an odd number from 3L to 255L (levels)",
        ),
        (
            ["--w", "29l"],
            "--w 29l: must be 2 to 8 (bits), or an odd number from 3L to 255L (levels)",
        ),
        (["--a", "300L"], "--a 300L: must be 2 to 8 (bits), or 3L to 256L (levels)"),
        (["--a", "four"], "--a four: must be 2 to 8 (bits), or 3L to 256L (levels)"),
        (
            ["--set", "sites.head=28L"],
            "sites.head.weight: must be 2 to 8 (bits), or an odd number ",
        ),
        (["--method", "daq", "--w", "29L"], "daq: 29L: has no levels; must be 2 to 8 (bits)"),
        (["--method", "adabm", "--a", "61L"], "adabm: 61L: has no levels; must be 2 to 8 (bits)"),
        (["--method", "cadyq", "--a", "61L"], "cadyq: --a 61L: selectors start at one of the "),
        (["--method", "granular_dq", "--a", "61L"], "granular_dq: --a 61L: bits are chosen among "),
    ],
)
def test_wrong_levels_are_refused_in_one_line(srq, tiny_model, photographs, arguments, message):
    method = [] if "--method" in arguments else ["--method", "minmax"]
    given = ["--data", photographs, "--iters", "0", "--run", photographs / "run"]
    code, out, err = srq("quantize", tiny_model, *method, *given, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"srq: error: {message}")
    assert err.count("\n") == 1
    assert not (photographs / "run").exists()


def test_a_file_with_wrong_levels_is_refused(model, tmp_path):
    raw = model.read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(
        raw.replace(b'\\"w\\":\\"29L\\"', b'\\"w\\":\\"2+L\\"')
    )
    with pytest.raises(UsageError, match=r"quantization\.w: must be 2 to 8 .bits., or 3L to 256L"):
        load_model(tmp_path / "bad.safetensors")
