"""``srq compare`` and ``srq upscale --preview``."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from tests.helpers import nearest_onnx, picture, tiny_edsr
from tests.imaging.test_sheet import places


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with an HR picture, its LR picture, and two models."""
    monkeypatch.chdir(tmp_path)
    hr = picture(96, 120)
    write_rgb(tmp_path / "hr.png", hr)
    write_rgb(tmp_path / "lr.png", downscale(hr, 2))
    save_model(tmp_path / "tiny.safetensors", tiny_edsr(), Card(name="tiny"))
    nearest_onnx(tmp_path / "nearest.onnx")
    return tmp_path


FAST = ("--runtime", "torch", "--threads", 1)


def test_scores_are_those_of_eval_under_the_named_protocol(srq, here):
    write_rgb(here / "data/Set5/HR/a.png", read_rgb(here / "hr.png"))
    write_rgb(here / "data/Set5/LR_bicubic/X2/ax2.png", read_rgb(here / "lr.png"))
    for protocol in ("matlab", "rgb"):
        measured = ("--protocol", protocol)
        code, _, err = srq(
            "eval",
            "tiny.safetensors",
            "--bench",
            "Set5",
            "--data-root",
            "data",
            *measured,
            "--json",
            "e.json",
        )
        assert code == 0, err
        code, out, err = srq(
            *("compare", "lr.png", "--hr", "hr.png", "--models", "tiny.safetensors", *FAST),
            *(*measured, "--json", "c.json"),
        )
        assert code == 0, err
        rows = json.loads((here / "e.json").read_text())["rows"]
        report = json.loads((here / "c.json").read_text())
        assert report["protocol"] == protocol
        for row, compared in zip(rows, report["rows"], strict=True):
            assert compared["model"] == row["model"]
            assert compared["psnr"] == pytest.approx(row["psnr"], abs=1e-3)
            assert compared["ssim"] == pytest.approx(row["ssim"], abs=1e-4)
            assert f"{compared['psnr']:.2f} / {compared['ssim']:.4f}" in out
        assert report["sheet"] == "lr_x2_compare.png"


def test_the_sheet_shows_bicubic_first_and_hr_last(srq, here):
    code, _, err = srq(
        *("compare", "hr.png", "--downscale", "--models", "tiny.safetensors", *FAST),
        *("--crop", "20,10,30,24", "-o", "s.png"),
    )
    assert code == 0, err
    sheet = read_rgb(here / "s.png")
    from sr_quant_cli.data.bicubic import enlarge

    hr = read_rgb(here / "hr.png")
    part = (slice(10, 34), slice(20, 50))
    ((_, first),) = places(sheet, enlarge(downscale(hr, 2), 2)[part])
    ((_, last),) = places(sheet, hr[part])
    assert last - first > 400


def test_without_hr_nothing_is_measured(srq, here):
    code, out, err = srq("compare", "lr.png", "--models", "./nearest.onnx,nearest.onnx")
    assert code == 0, err
    assert "PSNR" not in out
    assert out.startswith("lr.png -> lr_x2_compare.png  crop ")


def test_own_figures_are_replaced_and_others_kept(srq, here):
    command = ("compare", "lr.png", "--models", "nearest.onnx")
    assert srq(*command)[0] == 0
    assert srq(*command)[0] == 0
    write_rgb(here / "lr_x2_compare.png", picture(8, 8))
    code, _, err = srq(*command)
    assert (code, "srq did not write it" in err) == (2, True)
    (here / "mine.svg").write_text("mine")
    code, _, err = srq(*command, "-o", "mine.svg")
    assert (code, "use --overwrite" in err) == (2, True)
    assert (here / "mine.svg").read_text() == "mine"
    assert srq(*command, "-o", "mine.svg", "--overwrite")[0] == 0


