"""Sites at higher precision until the drop of PSNR is within a limit."""

import math
import re

import pytest
import torch

from sr_quant_cli.commands import max_drop
from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.commands.quantize_recipe import QuantizeRequest
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.quant.plan import SiteBits
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.recipe.load import load_recipe
from tests.commands.test_quantize import SMALL
from tests.helpers import tiny_edsr
from tests.training.runs import equal, weights

SENSITIVE = ("sites.head={input=2, weight=8}", "sites.long_skip=3")
"""Two sites with far too few levels: 4 for the picture, 8 for its copy around the body."""


@pytest.fixture
def copying_model(tmp_path):
    """A model file of an EDSR that repeats the nearest pixel; its blocks add nothing."""
    network = tiny_edsr()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for channel in range(3):
            network.head.weight[channel, channel, 1, 1] = 1
            network.tail.weight[channel, channel, 1, 1] = 1
            for part in range(4):
                network.upsampler[0].weight[4 * channel + part, channel, 1, 1] = 1
    path = tmp_path / "copying.safetensors"
    save_model(path, network, Card(name="copying"))
    return path


def request(model, photographs, run, *overrides, **changes):
    settings = {"max_drop": 0.1, "report": False} | changes
    plain = [f"calibration.{step}=false" for step in ("equalize", "mix", "compensate")]
    return QuantizeRequest(
        model=model,
        data=str(photographs),
        run_dir=run,
        overrides=(*SMALL, *plain, "method.candidates=20", *overrides),
        device="cpu",
        threads=1,
        **settings,
    )


def test_the_sites_that_lose_most_are_raised_first(copying_model, photographs, tmp_path, capsys):
    run = tmp_path / "run"
    quantize(request(copying_model, photographs, run, *SENSITIVE))
    told = capsys.readouterr().err
    steps = re.findall(r"(\S+) \((\w+)\) from (.+?) to (.+?): (-?[\d.]+) dB", told)
    assert [step[:4] for step in steps[:2]] == [
        ("head", "head", "weight 8 bits, input 2 bits", "8 bits"),
        ("long_skip", "long_skip", "3 bits", "8 bits"),
    ]
    first, *_, last = re.findall(r": (-?[\d.]+) dB", told)
    assert float(first) > 1
    assert float(last) <= 0.1
    # The model and its recipe say it, and the recipe alone gives the same model.
    sites = load_recipe(str(run / "recipe.toml")).sites
    assert sites.changes()["long_skip"] == "int8"
    network, _ = load_model(run / "model.safetensors")
    bits = {entry.site.path: entry.input_bits for entry in network.quantization.sites}
    assert (bits["head"], bits["long_skip"]) == (8, 8)
    again = QuantizeRequest(
        model=copying_model,
        recipe=str(run / "recipe.toml"),
        run_dir=tmp_path / "again",
        report=False,
    )
    quantize(again)
    assert equal(weights(run), weights(tmp_path / "again"))


def test_a_limit_that_holds_changes_nothing(copying_model, photographs, tmp_path):
    quantize(request(copying_model, photographs, tmp_path / "run", max_drop=3.0))
    recipe = load_recipe(str(tmp_path / "run/recipe.toml"))
    assert recipe.sites.changes() == {}


def test_a_limit_that_cannot_be_met_is_told(copying_model, photographs, tmp_path, monkeypatch):
    float_first = iter([30.0])
    monkeypatch.setattr(max_drop, "validation_psnr", lambda *_: next(float_first, 29.0))
    with pytest.raises(FailedError, match=r"`max_drop` 0\.1: cannot be met: 1\.000 dB are lost"):
        quantize(request(copying_model, photographs, tmp_path / "run"))
    assert not (tmp_path / "run/model.safetensors").exists()


def test_a_search_that_is_interrupted_says_how_to_go_on(
    copying_model, photographs, tmp_path, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(max_drop, "validation_psnr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize(request(copying_model, photographs, tmp_path / "run"))
    assert "run the same command again to start over" in "".join(capsys.readouterr())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_limits_that_are_none_are_refused(copying_model, photographs, tmp_path, limit):
    with pytest.raises(UsageError, match=r"`max_drop` \S+: must be a number of dB above 0"):
        quantize(request(copying_model, photographs, tmp_path / "run", max_drop=limit))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "pams", "iters": 5}, "without training: add `iters` 0"),
        ({"method": "cadyq", "iters": 0}, "cadyq has bits that follow the picture"),
    ],
)
def test_what_is_not_just_calibrated_is_refused(
    copying_model, photographs, tmp_path, changes, message
):
    with pytest.raises(UsageError, match=message):
        quantize(
            QuantizeRequest(
                model=copying_model,
                data=str(photographs),
                run_dir=tmp_path / "run",
                overrides=SMALL,
                max_drop=0.1,
                **changes,
            )
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("entry", "precision"),
    [
        (SiteBits(Site("c", "block", 8), 4, 4), {"input": "int8", "weight": "int8"}),
        (SiteBits(Site("c", "block", 8), 8, 4), {"input": "int8", "weight": "int8"}),
        (SiteBits(Site("c", "block", 8), 32, 4), {"input": "fp32", "weight": "int8"}),
        (SiteBits(Site("c", "block", 8), 4, 4, given=True), {"input": 4, "weight": "int8"}),
        (SiteBits(Site("c", "block", 8), 4, 8, given=True), "fp32"),
        (SiteBits(Site("c", "block", 8), 8, 8), "fp32"),
        (SiteBits(Site("t", "block_in", 8), 6, 0), "int8"),
        (SiteBits(Site("t", "block_in", 8), 8, 0), "fp32"),
        (SiteBits(Site("p", "matmul", 8), 4, 0), "int8"),
    ],
)
def test_the_next_precision(entry, precision):
    assert max_drop._raised(entry) == precision
