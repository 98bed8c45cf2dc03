import csv
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from sr_quant_cli.commands.evaluate import EvalRequest, Evaluation, evaluate, set_scores
from sr_quant_cli.commands.scoring import (
    distinct,
    folder_candidate,
    model_candidate,
    score_candidates,
)
from sr_quant_cli.data.benchmark import find_set
from sr_quant_cli.data.bicubic import downscale, enlarge
from sr_quant_cli.data.degrade import CLEAN, parse_degradations
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.inference.upscaler import BicubicUpscaler
from sr_quant_cli.metrics import get_protocol, score
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.system.files import write_json
from tests.helpers import nearest_onnx, open_path, picture, tiny_edsr

MATLAB = get_protocol("matlab")


@pytest.fixture
def small_set(tmp_path):
    for index in range(3):
        write_rgb(tmp_path / "Set5" / "HR" / f"p{index}.png", picture(40, 45, seed=index))
    return find_set("Set5", 2, tmp_path)


def test_a_row_is_the_mean_over_pictures(small_set):
    (result,) = score_candidates([model_candidate(BicubicUpscaler(2))], [small_set], MATLAB)
    expected = []
    for pair in small_set.pairs:
        lr, hr = pair.load(2)
        expected.append(score(enlarge(lr, 2), hr, 2, MATLAB))
    assert result.psnr == pytest.approx(np.mean([s.psnr for s in expected]))
    assert result.ssim == pytest.approx(np.mean([s.ssim for s in expected]))
    assert [p.name for p in result.pictures] == ["p0", "p1", "p2"]


def test_degraded_pictures_are_those_of_a_seed_by_their_names(small_set):
    rows = [model_candidate(BicubicUpscaler(2))]
    clean, jpeg, again = (
        score_candidates(rows, [small_set], MATLAB, degradations)[0]
        for degradations in (CLEAN, *2 * (parse_degradations("noise:5,jpeg:40"),))
    )
    assert jpeg.psnr < clean.psnr - 0.5
    assert [p.psnr for p in jpeg.pictures] == [p.psnr for p in again.pictures]
    alone = replace(small_set, pairs=small_set.pairs[1:2])
    (one,) = score_candidates(rows, [alone], MATLAB, parse_degradations("noise:5,jpeg:40"))
    assert one.pictures[0].psnr == jpeg.pictures[1].psnr


@pytest.mark.usefixtures("small_set")
def test_degradations_are_told_in_their_order(srq, tmp_path):
    code, out, err = srq(
        *("eval", "edsr-baseline-x2", "--bench", "Set5", "--data-root", tmp_path),
        *("--degrade", "jpeg:75,noise:5", "--csv", tmp_path / "e.csv"),
    )
    assert code == 0, err
    assert "LR degraded: noise:5,jpeg:75" in out
    lines = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    assert {line["degrade"] for line in lines} == {"noise:5,jpeg:75"}


def test_degraded_scores_are_not_recorded():
    with pytest.raises(UsageError, match="as they are, not degraded"):
        evaluate(EvalRequest(models=("fast",), bench="Set5", degrade="jpeg:50", record=True))


def test_a_folder_of_results_is_scored_by_its_names(small_set, tmp_path):
    for pair, ending in zip(small_set.pairs, ("", "_x2", "x2"), strict=True):
        _, hr = pair.load(2)
        worse = hr.copy()
        worse[::2] ^= 1
        write_rgb(tmp_path / "mine" / "Set5" / f"{pair.name}{ending}.png", worse)
    (result,) = score_candidates([folder_candidate(tmp_path / "mine")], [small_set], MATLAB)
    assert 48 < result.psnr < 56


def test_results_that_equal_their_pictures_are_no_number_in_json(small_set, tmp_path):
    for pair in small_set.pairs:
        write_rgb(tmp_path / "mine" / f"{pair.name}.png", pair.load(2)[1])
    results = score_candidates([folder_candidate(tmp_path / "mine")], [small_set], MATLAB)
    evaluation = Evaluation(tuple(results), (small_set,), MATLAB)
    write_json(tmp_path / "r.json", evaluation.to_json())
    written = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert written["rows"][0]["psnr"] is None
    assert written["rows"][0]["ssim"] == 1
    # A model's card holds finite figures alone.
    assert set_scores(evaluation, "mine") == []


