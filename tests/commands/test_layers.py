import json
from dataclasses import replace

import pytest
import torch

import sr_quant_cli.commands.layers as core
from sr_quant_cli.commands.layers import LayersRequest, layers
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.convert import to_pixels, to_tensor
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.loading import load
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.quant.quantizers import set_mode
from sr_quant_cli.report.layers import print_layers
from tests.lowered import quantized_edsr


@pytest.fixture
def quantized_model(tmp_path):
    path = tmp_path / "q.safetensors"
    save_model(path, quantized_edsr("minmax", "full", 4), Card(name="q"))
    return path


def test_layers_of_a_quantized_model(quantized_model, photographs):
    found = layers(LayersRequest(quantized_model, data=str(photographs), sensitivity=True))
    assert found.photographs == 6
    by_path = {layer.path: layer for layer in found.layers}
    convolution = by_path["body.0.conv1"]
    # 8 to 8 channels, 3 x 3, on 96 x 96 pixels.
    assert convolution.macs_counted == 96 * 96 * 8 * 8 * 9
    assert convolution.ms > 0
    assert [each.operand for each in convolution.operands] == ["weight", "input"]
    assert all(layer.ms is not None for layer in found.layers if layer.macs_counted)
    assert all(layer.operands for layer in found.layers)


@torch.no_grad()
def test_losses_are_beside_the_same_weights_without_quantizers(
    quantized_model, photographs, monkeypatch
):
    unquantized, _ = load(identify(quantized_model))
    set_mode(unquantized, "off")

    def with_its_output(lr, _hr, _scale, _side):
        return lr, to_pixels(unquantized(to_tensor(lr[None], torch.device("cpu"))))[0]

    monkeypatch.setattr(core, "central_crop", with_its_output)
    found = layers(LayersRequest(quantized_model, data=str(photographs), sensitivity=True))
    for layer in found.layers:
        if any(each.operand == "input" for each in layer.operands):
            assert layer.drop > 0.002
        else:  # weights are levels in the file already
            assert layer.drop == pytest.approx(0, abs=0.001)


def test_layers_of_a_float_model(tiny_model, photographs):
    found = layers(LayersRequest(tiny_model, data=str(photographs)))
    assert [layer.path for layer in found.layers][:2] == ["head", "body.0.conv1"]
    assert all(layer.ms > 0 and layer.macs_counted > 0 for layer in found.layers)
    assert all(layer.operands == () and layer.drop is None for layer in found.layers)
    with pytest.raises(UsageError, match="needs a quantized model"):
        layers(LayersRequest(tiny_model, data=str(photographs), sensitivity=True))


def test_the_command_prints_and_writes_them(srq, quantized_model, photographs, tmp_path):
    code, out, err = srq(
        *("info", quantized_model, "--layers", "--data", photographs),
        *("--json", tmp_path / "i.json"),
    )
    assert code == 0, err
    report = json.loads((tmp_path / "i.json").read_text())
    assert report["file"].endswith("q.safetensors")
    (layer,) = (x for x in report["measured"]["layers"] if x["path"] == "body.1.conv2")
    sqnr = next(each["sqnr"] for each in layer["operands"] if each["operand"] == "input")
    line = next(line for line in out.splitlines() if "body.1.conv2" in line and "weight" in line)
    assert "4 bits" in line
    assert f"{sqnr:.1f}" in out
    assert "loss dB" not in out
    assert srq("info", quantized_model)[1] in out


def test_a_loss_that_rounds_to_nothing_has_no_sign(quantized_model, photographs, capsys):
    found = layers(LayersRequest(quantized_model, data=str(photographs)))
    gained = [replace(layer, drop=-0.0004) for layer in found.layers]
    print_layers(replace(found, layers=tuple(gained)))
    out = capsys.readouterr().out
    assert " 0.000" in out
    assert "-0.000" not in out
