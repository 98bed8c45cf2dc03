import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.commands.quantize_recipe import QuantizeRequest, default_recipe, resolve
from sr_quant_cli.commands.scoring import model_candidate, score_candidates
from sr_quant_cli.data.benchmark import find_set
from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import build, method_names
from sr_quant_cli.metrics import get_protocol
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.checkpoints import import_checkpoint
from sr_quant_cli.modelfiles.modelfile import load_model, read_header, save_model
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.networks import build as build_network
from sr_quant_cli.networks import network_names
from sr_quant_cli.quant.sites import Operands
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.recipe.schema import QuantizeRecipe
from tests.helpers import open_path, picture, tiny_swinir
from tests.tiny import network_config
from tests.training.runs import entries, equal, weights

SMALL = (
    "data.patch_hr=24",
    "calibration.patch_lr=12",
    "calibration.images=4",
    "calibration.batch=2",
    "train.batch=2",
    "train.log_every=2",
    "train.checkpoint_every=3",
    "train.precision=fp32",
    "validation.every=4",
    "validation.crop_hr=32",
)


def request(model, photographs, run, *overrides, **changes):
    settings = {"method": "minmax", "w": 4, "a": 4} | changes
    return QuantizeRequest(
        model=model,
        data=str(photographs),
        run_dir=run,
        overrides=(*SMALL, *overrides),
        device="cpu",
        threads=1,
        **settings,
    )


def test_calibration_alone_gives_a_model_that_enlarges(tiny_model, photographs, tmp_path):
    ended = quantize(request(tiny_model, photographs, tmp_path / "run"))
    assert ended.complete
    assert ended.run.steps == 0
    assert ended.run.validation_psnr > 5
    network, header = load_model(tmp_path / "run/model.safetensors")
    assert header.quantization.method["name"] == "minmax"
    assert header.card.training[-1].task == "quantize"
    assert header.card.training[-1].started_from == "tiny"
    with torch.no_grad():
        assert network(torch.rand(1, 3, 9, 7)).shape == (1, 3, 18, 14)


@pytest.mark.slow
def test_training_lowers_the_loss_and_resumes_exactly(tiny_model, photographs, tmp_path):
    long = ("optim.lr=1e-3", "loss.feature_weight=0.0")
    quantize(request(tiny_model, photographs, tmp_path / "a", *long, method="pams", iters=40))
    losses = [entry["loss"] for entry in entries(tmp_path / "a") if "loss" in entry]
    assert losses[-1] < losses[0]
    for limit in (0.001, 0.001, None):
        quantize(
            request(
                tiny_model,
                photographs,
                tmp_path / "b",
                *long,
                method="pams",
                iters=40,
                max_time=limit,
            )
        )
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert entries(tmp_path / "a") == entries(tmp_path / "b")


def test_the_log_names_every_loss(tiny_model, photographs, tmp_path):
    quantize(request(tiny_model, photographs, tmp_path / "run", method="pams", iters=2))
    first = next(entry for entry in entries(tmp_path / "run") if "loss" in entry)
    assert first["loss"] == pytest.approx(first["pixel"] + first["feature"], abs=1e-4)
    assert first["feature"] > 0


def test_iters_scale_the_schedule_and_set_does_not(tiny_model, photographs, tmp_path):
    quantize(request(tiny_model, photographs, tmp_path / "scaled", method="pams", iters=3))
    recipe = load_recipe(str(tmp_path / "scaled/recipe.toml"))
    assert (recipe.train.iters, recipe.schedule.every) == (3, 1)
    quantize(request(tiny_model, photographs, tmp_path / "set", "train.iters=3", method="pams"))
    recipe = load_recipe(str(tmp_path / "set/recipe.toml"))
    assert (recipe.train.iters, recipe.schedule.every) == (3, 10_000)


