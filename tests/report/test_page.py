"""The page of srq report, and plots: what they hold, and how they look in a browser."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from sr_quant_cli.commands.gather import Column, Setting, columns, count_models, gather
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.modelfiles.card import Card, SetScore
from sr_quant_cli.modelfiles.modelfile import save_model
from tests.helpers import picture, tiny_edsr
from tests.lowered import quantized_edsr

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


def scored(bench, psnr):
    return SetScore(
        **{"bench": bench, "images": 5, "scale": 2, "protocol": "matlab", "border": 2},
        **{"lr": "folder", "psnr": psnr, "ssim": 0.9},
    )


@pytest.fixture
def models(tmp_path):
    """A float and a quantized model, with scores in their cards."""
    save_model(
        tmp_path / "float.safetensors",
        tiny_edsr(),
        Card(name="<b>float</b>", scores=[scored("Set5", 31.25)]),
    )
    save_model(
        tmp_path / "q.safetensors",
        quantized_edsr("minmax", "full", 4),
        Card(name="q", scores=[scored("Set5", 30.5), scored("B100", 27.5)]),
    )
    return [tmp_path / "float.safetensors", tmp_path / "q.safetensors"]


@pytest.fixture
def reports(tmp_path):
    """Reports of srq eval and srq bench."""
    eval_rows = [
        {"model": "q", "bench": "Set5", "psnr": 30.75, "ssim": 0.91, "runtime": "torch"},
        {"model": "other", "bench": "Set5", "psnr": 29.0, "ssim": 0.8, "runtime": None},
        {"model": "other", "bench": "Set14", "psnr": None, "ssim": None, "runtime": None},
    ]
    bench_rows = [
        {
            **{"model": "q", "variant": f"{runtime} int8", "width": 320, "height": 180},
            **{"threads": 2, "median": seconds},
        }
        for runtime, seconds in (("srq", 0.1), ("openvino", 0.2))
    ]
    bench_rows.append({**bench_rows[0], "model": "<b>float</b>", "median": 0.3})
    (tmp_path / "e.json").write_text(json.dumps({"protocol": "matlab", "rows": eval_rows}))
    (tmp_path / "b.json").write_text(json.dumps({"rows": bench_rows, "scale": 2}))
    return [tmp_path / "e.json", tmp_path / "b.json"]


def test_reports_add_to_models_of_the_same_name(models, reports):
    float_, quantized, other = gather([*reports, *models])
    assert [s.name for s in (float_, quantized, other)] == ["<b>float</b>", "q", "other"]
    set5 = Column("Set5", 2, "matlab")
    assert float_.score(set5).psnr == 31.25
    assert quantized.score(set5).psnr == 30.75  # the report's, not the card's
    assert quantized.ms(Setting("320x180", 2)) == 100.0
    assert (float_.bits, quantized.bits, other.bits) == (32, 4, None)
    assert float_.bitops > quantized.bitops > 0
    assert {score.column.bench for score in other.scores} == {"Set5"}
    found = columns([float_, quantized, other])
    assert found[0] == set5
    assert sorted(str(each) for each in found[1:]) == ["B100 x2, matlab", "Set5 x0, matlab"]


def test_what_is_not_comparable_stands_apart(tmp_path):
    rows = [
        {"model": name, "bench": "Set5", "psnr": 30.0, "ssim": 0.9} for name in ("bicubic", "m")
    ]
    paths = []
    for scale, protocol in ((2, "matlab"), (4, "matlab"), (4, "daq")):
        paths.append(tmp_path / f"{scale}{protocol}.json")
        paths[-1].write_text(json.dumps({"protocol": protocol, "scale": scale, "rows": rows}))
    timed = {"model": "m", "variant": "srq", "width": 64, "height": 64, "threads": 1}
    times = [{**timed, "median": 0.2}, {**timed, "width": 32, "height": 32, "median": 0.05}]
    paths.append(tmp_path / "b.json")
    paths[-1].write_text(json.dumps({"rows": times}))
    found = gather(paths)
    wanted = ["Set5 x2, matlab", "Set5 x4, matlab", "Set5 x4, daq"]
    assert [str(column) for column in columns(found)] == wanted
    assert all(subject.score(column) for subject in found for column in columns(found))
    assert count_models(found) == 1
    (model,) = (subject for subject in found if subject.name == "m")
    assert model.ms(Setting("64x64", 1)) == 200.0
    assert model.ms(Setting("32x32", 1)) == 50.0


def test_scores_on_degraded_sets_stand_apart(models, reports):
    path = reports[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "degrade": "jpeg:75"}))
    _, quantized, _ = gather([*models, path])
    assert quantized.score(Column("Set5", 2, "matlab")).psnr == 30.5  # the card's
    assert quantized.score(Column("Set5 (jpeg:75)", 2, "matlab")).psnr == 30.75


def test_models_of_one_name_are_numbered(models):
    assert [s.name for s in gather([models[1], models[1]])] == ["q", "q (2)"]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"rows": []}', '{"rows": [{"model": 3}]}', '{"rows": [{}]}', "{" * 99999],
)
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match="is no report of srq eval or srq bench"):
        gather([tmp_path / "x.json"])


@pytest.fixture
def page(srq, models, reports, photographs, tmp_path):
    code, out, err = srq(
        *("report", *models, *reports, "-o", tmp_path / "r.html", "--title", "A & B"),
        *("--data", photographs, "--sensitivity", "--json", tmp_path / "r.json"),
    )
    assert code == 0, err
    assert "3 models" in out
    return (tmp_path / "r.html").read_text()


def test_the_page_holds_everything_and_needs_nothing(page, tmp_path):
    for expected in (
        *("A &amp; B", "&lt;b&gt;float&lt;/b&gt;", "w4a4", "31.25 / 0.9000", "30.75 / 0.9100"),
        *("Quality against bits, Set5", "Quality against time, Set5", "Where the loss comes from"),
        *("body.0.conv1, weight", "4 bits", "srq int8", "BT.601"),
    ):
        assert expected in page, expected
    assert "<b>float" not in page
    assert "27.50 / 0.9000" in page
    assert "Quality against bits, B100" not in page  # there is one model alone
    links = re.findall(r"""(?:src|href)=["']([^"']*)["']|url\(([^)]*)\)""", page)
    assert links
    for address in (first or second for first, second in links):
        assert address.startswith(("#", "data:image/png;base64,")), address[:80]
    assert "@import" not in page
    layers = json.loads((tmp_path / "r.json").read_text())["layers"]["q"]["layers"]
    assert page.count('class="chart"') == sum(len(layer["operands"]) for layer in layers)


def test_a_page_of_someone_else_is_kept(srq, models, tmp_path):
    (tmp_path / "r.html").write_text("<html>mine")
    code, _, err = srq("report", models[0], "-o", tmp_path / "r.html", "--no-layers")
    assert (code, (tmp_path / "r.html").read_text()) == (2, "<html>mine")
    assert "srq did not write it" in err


def test_a_large_picture_is_refused(srq, models, tmp_path):
    write_rgb(tmp_path / "large.png", np.zeros((600, 600, 3), np.uint8))
    code, _, err = srq(
        *("report", models[0], "--image", tmp_path / "large.png", "-o", tmp_path / "r.html"),
        "--no-layers",
    )
    assert code == 2
    assert "must have at most 262,144 pixels" in err
    assert not (tmp_path / "r.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver")
@pytest.mark.usefixtures("page")
def test_the_page_in_a_browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--disable-gpu"):
        options.add_argument(argument)
    if os.geteuid() == 0:  # Chromium's sandbox refuses the superuser
        options.add_argument("--no-sandbox")
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        grounds = set()
        for width, scheme in ((1200, "light"), (390, "dark")):
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
            )
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get((tmp_path / "r.html").as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            driver.save_screenshot(str(tmp_path / f"{scheme}.png"))
            grounds.add(tuple(read_rgb(tmp_path / f"{scheme}.png")[2, 2].tolist()))
        assert grounds == {(255, 255, 255), (20, 24, 31)}
        place = "return document.querySelector('.slider').style.getPropertyValue('--at')"
        driver.execute_script(
            "const bar = document.querySelector('.slider input'); bar.value = 20;"
            "bar.dispatchEvent(new Event('input'))"
        )
        assert driver.execute_script(place) == "20%"
        assert driver.get_log("browser") == []
    finally:
        driver.quit()


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plots_for_papers(srq, models, reports, tmp_path, suffix):
    output = tmp_path / f"p.{suffix}"
    for x in ("bits", "bytes", "ms", "bitops"):
        code, _, err = srq("plot", *models, *reports, "-o", output, "--x", x, "--y", "ssim")
        assert code == 0, err
        assert output.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "p.gif"), "a plot ends in .png, .svg, .pdf"),
        (("-o", "p.png", "--bench", "Set9"), "no scores on Set9 (they have Set5, B100)"),
        (
            ("-o", "p.png", "--x", "ms"),
            "no model with scores on Set5 x2, matlab has a time: name a --json report of srq bench",
        ),
        (("-o", "p.png", "--x", "step"), "no run folder with a log among these"),
    ],
)
def test_what_cannot_be_drawn_is_said(srq, models, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = srq("plot", *models, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "p.png").exists()


def test_curves_of_runs(srq, photographs, tmp_path):
    write_rgb(tmp_path / "lr.png", picture(12, 12))
    for name in ("a", "b"):
        code, _, err = srq(
            *("pretrain", "edsr", "--scale", 2, "--data", photographs, "--run", tmp_path / name),
            *("--set", "network.n_blocks=1", "--set", "network.n_feats=4"),
            *("--set", "train.iters=3", "--set", "train.batch=1", "--set", "data.patch_hr=16"),
            *("--set", "train.log_every=1", "--set", "validation.every=1"),
        )
        assert code == 0, err
    runs = (tmp_path / "a", tmp_path / "b")
    code, _, err = srq("plot", *runs, "-o", tmp_path / "curves.svg", "--x", "step")
    assert code == 0, err
    code, _, err = srq(
        *("report", *runs, "-o", tmp_path / "r.html", "--image", tmp_path / "lr.png")
    )
    assert code == 0, err
    html = (tmp_path / "r.html").read_text()
    assert "Recipe of edsr-x2" in html
    assert 'id="training"' in html
    assert ">HR<" not in html
