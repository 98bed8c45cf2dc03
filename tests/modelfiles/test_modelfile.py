import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.modelfiles.card import Card, SetScore
from sr_quant_cli.modelfiles.modelfile import (
    load_model,
    pack_model,
    read_header,
    record_scores,
    save_model,
)
from tests.helpers import tiny_edsr


def a_score(psnr: float, bench: str = "Set5") -> SetScore:
    return SetScore(
        bench=bench,
        images=5,
        scale=2,
        protocol="matlab",
        border=2,
        lr="folder",
        psnr=psnr,
        ssim=0.9,
    )


def test_a_model_comes_back_as_it_was(tiny_model):
    network, header = load_model(tiny_model)
    x = torch.rand(1, 3, 6, 5)
    assert torch.equal(network(x), tiny_edsr()(x))
    assert network.config == tiny_edsr().config
    assert header.card.name == "tiny"
    assert not network.training


def test_half_precision_halves_the_file_and_rounds_relatively(tiny_model, tmp_path):
    packed = tmp_path / "half.safetensors"
    pack_model(tiny_model, packed, {"licence": "MIT"}, half=True)
    whole, half = load_file(tiny_model), load_file(packed)
    for key, value in whole.items():
        assert half[key].dtype == torch.float16
        assert ((half[key].float() - value).abs() <= value.abs() * 2**-11 + 2**-25).all()
    network, header = load_model(packed)
    assert header.card.licence == "MIT"
    assert next(network.parameters()).dtype == torch.float32


def test_recorded_scores_replace_those_of_the_same_set(tiny_model):
    record_scores(tiny_model, [a_score(30.0), a_score(27.0, "Set14")])
    record_scores(tiny_model, [a_score(31.0)])
    scores = {score.bench: score.psnr for score in read_header(tiny_model).card.scores}
    assert scores == {"Set5": 31.0, "Set14": 27.0}
    load_model(tiny_model)


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "text", "truncated", "foreign", "directory"]
)
def test_a_file_that_is_no_model_is_refused_in_one_line(tiny_model, tmp_path, damage):
    path = tmp_path / "bad.safetensors"
    match damage:
        case "empty":
            path.touch()
        case "text":
            path.write_text("not a model at all, only text of some length")
        case "truncated":
            path.write_bytes(tiny_model.read_bytes()[:-100])
        case "foreign":
            save_file({"a": torch.zeros(2)}, path)
        case "directory":
            path.mkdir()
    with pytest.raises(UsageError, match=r"bad\.safetensors") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"name": "edsr", "scale": 2, "n_blocks": 3, "n_feats": 8, "res_scale": 1.0}},
        {"network": {"name": "edsr", "scale": 7}},
        {"network": {"name": "nothing"}},
        {"format": 99},
    ],
)
def test_a_header_that_does_not_fit_is_refused(tiny_model, change):
    with safe_open(tiny_model, framework="pt") as file:
        header = json.loads(file.metadata()["srq"])
    tensors = load_file(tiny_model)
    save_file(tensors, tiny_model, metadata={"srq": json.dumps(header | change)})
    with pytest.raises(UsageError) as caught:
        load_model(tiny_model)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tiny_model, monkeypatch):
    before = tiny_model.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sr_quant_cli.modelfiles.modelfile.save_file", full)
    with pytest.raises(FailedError, match="No space left"):
        save_model(tiny_model, tiny_edsr(), Card())
    assert tiny_model.read_bytes() == before
    assert [path.name for path in tiny_model.parent.iterdir()] == [tiny_model.name]