def test_the_recipe_in_the_run_folder_repeats_the_run(tiny_model, photographs, tmp_path):
    quantize(request(tiny_model, photographs, tmp_path / "a", method="pams", iters=5))
    again = QuantizeRequest(
        model=tiny_model, recipe=str(tmp_path / "a/recipe.toml"), run_dir=tmp_path / "b"
    )
    quantize(again)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_the_patch_keeps_its_side_in_lr(tiny_model, photographs, tmp_path):
    for index in range(3):
        from sr_quant_cli.imaging.io import write_rgb

        write_rgb(photographs / f"large{index}.png", picture(120, 120, seed=index))
        (photographs / f"p{index}.png").unlink()
    for index in range(3, 6):
        (photographs / f"p{index}.png").unlink()
    wanted = QuantizeRequest(
        model=tiny_model,
        data=str(photographs),
        run_dir=tmp_path / "run",
        method="minmax",
        overrides=("calibration.patch_lr=12",),
    )
    quantize(wanted)
    recipe = load_recipe(str(tmp_path / "run/recipe.toml"))
    assert (recipe.network.scale, recipe.data.patch_hr) == (2, 96)


def test_sites_that_are_set_are_saved_with_the_model(tiny_model, photographs, tmp_path):
    sites = ("sites.upsampler=int8", "sites.block_first.input=fp32")
    quantize(request(tiny_model, photographs, tmp_path / "run", *sites, w=3))
    network, header = load_model(tmp_path / "run/model.safetensors")
    assert header.quantization.placement["upsampler"] == Operands("int8", "int8")
    assert header.quantization.placement["block_first"] == Operands("fp32", "low")
    assert network.upsampler[0].input_quantizer.bits == 8
    assert isinstance(network.body[0].conv1.input_quantizer, nn.Identity)
    assert network.body[0].conv1.weight_quantizer.bits == 3