def test_a_missing_or_wrong_result_is_named(small_set, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        folder_candidate(tmp_path / "none")
    folder = tmp_path / "mine"
    for pair in small_set.pairs[:2]:
        write_rgb(folder / f"{pair.name}.png", pair.load(2)[1])
    with pytest.raises(UsageError, match="no picture of p2"):
        score_candidates([folder_candidate(folder)], [small_set], MATLAB)
    write_rgb(folder / "p2.png", picture(20, 20))
    with pytest.raises(UsageError, match=r"p2.*20x20"):
        score_candidates([folder_candidate(folder)], [small_set], MATLAB)


def test_scale_8_is_measured_without_an_embedded_model(srq, tmp_path):
    hr = picture(96, 96)
    write_rgb(tmp_path / "Set5/HR/p.png", hr)
    write_rgb(tmp_path / "sr/p_x8_SR.png", enlarge(downscale(hr, 8), 8))
    where = ("--scale", 8, "--bench", "Set5", "--data-root", tmp_path)
    code, out, err = srq("eval", *where)
    assert code == 0
    assert "no embedded model enlarges by 8: bicubic alone" in err
    assert "bicubic" in out
    assert "x8, protocol matlab, border 8 px" in out
    code, out, _ = srq("eval", *where, "--sr-dir", tmp_path / "sr", "--json", tmp_path / "r.json")
    assert code == 0
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["bicubic", "sr"]
    assert rows[0]["psnr"] == rows[1]["psnr"]


def test_an_onnx_file_is_run_as_it_says(tmp_path):
    for runtime in ("auto", "onnxruntime", "openvino"):
        upscaler = open_path(nearest_onnx(tmp_path / "n.onnx"), runtime=runtime)
        lr = picture(7, 5)
        assert (upscaler.name, upscaler.scale) == ("n.onnx", 2)
        assert np.array_equal(upscaler(lr), lr.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_onnx_file_that_is_no_rgb_network_is_refused(tmp_path, runtime):
    (tmp_path / "bad.onnx").write_text("no")
    grey = nearest_onnx(tmp_path / "grey.onnx", channels=1)
    two = nearest_onnx(tmp_path / "two.onnx", inputs=2)
    for path, message in [
        (tmp_path / "bad.onnx", r"bad\.onnx is no readable"),
        (tmp_path / "none.onnx", "no such model file"),
        (grey, r"grey\.onnx: needs one input, .* it has float32 \[\?, 1, \?, \?\]"),
        (two, "two.onnx: needs one input"),
    ]:
        with pytest.raises(UsageError, match=message) as refused:
            open_path(path, runtime=runtime)
        assert "\n" not in str(refused.value)


def test_the_report_says_how_it_was_measured(small_set):
    candidates = distinct([model_candidate(BicubicUpscaler(2))] * 2)
    results = score_candidates(candidates, [small_set], MATLAB)
    evaluation = Evaluation(tuple(results), (small_set,), MATLAB)
    document = json.loads(json.dumps(evaluation.to_json()))
    assert document["protocol"] == "matlab"
    assert document["border"] == document["scale"] == 2
    assert document["sets"] == {"Set5": {"images": 3, "lr": "bicubic"}}
    assert [row["model"] for row in document["rows"]] == ["bicubic", "bicubic (2)"]
    (card_score,) = set_scores(evaluation, "bicubic (2)")
    assert card_score.images == 3
    assert card_score.psnr == pytest.approx(results[1].psnr, abs=1e-4)


@pytest.mark.usefixtures("small_set")
def test_models_are_compared_with_the_first(srq, tmp_path, tiny_model):
    other = tmp_path / "other.safetensors"
    save_model(other, tiny_edsr(seed=5), Card(name="other"))
    data = ("--bench", "Set5", "--data-root", tmp_path)
    code, out, _ = srq(
        *("eval", tiny_model, other, *data, "--per-image"),
        *("--csv", tmp_path / "e.csv", "--json", tmp_path / "e.json"),
    )
    assert code == 0
    report = json.loads((tmp_path / "e.json").read_text())
    bicubic, first, second = report["rows"]
    assert report["reference"] == first["model"] == "tiny"
    assert [row["psnr_difference"] for row in (bicubic, first)] == [None, None]
    difference = second["psnr"] - first["psnr"]
    assert second["psnr_difference"] == pytest.approx(difference, abs=2e-4)
    assert f"({difference:+.2f})" in out
    lines = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    assert [(line["model"], line["picture"]) for line in lines[4:8]] == [
        ("tiny", "p0"),
        ("tiny", "p1"),
        ("tiny", "p2"),
        ("tiny", "mean"),
    ]
    assert float(lines[5]["psnr"]) == first["pictures"][1]["psnr"]
    assert float(lines[7]["psnr"]) == first["psnr"]
    seconds = [float(line["seconds"]) for line in lines[4:8]]
    assert seconds[3] == pytest.approx(np.mean(seconds[:3]), abs=0.001)
    assert {(line["scale"], line["protocol"], line["degrade"]) for line in lines} == {
        ("2", "matlab", "")
    }
    for scored in first["pictures"]:  # the table of pictures
        assert f"{scored['psnr']:.2f} / " in out


@pytest.mark.usefixtures("small_set")
def test_a_table_that_srq_did_not_write_is_kept(srq, tmp_path, tiny_model):
    (tmp_path / "mine.csv").write_text("a,b\n")
    data = ("--bench", "Set5", "--data-root", tmp_path)
    for command in (("eval", *data, "--csv"), ("bench", "--csv"), ("bench", "--markdown")):
        code, out, err = srq(*command, tmp_path / "mine.csv", tiny_model)
        assert (code, out) == (2, "")  # before any work
        assert err.startswith(f"srq: error: {command[-1]}: {tmp_path / 'mine.csv'} exists, and")
    assert (tmp_path / "mine.csv").read_text() == "a,b\n"


def test_bicubic_on_real_pictures_gives_the_published_figure(real_data):
    (result,) = score_candidates(
        [model_candidate(BicubicUpscaler(4))], [find_set("Set5", 4, real_data)], MATLAB
    )
    assert result.psnr == pytest.approx(28.42, abs=0.02)
    assert result.ssim == pytest.approx(0.8104, abs=0.001)
    assert result.lr_origin == "folder"
    assert read_rgb(real_data / "benchmark/Set5/HR/baby.png").shape == (512, 512, 3)


def test_a_row_of_self_ensemble_has_a_name_and_scores_of_its_own(
    srq, small_set, tiny_model, tmp_path
):
    options = ("--bench", "Set5", "--data-root", tmp_path, "--json", tmp_path / "r.json")
    code, _, err = srq("eval", tiny_model, "--self-ensemble", *options)
    assert (code, err) == (0, "")
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["bicubic", "tiny+"]
    upscaler = open_path(tiny_model, self_ensemble=True)
    scores = [score(upscaler(lr), hr, 2, MATLAB) for lr, hr in (p.load(2) for p in small_set.pairs)]
    assert rows[1]["psnr"] == pytest.approx(np.mean([s.psnr for s in scores]), abs=1e-3)
    alone = model_candidate(open_path(tiny_model))
    assert rows[1]["psnr"] != score_candidates([alone], [small_set], MATLAB)[0].psnr


def test_the_range_of_a_foreign_graph_reaches_it(srq, small_set, tmp_path):
    # Adds 0.4: much where white is 1, nothing where it is 255.
    model = onnx.load(nearest_onnx(tmp_path / "n.onnx"))
    model.graph.node[-1].output[0] = "n"
    model.graph.node.append(onnx.helper.make_node("Add", ["n", "a"], ["y"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.4), "a"))
    onnx.save(model, tmp_path / "n.onnx")
    figures = []
    for white in ("1", "255"):
        options = ("--bench", "Set5", "--data-root", tmp_path, "--json", tmp_path / "r.json")
        assert srq("eval", tmp_path / "n.onnx", "--range", white, *options)[0] == 0
        figures.append(json.loads((tmp_path / "r.json").read_text())["rows"][1]["psnr"])
    assert figures[1] > figures[0] + 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--self-ensemble", "--record"), "--record: stores scores of the model alone, not its"),
        (("--range", "255"), "--range 255: only for graph files"),
        (("--self-ensemble", "--patchwise"), "--self-ensemble: not with patches (--patchwise)"),
    ],
)
def test_options_that_exclude_each_other_are_refused(srq, tiny_model, tmp_path, arguments, message):
    code, out, err = srq("eval", tiny_model, "--bench", "Set5", "--data-root", tmp_path, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
