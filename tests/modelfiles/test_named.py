"""Files that names stand for."""

import sys
from pathlib import Path

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles import named as module
from sr_quant_cli.modelfiles.named import Source, identify, model_names
from sr_quant_cli.system.files import user_models_dir


@pytest.fixture(autouse=True)
def embedded(tmp_path, monkeypatch):
    """Two embedded models at x4, one at x2, in a folder beside the working one."""
    for folder in ("embedded", "here"):
        (tmp_path / folder).mkdir()
    for name in ("edsr-baseline-x4-w29a6", "edsr-small-x4-w8a8", "edsr-baseline-x2-w29a6"):
        (tmp_path / "embedded" / f"{name}.safetensors").touch()
    monkeypatch.setattr(module, "models_dir", lambda: tmp_path / "embedded")
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize(
    ("named", "scale", "file"),
    [
        (None, None, "edsr-baseline-x4-w29a6.safetensors"),
        (None, 2, "edsr-baseline-x2-w29a6.safetensors"),
        ("clean", None, "edsr-baseline-x4-w29a6.safetensors"),
        ("clean", 2, "edsr-baseline-x2-w29a6.safetensors"),
        (Path("fast"), None, "edsr-small-x4-w8a8.safetensors"),
        (Path("fast"), 4, "edsr-small-x4-w8a8.safetensors"),
    ],
)
def test_embedded_models_have_names(named, scale, file):
    assert identify(named, scale).path.name == file


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The user's folder, with a checkpoint, a graph, and files that are no models."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("carn.v2.pth", "tiny.onnx", "notes.txt", ".hidden.pt", "weights.bin"):
        (folder / name).touch()
    (folder / "folder.pt").mkdir()
    monkeypatch.setenv("SRQ_MODELS", str(folder))
    return folder


def test_the_users_models_have_names(mine):
    assert identify("carn.v2") == Source(mine / "carn.v2.pth", "checkpoint")
    assert identify("tiny", 4) == Source(mine / "tiny.onnx", "graph", 4)
    assert model_names()[-2:] == ["carn.v2", "tiny"]
    with pytest.raises(UsageError, match="no such model file: notes"):
        identify("notes.txt")


def test_embedded_names_cannot_be_taken_and_twins_are_refused(mine, tmp_path):
    (mine / "edsr-baseline-x2-w29a6.pt").touch()
    assert identify("edsr-baseline-x2-w29a6").kind == "checkpoint"  # an empty file of the package
    assert identify("edsr-baseline-x2-w29a6").path.parent == tmp_path / "embedded"
    (mine / "tiny.pt").touch()
    with pytest.raises(UsageError, match=r"tiny stands for .*tiny.onnx and .*tiny.pt: name the"):
        identify("tiny")


def test_embedded_models_do_not_need_the_users_folder(tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("SRQ_MODELS", str(tmp_path / "a file"))
    assert identify("edsr-baseline-x2-w29a6").path.parent == tmp_path / "embedded"
    with pytest.raises(UsageError, match=r"cannot read .*a file.*\(SRQ_MODELS\): Not a directory"):
        identify("mine")
    monkeypatch.setenv("SRQ_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="no such model file: mine; 'srq models list' shows"):
        identify("mine")


def test_the_folder_of_models_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("SRQ_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_models_dir().parts[-2:] == ("srq", "models")
    if sys.platform == "linux":
        assert user_models_dir() == tmp_path / "srq" / "models"


def test_a_bare_word_is_a_name_first_and_anything_else_a_path():
    Path("mine.onnx").touch()
    assert identify(Path("mine.onnx")) == Source(Path("mine.onnx"), "graph")
    Path("fast").touch()
    Path("unknown").touch()
    assert identify("fast").path.name == "edsr-small-x4-w8a8.safetensors"
    assert identify("./fast", 2) == Source(Path("fast"), "checkpoint", 2)
    assert identify("unknown") == Source(Path("unknown"), "checkpoint")


@pytest.mark.parametrize(
    ("named", "line"),
    [
        (
            "edsr-baseline-x3-w29a6",
            "; did you mean 'edsr-baseline-x4-w29a6'? 'srq models list' shows",
        ),
        ("fsat", "; did you mean 'fast'? 'srq models list' shows all names"),
        ("edsr-small-x4-w8a8.safetensors", "; did you mean 'edsr-small-x4-w8a8'? "),
        ("qqq", "; 'srq models list' shows all names"),
        ("qqq.onnx", ""),
        ("./fast", ""),
        ("a/fsat", ""),
    ],
)
def test_the_nearest_name_is_asked_about(named, line):
    with pytest.raises(UsageError) as caught:
        identify(named)
    text = str(caught.value)
    assert text.startswith(f"no such model file: {named}{line}")
    assert line or text.endswith(named)


def test_an_empty_name_is_refused():
    with pytest.raises(UsageError, match="name of a model is empty"):
        identify("")


@pytest.mark.parametrize(
    ("named", "scale", "line"),
    [
        (Path("fast"), 2, "no embedded model edsr-small-x2-w8a8.safetensors: x4 is there"),
        (None, 3, "no embedded model edsr-baseline-x3-w29a6.safetensors: x2, x4 is there"),
        (Path("fast"), 5, "`scale` 5: must be one of 2, 3, 4, 8"),
    ],
)
def test_what_is_not_there_is_one_line(named, scale, line):
    with pytest.raises(UsageError) as caught:
        identify(named, scale)
    assert str(caught.value) == line
