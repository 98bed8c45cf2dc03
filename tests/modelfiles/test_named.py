"""Files that names stand for."""

from pathlib import Path

import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles import named as module
from sr_quant_cli.modelfiles.named import Source, identify


@pytest.fixture(autouse=True)
def embedded(tmp_path, monkeypatch):
    """Two embedded models at x4, one at x2, in a folder beside the working one."""
    for folder in ("embedded", "here"):
        (tmp_path / folder).mkdir()
    for name in ("edsr-baseline-x4-w8a8", "edsr-small-x4-w8a8", "edsr-baseline-x2-w8a8"):
        (tmp_path / "embedded" / f"{name}.safetensors").touch()
    monkeypatch.setattr(module, "models_dir", lambda: tmp_path / "embedded")
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize(
    ("named", "scale", "file"),
    [
        (None, None, "edsr-baseline-x4-w8a8.safetensors"),
        (None, 2, "edsr-baseline-x2-w8a8.safetensors"),
        (Path("fast"), None, "edsr-small-x4-w8a8.safetensors"),
        (Path("fast"), 4, "edsr-small-x4-w8a8.safetensors"),
    ],
)
def test_embedded_models_have_names(named, scale, file):
    assert identify(named, scale).path.name == file


def test_a_file_comes_before_the_name():
    Path("mine.onnx").touch()
    assert identify(Path("mine.onnx")) == Source(Path("mine.onnx"), "graph")
    Path("fast").touch()
    assert identify("fast", 2) == Source(Path("fast"), "checkpoint", 2)


@pytest.mark.parametrize(
    ("named", "scale", "line"),
    [
        (Path("fast"), 2, "no embedded model edsr-small-x2-w8a8.safetensors: x4 is there"),
        (None, 3, "no embedded model edsr-baseline-x3-w8a8.safetensors: x2, x4 is there"),
        (Path("fast"), 5, "`scale` 5: must be one of 2, 3, 4, 8"),
    ],
)
def test_what_is_not_there_is_one_line(named, scale, line):
    with pytest.raises(UsageError) as caught:
        identify(named, scale)
    assert str(caught.value) == line
