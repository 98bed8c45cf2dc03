"""Report at the end of ``srq quantize``: quality, size and speed, and layers left in float."""

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from sr_quant_cli.commands.calibrate import calibrate
from sr_quant_cli.commands.quantize_recipe import QuantizeRequest, resolve, run_name
from sr_quant_cli.commands.quantize_report import float_layers
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.recipe.schema import QuantizeRecipe
from tests.commands.test_quantize import SMALL
from tests.helpers import tiny_edsr

QUICK = [
    word
    for each in (*SMALL, "calibration.mix=false", "method.candidates=10")
    for word in ("--set", each)
]


def quantized(*changes):
    network = tiny_edsr()
    plain = [f"calibration.{step}=false" for step in ("equalize", "mix", "compensate")]
    request = QuantizeRequest(recipe="deploy", overrides=(*plain, *changes))
    recipe = resolve(request, network.config.model_dump(), "it")
    batches = [torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))]
    return calibrate(network, recipe, batches).student, recipe


def test_no_layer_is_left_in_float():
    assert list(float_layers(*quantized())) == []


def test_layers_in_float_have_a_reason():
    network, recipe = quantized(
        'sites."body.0.conv1"="fp32"', "sites.head={input='fp32', weight=8}", "sites.block='fp32'"
    )
    assert dict(float_layers(network, recipe)) == {
        "head": "sites.head of the recipe",
        "body.0.conv1": 'sites."body.0.conv1" of the recipe',
        "body.0.conv2": "sites.block of the recipe",
        "body.1.conv2": "sites.block of the recipe",
    }
    paper, recipe = quantized("sites={placement='paper'}", "method.variant='code'")
    reasons = dict(float_layers(paper, recipe))
    assert reasons["head"] == reasons["upsampler.0"] == "placement paper"
    assert "body.0.conv1" not in reasons


def test_layers_that_are_no_sites_are_told():
    network, recipe = quantized()
    network = deepcopy(network)
    network.before_upsampler = nn.Linear(3, 3)
    assert list(float_layers(network, recipe)) == [
        ("before_upsampler", "srq does not quantize such a layer")
    ]


@pytest.mark.slow
def test_the_command_reports(tiny_model, photographs, tmp_path, srq):
    run, report = tmp_path / "run", tmp_path / "report.json"
    command = ["quantize", tiny_model, "--data", photographs, "--run", run, "--json", report]
    code, out, _ = srq(*command, *QUICK, "--device", "cpu", "--threads", "1")
    assert code == 0
    found = json.loads(report.read_text())
    measured = found["report"]
    assert measured["protocol"] == "matlab"
    assert measured["photographs"] == 1
    assert measured["psnr_after"] == pytest.approx(found["validation_psnr"], abs=0.01)
    assert measured["bytes_before"] == tiny_model.stat().st_size
    assert measured["bytes_after"] == (run / "model.safetensors").stat().st_size
    baseline, *others = measured["times"]
    assert (baseline["runtime"], baseline["network"]) == ("onnxruntime", "float")
    assert baseline["ms"] > 0
    assert "onnxruntime" in [time["runtime"] for time in others if time["ms"]]
    assert all((time["ms"] is None) == bool(time["problem"]) for time in measured["times"])
    assert measured["float_layers"] == []
    assert f"file {measured['bytes_before']:,} -> {measured['bytes_after']:,} bytes" in out
    assert "7 of 7 layers and products are quantized" in out


def test_without_a_report_nothing_is_measured(tiny_model, photographs, tmp_path, srq):
    report = tmp_path / "report.json"
    command = ["quantize", tiny_model, "--data", photographs, "--run", tmp_path / "run"]
    code, out, _ = srq(*command, "--json", report, "--no-report", *QUICK, "--device", "cpu")
    assert code == 0
    assert "report" not in json.loads(report.read_text())
    assert "layers and products" not in out


def test_a_network_without_a_name_has_that_of_its_model():
    recipe = load_recipe("deploy", (), QuantizeRecipe)
    assert run_name(recipe, "my net/x4") == "my-net-x4-dobi-w8a8-full"
    assert run_name(recipe, "../") == "any-x4-dobi-w8a8-full"
    edsr = load_recipe("deploy-edsr", (), QuantizeRecipe)
    assert run_name(edsr, "mine") == "edsr-x4-dobi-w8a8-full"
