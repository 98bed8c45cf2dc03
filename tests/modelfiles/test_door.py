"""A model that a user names is looked at once, and its header is read once more to load it."""

import pytest

from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.modelfiles import modelfile, named
from tests.helpers import picture


@pytest.fixture
def looks(monkeypatch, tiny_model):
    """Counts how often the model file is identified, and how often its header is read."""
    counts = {"identified": 0, "header": 0}

    def count(module, name, what):
        usual = getattr(module, name)

        def counting(path, *more):
            counts[what] += path == tiny_model
            return usual(path, *more)

        monkeypatch.setattr(module, name, counting)

    count(named, "_is_model_file", "identified")
    count(modelfile, "read_header", "header")
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_eval_looks_at_a_model_once(srq, looks, tiny_model, tmp_path, runtime):
    write_rgb(tmp_path / "data/Set5/HR/a.png", picture(40, 40))
    command = ("eval", tiny_model, "--bench", "Set5", "--data-root", tmp_path / "data")
    assert srq(*command, "--runtime", runtime)[0] == 0
    assert looks == {"identified": 1, "header": 1}


@pytest.mark.slow
def test_upscale_looks_at_a_model_once(srq, looks, tiny_model, tmp_path):
    write_rgb(tmp_path / "a.png", picture(12, 17))
    command = ("upscale", tmp_path / "a.png", "--model", tiny_model, "--overwrite")
    assert srq(*command, "--runtime", "onnxruntime")[0] == 0
    assert looks == {"identified": 1, "header": 1}
    # A prepared graph needs no header.
    assert srq(*command, "--runtime", "onnxruntime")[0] == 0
    assert looks == {"identified": 2, "header": 1}


@pytest.mark.parametrize("command", ["info", "export", "bench"])
def test_other_commands_do_too(srq, looks, tiny_model, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    options = {"bench": ("--size", "16x16", "--runs", 1, "--threads", 1)}
    code, _, err = srq(command, tiny_model, *options.get(command, ()))
    assert code == 0, err
    assert looks == {"identified": 1, "header": 1}
