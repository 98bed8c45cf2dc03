"""From a float network over 8 bits to bits that follow the picture, in one command or in three."""

import pytest
import torch

from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.modelfile import load_model, read_header
from sr_quant_cli.recipe.load import load_recipe
from tests.commands.test_quantize import request
from tests.training.runs import equal, weights

SHORT = ("train.iters=6", "loss.feature_weight=1.0", "loss.block_weight=1.0")


def wanted(model, photographs, run, *overrides, **changes):
    settings = {"method": "cadyq", "w": None, "a": None} | changes
    return request(model, photographs, run, *SHORT, *overrides, **settings)


def test_all_stages_from_one_command(tiny_model, photographs, tmp_path):
    run = tmp_path / "run"
    report = quantize(wanted(tiny_model, photographs, run))
    assert report["complete"]
    assert report["steps"] == 6
    before = read_header(run / "pams/model.safetensors")
    assert before.quantization.method["name"] == "pams"
    # 30 thousand steps come before 300 thousand.
    assert [(t.task, t.steps) for t in before.card.training] == [("quantize", 1)]
    network, header = load_model(run / "model.safetensors")
    assert header.quantization.method["name"] == "cadyq"
    assert [t.steps for t in header.card.training] == [1, 6]
    with torch.no_grad():
        network(torch.rand(2, 3, 9, 7))
    assert network.bit_provider.chosen().shape == (2, 4)


def test_a_stage_serves_again(tiny_model, photographs, tmp_path):
    quantize(wanted(tiny_model, photographs, tmp_path / "run"))
    quantize(wanted(tmp_path / "run/pams", photographs, tmp_path / "other"))
    assert not (tmp_path / "other/pams").exists()
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "other"))
    # A model file stands for its run.
    packed = tmp_path / "run/pams/model.safetensors"
    quantize(wanted(packed, photographs, tmp_path / "third"))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "third"))


def test_interrupted_stages_go_on(tiny_model, photographs, tmp_path):
    quantize(wanted(tiny_model, photographs, tmp_path / "whole", "train.iters=20"))
    reports = []
    while not (reports and reports[-1]["complete"] and reports[-1]["steps"] == 20):
        limited = wanted(tiny_model, photographs, tmp_path / "run", "train.iters=20", max_time="1s")
        reports.append(quantize(limited))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_three_stages_of_cabm(tiny_model, photographs, tmp_path):
    run = tmp_path / "run"
    quantize(wanted(tiny_model, photographs, run, method="cabm"))
    assert [t.steps for t in read_header(run / "model.safetensors").card.training] == [6, 60, 6]
    assert (run / "cadyq/pams/model.safetensors").is_file()
    network, _ = load_model(run / "model.safetensors")
    table = network.bit_provider
    with torch.no_grad():
        network(torch.rand(1, 3, 12, 12))
    assert network.bit_provider.chosen()[0].tolist() == table.rows()[table.row[0]].tolist()


def test_a_network_that_is_not_embedded_is_trained_first(photographs, tmp_path):
    small = ("network.scale=2", "network.n_blocks=1", "network.n_feats=8", "data.patch_hr=24")
    recipe = "cadyq-srresnet"
    quantize(
        wanted(None, photographs, tmp_path / "run", *small, method=None, recipe=recipe, scale=2)
    )
    found = load_recipe(str(tmp_path / "run/pretrain/recipe.toml"))
    assert (found.network.name, found.network.activation) == ("srresnet", "shared")
    steps = [t.steps for t in read_header(tmp_path / "run/model.safetensors").card.training]
    assert steps == [10, 1, 6]


@pytest.mark.parametrize("recipe", ["cadyq-carn", "cadyq-idn", "cadyq-srresnet", "cadyq-edsr"])
def test_published_placements(recipe):
    from sr_quant_cli.commands.stages import choose_placement
    from sr_quant_cli.methods import build as build_method
    from sr_quant_cli.networks import build
    from sr_quant_cli.passes.apply import quantize_network
    from sr_quant_cli.quant.dynamic import dynamic_quantizers
    from sr_quant_cli.quant.plan import Bits

    found = load_recipe(recipe, ["network.scale=4"])
    network, method = build(found.network), build_method(found.method)
    quantize_network(network, method, choose_placement(found, method), Bits(8, 8))
    counts = {"cadyq-carn": 18, "cadyq-idn": 24, "cadyq-srresnet": 32, "cadyq-edsr": 32}
    assert len(dynamic_quantizers(network)) == counts[recipe]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("pams", "is quantized already, by pams; start from a full-precision model"),
        ("cabm", "by pams; start from a model quantized by cadyq"),
    ],
)
def test_a_model_that_a_method_does_not_start_from(
    tiny_model, photographs, tmp_path, method, message
):
    quantize(request(tiny_model, photographs, tmp_path / "a", *SHORT, method="pams", w=8, a=8))
    with pytest.raises(UsageError, match=message):
        quantize(wanted(tmp_path / "a", photographs, tmp_path / "b", method=method))


def test_packed_codes_alone_are_not_trained(tiny_model, photographs, tmp_path):
    quantize(request(tiny_model, photographs, tmp_path / "a", *SHORT, method="pams", w=8, a=8))
    (tmp_path / "a/trainable.safetensors").unlink()
    with pytest.raises(UsageError, match="holds packed codes"):
        quantize(wanted(tmp_path / "a", photographs, tmp_path / "b"))


def test_wrong_bits_are_one_line(tiny_model, photographs, tmp_path):
    with pytest.raises(UsageError, match="cadyq: --a 5: selectors start at"):
        quantize(wanted(tiny_model, photographs, tmp_path / "a", a=5))
    assert not (tmp_path / "a").exists()


def test_a_stage_of_another_method_is_refused_before_it_runs(tiny_model, photographs, tmp_path):
    wrong = 'before.quantize="daq-edsr"'
    with pytest.raises(UsageError, match="daq-edsr: is for daq; cadyq starts from pams"):
        quantize(wanted(tiny_model, photographs, tmp_path / "a", wrong))
    assert not (tmp_path / "a").exists()
