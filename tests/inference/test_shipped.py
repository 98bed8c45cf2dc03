"""Programs that come with model files: nothing is traced, raced or imported but them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sr_quant_cli.commands.pack import add_program
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.inference import graph_cache, tiled
from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.runtimes.program import ProgramRuntime
from sr_quant_cli.system.files import cache_dir
from tests.helpers import open_path, picture
from tests.modelfiles.test_programs import quantized

VECTORS = [name for name in kernels.available() if name != kernels.PORTABLE]
pytestmark = pytest.mark.skipif(not VECTORS, reason="the kernels have no vectors here")

OTHERS = {"onnx", "onnxruntime", "openvino", "pydantic", "torch"}
"""packages of other runtimes, and one that takes as long to import as a small picture"""
SLOW = {"PIL.Image", "filelock", "matplotlib", "rich", "scipy", "skimage", "tqdm"}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(path, quantized(), Card(name="tiny w8a8"))
    add_program(path)
    return path


@pytest.fixture
def nothing_prepared(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a graph is prepared")

    monkeypatch.setattr(graph_cache, "prepare", refuse)


@pytest.mark.parametrize("options", [[], ["--runtime", "srq", "--threads", "2", "--tile", "16"]])
def test_upscale_imports_no_other_runtime_and_keeps_nothing(tmp_path, options):
    heavy = OTHERS | SLOW | (set() if options else {"subprocess", "typer"})
    code = f"""
import json, sys
from sr_quant_cli.cli.app import main
sys.argv = ["srq", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps(sorted({heavy} & set(sys.modules))))
"""
    write_rgb(tmp_path / "p.png", picture(20, 24))
    cache = tmp_path / "cache"
    command = ["upscale", "p.png", "--model", "fast", "-o", "o.png", *options]
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=tmp_path,
        env={**os.environ, "SRQ_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    line, imported = done.stdout.splitlines()
    assert line.startswith("p.png -> o.png  96x80  ")
    assert line.endswith(" s, srq")
    assert json.loads(imported) == []
    assert not cache.exists()
    upscaler = open_path(identify("fast").path, runtime="torch", threads=1)
    off = np.abs(read_rgb(tmp_path / "o.png").astype(int) - upscaler(picture(20, 24)))
    assert off.max() <= 2
    assert off.mean() <= 0.15


def test_a_model_file_with_a_program_opens_at_once(model, nothing_prepared):
    upscaler = open_path(model, runtime="auto")
    assert isinstance(upscaler.runtime, ProgramRuntime)
    assert (upscaler.name, upscaler.scale) == ("tiny w8a8", 2)
    lr = picture(21, 17)
    assert np.array_equal(open_path(model, runtime="srq", tile=8)(lr), upscaler(lr))
    assert upscaler.ran_by == "srq"
    assert not (cache_dir() / "graphs").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"runtime": "onnxruntime"},
        {"runtime": "auto", "self_ensemble": True},
        {"runtime": "auto", "precision": "bf16"},
    ],
)
def test_other_options_go_the_ordinary_way(model, nothing_prepared, options):
    with pytest.raises(AssertionError, match="a graph is prepared"):
        open_path(model, **options)


def test_without_vectors_runtimes_are_compared(model, monkeypatch, nothing_prepared):
    monkeypatch.setenv(kernels.FORCED, kernels.PORTABLE)
    with pytest.raises(AssertionError, match="a graph is prepared"):
        open_path(model, runtime="auto")
    assert open_path(model, runtime="srq").runtime.runtime == "srq"


def test_pictures_of_16_bits_go_the_ordinary_way(model, nothing_prepared):
    upscaler = open_path(model, runtime="auto")
    with pytest.raises(AssertionError, match="a graph is prepared"):
        upscaler(picture(9, 9).astype(np.uint16) * 257)


def test_large_pictures_have_an_estimate(model, monkeypatch):
    upscaler = open_path(model, runtime="auto", threads=1)
    assert upscaler.estimate(100, 100).seconds == 0
    monkeypatch.setattr(tiled, "LONG", 30_000)
    first = upscaler.estimate(100, 200).seconds
    assert 0 < first < 60
    assert upscaler.estimate(200, 200).seconds == pytest.approx(2 * first)