def test_a_site_with_bits_of_its_own_stays_so_when_a_run_goes_on(tiny_model, photographs, tmp_path):
    sites = ('sites."body.1.conv2".weight=5', 'sites."body.1.conv2".input=6')
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    first = request(tiny_model, photographs, whole, *sites, method="pams", iters=20)
    quantize(first)
    for limit in (0.001, None):
        quantize(replace(first, run_dir=halves, max_time=limit))
    recipe = load_recipe(str(halves / "recipe.toml"), (), QuantizeRecipe)
    assert recipe.sites.changes() == {"body.1.conv2": {"weight": 5, "input": 6}}
    network, header = load_model(halves / "model.safetensors")
    entry = header.quantization.sites["body.1.conv2"]
    assert (entry.input, entry.weight) == (6, 5)
    assert network.body[1].conv2.weight_quantizer.bits == 5
    assert equal(weights(halves), weights(whole))


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (
            '"body.1.conv9"=5',
            r'sites\."body\.1\.conv9": no such site .*; did you mean body\.1\.conv2',
        ),
        ('"body.1.skip".weight=5', r'sites\."body\.1\.skip"\.weight: .* have an input alone'),
        ("linear=5", r"sites\.linear: no such site in this network; it has head"),
    ],
)
def test_a_site_that_is_not_there_ends_a_run_before_it_begins(
    tiny_model, photographs, tmp_path, site, message
):
    with pytest.raises(UsageError, match=message):
        quantize(request(tiny_model, photographs, tmp_path / "run", f"sites.{site}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("placement", "wanted"), [("paper", "fp32"), ("full", "low")])
def test_what_a_recipe_sets_for_the_paper_does_not_hold_at_full(
    photographs, tmp_path, placement, wanted
):
    save_model(model := tmp_path / "swinir.safetensors", tiny_swinir(), Card(name="tiny"))
    quantize(request(model, photographs, tmp_path / "run", placement=placement))
    placed = load_model(tmp_path / "run/model.safetensors")[1].quantization.placement
    assert (placed["block"].input, placed["block"].weight) == (wanted, wanted)


def test_a_site_that_the_network_does_not_have_is_refused(tiny_model, photographs, tmp_path):
    with pytest.raises(
        UsageError, match=r"^sites\.linear: no such site in this network; it has head, blo"
    ):
        quantize(request(tiny_model, photographs, tmp_path / "run", "sites.linear=low"))
    assert not (tmp_path / "run").exists()


def test_a_copied_recipe_is_edited_and_used(srq, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert srq("recipes", "copy", "daq-edsr", "my.toml")[0] == 0
    mine = Path("my.toml")
    mine.write_text(mine.read_text().replace("qq = 4", "qq = 8").replace("batch = 16", "batch = 2"))
    small = [part for override in SMALL for part in ("--set", override)]
    command = ("quantize", tiny_model, "--recipe", "my.toml", "--set", "train.iters=2", *small)
    code, out, err = srq(*command, "--data", "sample", "--json", "report.json")
    assert (code, err) == (0, "")
    assert "step 2 of 2" in out
    assert json.loads(Path("report.json").read_text())["steps"] == 2
    model = Path("runs/edsr-x2-daq-w4a4/model.safetensors")
    assert read_header(model).quantization.method["qq"] == 8
    code, out, _ = srq("info", model)
    assert code == 0
    assert "daq, variant corrected, qq 8; w4a4" in out
    mine.write_text(mine.read_text().replace("qq = 8", "qq = 9"))
    code, _, err = srq(*command, "--data", "sample", "--run", "other")
    assert code == 2
    assert err == ("srq: error: my.toml: method.qq = 9: must be 2, 3, 4, 5, 6, 7, 8 or 32\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "overrides", "caution"),
    [
        (
            {"method": "pams", "w": 2, "a": 2},
            (),
            "three levels at 2 bits, two after ReLU: block_in input, block_first weight, block ",
        ),
        ({"method": "pams", "a": 2}, (), "two after ReLU: block_in input, block input, block_out"),
        ({"method": "pams"}, (), ""),
        ({"w": 2}, (), ""),
        ({"w": 2, "placement": "full"}, (), "after ReLU: block_first weight, block weight, body_"),
        ({"method": "ddtb"}, (), ""),
        ({"method": "ddtb"}, ("method.variant=code",), "ddtb at w4a4: bounds start at -10 and 10"),
        ({"method": "ddtb", "a": 2}, ("method.variant=code",), ""),
        ({"iters": 1}, (), "minmax has no training of its own: 1 steps"),
    ],
)
def test_cautions(tiny_model, photographs, tmp_path, capsys, changes, overrides, caution):
    settings = {"iters": 0} | changes
    quantize(request(tiny_model, photographs, tmp_path / "run", *overrides, **settings))
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == bool(caution)
    assert caution in "".join(told)


def test_a_quantized_model_is_not_quantized_again(tiny_model, photographs, tmp_path):
    quantize(request(tiny_model, photographs, tmp_path / "run"))
    with pytest.raises(UsageError, match="is quantized already"):
        quantize(request(tmp_path / "run/model.safetensors", photographs, tmp_path / "again"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "pasm"}, "did you mean 'pams'"),
        ({"w": 9}, "^`w` 9: must be 2 to 8 "),
        ({"a": 1}, "^`a` 1: must be 2 to 8 "),
        ({"w": "28L"}, "^`w` 28L: must be 2 to 8 .*, or an odd number from 3L to 255L "),
        ({"method": "daq", "w": "29L"}, "^daq: 29L: has no levels; must be 2 to 8 .bits.$"),
        ({"method": "cadyq", "a": "61L"}, "^cadyq: `a` 61L: selectors start at one of "),
        ({"iters": 10**10}, "^`iters` 10000000000: must be 0 to 1000000000$"),
        ({"scale": 3}, "enlarges by 2, not by 3"),
        ({"recipe": "pretrain-edsr"}, "is for 'srq pretrain'"),
        ({"recipe": "pams-edsr"}, "is for pams, not for minmax"),
        ({"iters": -1}, "^`iters` -1: must be 0 to "),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    tiny_model, photographs, tmp_path, changes, message
):
    with pytest.raises(UsageError, match=message):
        quantize(request(tiny_model, photographs, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", r"^`overrides` seed=1: unknown key, did you mean recipe\.seed\?$"),
        ("data.patch_hr=25", r"^`overrides` data\.patch_hr=25: must be a multiple of the scale"),
        ("sites.dense_in=low", r"^sites\.dense_in: no such site in this network"),
    ],
)
def test_wrong_fields_are_refused_by_what_was_typed(
    tiny_model, photographs, tmp_path, override, message
):
    with pytest.raises(UsageError, match=message):
        quantize(request(tiny_model, photographs, tmp_path / "run", override))
    assert not (tmp_path / "run").exists()


def test_pictures_too_small_to_calibrate_on_name_the_field(tiny_model, photographs, tmp_path):
    with pytest.raises(UsageError) as caught:
        quantize(request(tiny_model, photographs, tmp_path / "run", "calibration.patch_lr=22"))
    assert str(caught.value) == (
        "p1.png (26x21) of 5 training pictures: in LR smaller than a patch of 22x22; "
        "lower calibration.patch_lr, or remove them"
    )


def test_a_run_folder_stands_for_its_model(tiny_model, photographs, tmp_path):
    run = tmp_path / "run"
    quantize(request(tiny_model, photographs, run))
    assert identify(run).path == run / "model.safetensors"
    (run / "model.safetensors").unlink()
    for folder, message in ((run, "a run that has no model yet"), (tmp_path, "no run folder")):
        with pytest.raises(UsageError, match=rf"^{folder} is {message}: model\.safetensors is not"):
            identify(folder)


@pytest.mark.parametrize(
    ("recipes", "advice"),
    [
        (["daq-carn", "daq-idn", "pams-edsr"], "copy daq-carn or daq-idn with"),
        (["pams-rdn", "pams-edsr"], "copy pams-edsr with"),
        (["pams-rdn"], "copy another with"),
    ],
)
def test_a_method_without_a_recipe_says_what_to_copy(monkeypatch, recipes, advice):
    module = "sr_quant_cli.commands.quantize_recipe"
    monkeypatch.setattr(f"{module}.recipe_names", lambda: recipes)
    monkeypatch.setattr(f"{module}.has_recipe", recipes.__contains__)
    with pytest.raises(UsageError, match=f"^no recipe of daq for edsr: {advice}"):
        default_recipe("daq", {"name": "edsr"})


@pytest.mark.parametrize(
    ("network", "name"), [("edsr", "deploy-edsr"), ("quantsr_c", "deploy"), ("idn", "deploy")]
)
def test_without_a_method_the_recipe_for_deployment_is_taken(network, name):
    assert default_recipe(None, {"name": network}) == name
    config = network_config(network, scale=3)
    recipe = resolve(QuantizeRequest(w=6), config.model_dump(), "it")
    assert recipe.recipe.name == name
    assert recipe.network == config
    assert (recipe.bits.w, recipe.bits.a, recipe.sites.placement) == (6, 8, "full")
    assert recipe.data.patch_hr == 144


@pytest.mark.parametrize("network", ["idn", "swinir_light"])
def test_the_recipe_for_deployment_fits_other_networks(network, photographs, tmp_path):
    model, run = tmp_path / "it.safetensors", tmp_path / "run"
    torch.manual_seed(0)
    save_model(model, build_network(network_config(network)), Card(name="it"))
    settings = {"method": None, "w": None, "a": None, "report": False}
    ended = quantize(request(model, photographs, run, "method.candidates=10", **settings))
    made, header = load_model(ended.model)
    assert header.quantization.method["name"] == "dobi"
    assert all(site.input_bits == 8 for site in made.quantization.sites if site.site.kind == "tail")
    # The recipe in the run folder is one for this network, and repeats the run.
    recipe = str(run / "recipe.toml")
    quantize(QuantizeRequest(model=model, recipe=recipe, run_dir=tmp_path / "b", report=False))
    assert load_recipe(str(run / "recipe.toml")).network.name == network
    assert equal(weights(run), weights(tmp_path / "b"))


def recipe_or_advice(method, network):
    try:
        return load_recipe(default_recipe(method, {"name": network, "n_feats": 64}))
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize("network", network_names())
def test_every_method_has_a_recipe_or_says_what_to_copy(network):
    for method in method_names():
        found = recipe_or_advice(method, network)
        if isinstance(found, str) and network != "edsr":
            assert re.match(rf"no recipe of {method} for {network}: copy \S+ ", found)
            continue
        assert isinstance(found, QuantizeRecipe)
        assert found.method.name == method
        assert build(found.method).trains == (found.train.iters > 0)


def test_a_network_made_from_edsr_has_its_recipes():
    network = {"name": "quantsr_c", "n_feats": 64}
    names = {method: default_recipe(method, network) for method in method_names()}
    assert names.pop("quantsr") == "quantsr-quantsr_c"
    assert names == {method: f"{method}-edsr" for method in names}
    assert default_recipe("pams", network | {"n_feats": 128}) == "pams-edsr-full"


def test_frozen_groups_are_not_trained(tiny_model, photographs, tmp_path):
    frozen = ("optim.lr=0.0", "loss.feature_weight=0.0")
    quantize(request(tiny_model, photographs, tmp_path / "run", *frozen, method="pams", iters=30))
    trained, _ = load_model(tmp_path / "run/trainable.safetensors")
    start, _ = load_model(tiny_model)
    assert torch.equal(trained.body[0].conv1.weight, start.body[0].conv1.weight)
    log = (tmp_path / "run/log.jsonl").read_text().splitlines()
    assert "validation_psnr" in json.loads(log[-1])
    assert read_header(tmp_path / "run/model.safetensors").quantization.w == 4


PREPARED = (
    "calibration.equalize=true",
    "calibration.mix=true",
    "calibration.compensate=true",
    "sites.placement=full",
)


@pytest.mark.slow
def test_prepared_student_resumes_exactly(tiny_model, photographs, tmp_path):
    def run(name, limit=None):
        return request(
            tiny_model,
            photographs,
            tmp_path / name,
            *PREPARED,
            "optim.lr=1e-3",
            method="2dquant",
            iters=6,
            max_time=limit,
        )

    quantize(run("a"))
    for limit in (0.001, None):
        quantize(run("b", limit))
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert entries(tmp_path / "a") == entries(tmp_path / "b")


def test_teacher_of_an_equalized_student_has_its_features(tiny_model, photographs, tmp_path):
    # At 8 bits student and teacher differ by rounding alone, if their channels have one scale.
    eight = request(
        tiny_model,
        photographs,
        tmp_path / "run",
        "calibration.equalize=true",
        "loss.feature=normalized",
        "loss.feature_weight=1e6",
        method="2dquant",
        w=8,
        a=8,
        iters=1,
    )
    quantize(eight)
    first = next(entry for entry in entries(tmp_path / "run") if "loss" in entry)
    assert first["feature"] < 1


def test_rounding_is_not_compensated_without_found_ranges(tiny_model, photographs, tmp_path):
    with pytest.raises(UsageError, match=r"go without: `overrides` calibration\.compensate=false"):
        quantize(
            request(
                tiny_model,
                photographs,
                tmp_path / "run",
                "calibration.compensate=true",
                method="pams",
            )
        )


@pytest.mark.slow
def test_published_network_keeps_its_quality_at_8_bits(real_data, tmp_path):
    network, *_ = import_checkpoint(real_data / "checkpoints/edsr_f64b5_fp32_x2.safetensors")
    save_model(tmp_path / "float.safetensors", network, Card())
    (tmp_path / "photos").mkdir()
    for photo in sorted((real_data / "photos").glob("*.webp"))[::20]:
        (tmp_path / "photos" / photo.name).symlink_to(photo)
    quantize(
        QuantizeRequest(
            model=tmp_path / "float.safetensors",
            recipe="deploy-edsr",
            w=8,
            a=8,
            data=str(tmp_path / "photos"),
            run_dir=tmp_path / "run",
            overrides=(
                "validation.max_images=1",
                "calibration.images=32",
                "calibration.batch=32",
            ),
        )
    )
    models = [tmp_path / "float.safetensors", tmp_path / "run/model.safetensors"]
    before, after = score_candidates(
        [model_candidate(open_path(model, precision="fp32")) for model in models],
        [find_set("Set5", 2, real_data)],
        get_protocol("matlab"),
    )
    assert before.psnr == pytest.approx(37.652, abs=0.002)
    assert after.psnr > before.psnr - 0.2