def test_models_of_one_name_are_numbered(srq, here):
    models = ",".join(["tiny.safetensors"] * 3)
    assert srq("compare", "lr.png", "--models", models, *FAST, "--json", "c.json")[0] == 0
    rows = json.loads((here / "c.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["bicubic", "tiny", "tiny (2)", "tiny (3)"]


def test_the_range_is_for_foreign_graphs_alone(srq, here):
    """A network that adds nothing shows no range, so its bias is 51 levels of white 255."""
    graph = onnx.load(here / "nearest.onnx")
    graph.graph.initializer.append(numpy_helper.from_array(np.full(12, 51, np.float32), "b"))
    graph.graph.node[0].input.append("b")
    onnx.save(graph, here / "brighter.onnx")
    write_rgb(here / "grey.png", np.full((12, 12, 3), 100, np.uint8))
    code, _, err = srq(
        *("compare", "grey.png", "--models", "tiny.safetensors,brighter.onnx", "--range", "255"),
        *("--crop", "0,0,8,8", "-o", "s.png", "--threads", 1),
    )
    assert code == 0, err
    assert len(places(read_rgb(here / "s.png"), np.full((16, 16, 3), 151, np.uint8))) > 0


@pytest.mark.parametrize("command", [("compare", "lr.png", "--models"), ("eval",)])
def test_scales_that_differ_are_refused_before_a_model_is_opened(srq, here, monkeypatch, command):
    def opened(*_arguments):
        raise AssertionError("a model was opened")

    for module in ("compare", "evaluate"):
        monkeypatch.setattr(f"sr_quant_cli.commands.{module}.open_model", opened)
    models = ("tiny.safetensors", "edsr-baseline-x4")
    code, out, err = srq(*command, *([",".join(models)] if "--models" in command else models))
    told = "srq: error: model edsr-baseline-x4 enlarges by 4, not by 2\n"
    assert (code, out, err) == (2, "", told)


def test_a_place_without_room_is_refused_before_a_model_is_opened(srq, here, monkeypatch):
    monkeypatch.setattr("sr_quant_cli.commands.compare.open_model", None)
    code, out, err = srq("compare", "lr.png", "--models", "nearest.onnx", "-o", "hr.png/s.png")
    assert (code, out) == (2, "")
    assert "is no folder" in err


WRONG = [
    (("lr.png", "--models", "tiny.safetensors", "--range", "255"), "--range 255: only for graph"),
    (
        ("lr.png", "--models", "tiny.safetensors,fast", "--runtime", "torch"),
        "enlarges by 4, not by 2",
    ),
    (("lr.png", "--models", "nearest.onnx,"), "the name of a model is empty"),
    (("lr.png", "--models", "fsat"), "did you mean 'fast'?"),
    (("lr.png", "--hr", "lr.png", "--models", "nearest.onnx"), "lr.png: 60x48 is not 1/2 of"),
    (("hr.png", "--hr", "hr.png", "--downscale"), "--hr hr.png: with --downscale the picture"),
    (("lr.png", "--models", "nearest.onnx", "--crop", "1,2,3"), "--crop 1,2,3: must be X,Y,W,H"),
    (("lr.png", "--models", "nearest.onnx", "--crop", "100,0,30,30"), "--crop 100,0,30,30: goes"),
    (("lr.png", "--crop", "0,0,2000,1"), "no side may be longer than 1024 pixels"),
    (("none.png", "--models", "nearest.onnx"), "none.png"),
    (("lr.png", "--models", "nearest.onnx", "-o", "a.jpg"), "a figure ends in .png, .svg, .pdf"),
    (("lr.png", "--models", "nearest.onnx", "-o", "lr.png"), "an input of this command"),
    (("lr.png", "--protocol", "matlb"), "did you mean 'matlab'?"),
    (("small.png", "--downscale", "--models", "nearest.onnx"), "is too small at x2"),
]


@pytest.mark.parametrize(("arguments", "expected"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_what_cannot_be_compared_is_one_line(srq, here, arguments, expected):
    write_rgb(here / "small.png", picture(12, 12))
    before = sorted(path.name for path in here.iterdir())
    code, out, err = srq("compare", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert expected in err
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize("more", [(), ("--region", "8,6,40,30"), ("--scale", "1.5x1")])
def test_a_preview_shows_a_part_before_and_after(srq, here, more):
    command = ("upscale", "lr.png", "--model", "nearest.onnx", "-o", "out.png", "--preview", *more)
    code, out, err = srq(*command, "--json", "r.json")
    assert code == 0, err
    assert out.endswith("lr.png -> out_preview.png\n")
    (entry,) = json.loads((here / "r.json").read_text())["pictures"]
    assert entry["preview"] == "out_preview.png"
    sheet = read_rgb(here / "out_preview.png")
    if not more:
        # Nearest neighbour before and after, so both panels show the same.
        crops = [sheet[30:200, -300:-60]]
        assert any(len(places(sheet, crop)) == 2 for crop in crops)
    code, _, err = srq(*command)
    assert (code, "exists; use --overwrite" in err) == (2, True)


def test_drawings_are_not_enlarged_in_a_folder(srq, here, tmp_path):
    folder = tmp_path / "folder"
    write_rgb(folder / "a.png", picture(24, 30))
    assert srq("upscale", folder, "--model", "nearest.onnx", "--preview")[0] == 0
    assert srq("compare", folder / "a.png", "--models", "nearest.onnx")[0] == 0
    code, _, _ = srq("upscale", folder, "--model", "nearest.onnx", "--overwrite")
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.png",
        "a_x2.png",
        "a_x2_compare.png",
        "a_x2_preview.png",
    ]


def test_a_preview_needs_a_place(srq, here):
    code, _, err = srq("upscale", "lr.png", "--model", "nearest.onnx", "-o", "-", "--preview")
    assert (code, "--preview: not with standard output" in err) == (2, True)
