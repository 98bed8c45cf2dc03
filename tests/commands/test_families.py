"""Embedded models for clean pictures, for photographs and for speed: which one serves a picture."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sr_quant_cli.commands.scaled_models import ScaledModels
from sr_quant_cli.imaging.decode import read_header
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.modelfiles import named
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from tests.helpers import picture, tiny_edsr

TORCH = ("--runtime", "torch", "--threads", 1)
EMBEDDED = {
    "edsr-baseline-x2-w29a6": 2,
    "edsr-baseline-x4-w29a6": 4,
    "edsr-photo-x4-w29a6": 4,
    "edsr-small-x4-w8a8": 4,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a PNG and a JPEG, and embedded models of its own beside it."""
    for folder in ("embedded", "here"):
        (tmp_path / folder).mkdir()
    for seed, (name, scale) in enumerate(EMBEDDED.items()):
        path = tmp_path / "embedded" / f"{name}.safetensors"
        save_model(path, tiny_edsr(scale, seed), Card(name=name))
    monkeypatch.setattr(named, "models_dir", lambda: tmp_path / "embedded")
    monkeypatch.chdir(tmp_path / "here")
    write_rgb(Path("p.png"), picture(12, 14))
    Image.fromarray(picture(12, 14)).save("p.jpg", quality=75)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "png", "jpg"),
    [
        ((), "edsr-baseline-x4-w29a6", "edsr-photo-x4-w29a6"),
        (("--scale", 2), "edsr-baseline-x2-w29a6", "edsr-photo-x4-w29a6"),
        (("--model", "clean"), "edsr-baseline-x4-w29a6", "edsr-baseline-x4-w29a6"),
        (("--model", "photo"), "edsr-photo-x4-w29a6", "edsr-photo-x4-w29a6"),
        (("--model", "fast", "--scale", 2), "edsr-small-x4-w8a8", "edsr-small-x4-w8a8"),
    ],
)
def test_jpeg_takes_the_model_for_photographs_by_itself(here, srq, options, png, jpg):
    for suffix, model in (("png", png), ("jpg", jpg)):
        code, _, err = srq(
            "upscale", f"p.{suffix}", "--overwrite", *options, *TORCH, "--json", f"{suffix}.json"
        )
        assert code == 0, err
        assert json.loads(Path(f"{suffix}.json").read_text())["model"] == model
        told = suffix == "jpg" and "--model" not in options
        assert ("compressed JPEG: the model for photographs is used; --model clean" in err) == told


def test_a_folder_has_a_model_for_each_kind_and_one_note(here, srq):
    Path("all").mkdir()
    for name in ("p.png", "q.jpg", "r.jpg"):
        Image.fromarray(picture(10, 10)).save(Path("all", name))
    code, _, err = srq("upscale", "all", "--scale", 2, *TORCH, "--json", "all.json")
    assert code == 0, err
    assert err.count("compressed JPEG: ") == 1
    models = json.loads(Path("all.json").read_text())["model"]
    assert sorted(models.split(", ")) == ["edsr-baseline-x2-w29a6", "edsr-photo-x4-w29a6"]


def test_without_a_model_for_photographs_jpeg_is_clean(here):
    (here / "embedded" / "edsr-photo-x4-w29a6.safetensors").unlink()
    assert ScaledModels().family_for(50) == "clean"


@pytest.mark.parametrize("command", ["upscale", "info", "eval", "bench"])
def test_a_family_without_a_model_is_refused_by_name(here, srq, command):
    (here / "embedded" / "edsr-photo-x4-w29a6.safetensors").unlink()
    arguments = ("p.png", "--model", "photo") if command == "upscale" else ("photo",)
    code, _, err = srq(command, *arguments)
    assert (code, err) == (
        2,
        "srq: error: no embedded model photo; 'srq models list' shows all names\n",
    )


def test_jpeg_is_told_by_the_content(here):
    Path("p.jpg").rename("really.png")
    assert read_header(Path("really.png")).jpeg_quality == 75
    assert read_header(Path("p.png")).jpeg_quality is None


@pytest.mark.parametrize("quality", [30, 50, 75, 84, 85, 95, 100])
def test_the_quality_of_jpeg_decides(here, quality):
    Image.fromarray(picture(40, 40)).save("q.jpg", quality=quality)
    assert read_header(Path("q.jpg")).jpeg_quality == pytest.approx(quality, abs=1)
    family = ScaledModels().family_for(read_header(Path("q.jpg")).jpeg_quality)
    assert family == ("photo" if quality < 85 else "clean")
