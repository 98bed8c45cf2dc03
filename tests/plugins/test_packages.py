"""Plugins of installed packages: found when they are needed, and told of when they are broken."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sr_quant_cli as srq_api
from sr_quant_cli import methods, networks, plugins
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.inference.graph_cache import folder_of
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import read_header, save_model
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.networks import build
from sr_quant_cli.runtimes.registry import choices, get_runtime, is_graph
from tests.helpers import nearest_onnx, picture
from tests.outside.conftest import EXTRA
from tests.plugins.conftest import block, forget, srq_tqt
from tests.runtimes import toy

SMALL = [
    *("--iters", 0, "--device", "cpu", "--threads", 1),
    *(
        f"--set={change}"
        for change in (
            *("calibration.images=2", "calibration.batch=1", "calibration.patch_lr=12"),
            *("data.patch_hr=24", "validation.crop_hr=24"),
        )
    ),
]
RUNTIME = f"""
from sr_quant_cli.runtimes.registry import RuntimeEntry, register

register({toy.ENTRY!r})
"""
RLFN = (EXTRA / "rlfn.py").read_text() + (
    "\nfrom sr_quant_cli import networks\n\nnetworks.register(RLFN, RLFNConfig)\n"
)


@pytest.fixture
def quantized(srq, tqt, tiny_model, photographs, tmp_path):
    """A model file that the method of the package made."""
    run = tmp_path / "run"
    code, _, err = srq(
        *("quantize", tiny_model, "--method", "tqt", "--w", 4, "--a", 4),
        *("--data", photographs, "--run", run, *SMALL),
    )
    assert code == 0, err
    return run / "model.safetensors"


def test_lists_have_what_a_package_adds(srq, tqt, tmp_path):
    code, out, err = srq("recipes", "methods")
    assert (code, err) == (0, "")
    assert "tqt          TQT: trained quantization thresholds (srq-tqt 1.0)\n" in out
    assert "pams" in out
    assert "tqt-edsr " in srq("recipes", "list")[1]
    assert 'name = "tqt"' in srq("recipes", "show", "tqt-edsr")[1]
    assert srq("recipes", "copy", "tqt-edsr", tmp_path / "my.toml")[0] == 0
    assert tomllib.loads((tmp_path / "my.toml").read_text())["method"]["name"] == "tqt"
    assert srq("recipes", "methods", tmp_path / "pages")[0] == 0
    assert "# TQT: trained quantization" in (tmp_path / "pages/tqt.md").read_text()
    assert "tqt" in srq("quantize", "--method", "tqtq")[2]


def test_a_model_file_says_which_package_it_needs(srq, tqt, quantized, monkeypatch, tmp_path):
    plugin = read_header(quantized).plugins["method"]
    assert (plugin.package, plugin.version, plugin.file) == ("srq-tqt", "1.0", "")
    write_rgb(tmp_path / "a.png", picture(9, 11))
    upscale = ("upscale", tmp_path / "a.png", "--model", quantized, "--runtime", "torch", "-o")
    assert srq(*upscale, tmp_path / "b.png")[0] == 0
    assert srq("info", quantized)[0] == 0

    sys.path.remove(str(tqt))
    forget(monkeypatch)
    needs = (
        f"srq: error: {quantized}, quantization: needs the method 'tqt' of the package "
        "srq-tqt 1.0: install it, or name its file with --plugin\n"
    )
    assert srq(*upscale, tmp_path / "c.png") == (2, "", needs)
    assert srq("info", quantized) == (2, "", needs)
    assert not (tmp_path / "c.png").exists()
    with pytest.raises(srq_api.UsageError, match="needs the method 'tqt'"):
        srq_api.load_model(quantized).to_torch()

    module = tmp_path / "tqt_as_file.py"
    module.write_text(srq_tqt())
    code, _, err = srq("--plugin", module, *upscale, tmp_path / "c.png")
    assert code == 0
    assert err == f"srq: warning: {module} runs as a part of srq: use files that you trust\n"
    assert (read_rgb(tmp_path / "c.png") == read_rgb(tmp_path / "b.png")).all()


def test_files_without_plugins_are_as_before(tiny_model):
    header = json.loads(read_header(tiny_model).model_dump_json())
    assert "plugins" not in header


def test_a_network_of_a_package(install, monkeypatch, tmp_path):
    site = install("srq_rlfn", RLFN, {"srq.networks": {"rlfn": "srq_rlfn"}}, version="2.1")
    config = networks.config_class("rlfn")(scale=2, n_blocks=1, n_feats=4, attention_feats=4)
    path = tmp_path / "rlfn.safetensors"
    save_model(path, build(config).eval(), Card(name="rlfn"))
    assert srq_api.load_model(path, runtime="torch").upscale(picture(9, 9)).shape == (18, 18, 3)
    sys.path.remove(str(site))
    forget(monkeypatch)
    with pytest.raises(UsageError, match=r"needs the network 'rlfn' of the package srq-rlfn 2\.1"):
        srq_api.load_model(path).to_torch()


def test_a_runtime_of_a_package(srq, install, tiny_model, tmp_path):
    install("srq_toy", RUNTIME, {"srq.runtimes": {"toy": "srq_toy"}})
    assert "toy" not in choices()
    write_rgb(tmp_path / "a.png", picture(9, 11))
    graph = nearest_onnx(tmp_path / "n.onnx")
    code, out, err = srq("upscale", tmp_path / "a.png", "--model", graph, "--runtime", "toy")
    assert code == 0, err
    assert out.endswith(" s, toy\n")


def test_errors_and_suffixes_of_a_runtime_of_a_package(install, tmp_path):
    install("srq_toy", RUNTIME, {"srq.runtimes": {"toy": "srq_toy"}})
    with pytest.raises(UsageError, match=r"must be one of .*onnxruntime, toy"):
        get_runtime("toi")
    assert is_graph(tmp_path / "a.toy")
    assert not is_graph(tmp_path / "a.png")


def test_help_lists_a_runtime_of_a_package(install):
    site = install("srq_toy", RUNTIME, {"srq.runtimes": {"toy": "srq_toy"}})
    shown = subprocess.run(
        [sys.executable, "-m", "sr_quant_cli", "upscale", "--help"],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{Path.cwd()}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "onnxruntime|toy]" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("def f(:\n", "SyntaxError: invalid syntax (srq_bad.py, line 1)"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("", "srq_bad does not register it"),
    ],
)
def test_a_broken_package_is_one_line_and_stops_nothing(srq, install, tiny_model, text, problem):
    groups = {"srq.methods": {"bad": "srq_bad"}, "srq.recipes": {"bad-edsr": "srq_bad"}}
    install("srq_bad", text, groups)
    code, out, err = srq("recipes", "methods")
    assert code == 0
    assert "pams" in out
    assert err == f"srq: warning: method 'bad' of srq-bad 1.0 cannot be used: {problem}\n"
    assert srq("recipes", "methods")[2] == ""  # once
    code, out, err = srq("recipes", "list")
    assert code == 0
    assert err == f"srq: warning: recipe 'bad-edsr' of srq-bad 1.0 cannot be used: {problem}\n"
    code, _, err = srq("quantize", tiny_model, "--method", "bad")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("srq: error: unknown method 'bad'")


def test_a_recipe_with_mistakes_is_one_line_in_lists(srq, install):
    text = block("python").partition("methods.register")[0] + (
        "recipe.register(\"recipe = { name = 'odd', task = 'quantize' }\\n\")\n"
    )
    install("srq_odd", text, {"srq.recipes": {"odd": "srq_odd"}})
    code, out, err = srq("recipes", "list")
    assert code == 0
    assert "pams-edsr" in out
    assert "odd " not in out
    assert err.startswith("srq: warning: recipe odd: ")
    assert err.count("\n") == 1


def test_of_two_packages_with_one_name_the_first_has_it(srq, tqt, install):
    install("srq_other", "", {"srq.methods": {"tqt": "srq_other"}})
    sys.path.append(sys.path.pop(0))  # behind the other one
    plugins._entry_points.cache_clear()
    code, out, err = srq("recipes", "methods")
    assert code == 0
    assert "(srq-tqt 1.0)" in out
    assert err == "srq: warning: method 'tqt' is that of srq-tqt 1.0, not of srq-other 1.0\n"


def test_srqs_own_names_are_not_looked_for(srq, tiny_model, photographs, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("entry points are read")

    monkeypatch.setattr(importlib.metadata, "entry_points", refuse)
    write_rgb(tmp_path / "a.png", picture(9, 11))
    for number, options in enumerate(
        ((), ("--model", "fast"), ("--model", tiny_model, "--runtime", "torch"))
    ):
        code, _, err = srq(
            "upscale", tmp_path / "a.png", "-o", tmp_path / f"{number}.png", *options
        )
        assert code == 0, err
    code, _, err = srq(
        *("quantize", tiny_model, "--method", "minmax", "--data", photographs),
        *("--run", tmp_path / "run", *SMALL),
    )
    assert code == 0, err


def test_graphs_are_kept_for_one_version_of_a_package(tqt, quantized):
    before = folder_of(identify(quantized))
    (tqt / "srq_tqt-1.0.dist-info").rename(tqt / "srq_tqt-1.1.dist-info")
    metadata = tqt / "srq_tqt-1.1.dist-info/METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    importlib.invalidate_caches()
    assert folder_of(identify(quantized)) != before


def test_a_header_with_nonsense_is_refused_in_words(quantized, tmp_path):
    content = quantized.read_bytes()
    for old, new in (
        (b'\\"package\\":\\"srq-tqt\\"', b'\\"package\\":[\\"rq-tqt\\"]'[:21]),
        (b'\\"method\\":{\\"package', b'\\"method\\":[\\"package'),
    ):
        damaged = tmp_path / "d.safetensors"
        damaged.write_bytes(content.replace(old, new))
        assert damaged.read_bytes() != content
        with pytest.raises(UsageError, match=str(damaged)):
            srq_api.load_model(damaged).to_torch()
        folder_of(identify(damaged))


def test_a_class_registered_by_hand_has_no_origin():
    from tests.outside.srq_extra.tqt import TQT, TQTConfig

    methods.register(TQT, TQTConfig)
    assert methods.REGISTRY.origin("tqt") is None
    assert methods.REGISTRY.origin("pams") is None


@pytest.mark.slow
def test_pip_installs_the_package_of_the_page(tmp_path):
    source, site = tmp_path / "srq-tqt", tmp_path / "site"
    source.mkdir()
    (source / "srq_tqt.py").write_text(srq_tqt())
    (source / "pyproject.toml").write_text(block("toml"))
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", site, source], check=True, capture_output=True
    )
    shown = subprocess.run(
        [sys.executable, "-m", "sr_quant_cli", "recipes", "methods"],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{Path.cwd()}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "TQT: trained quantization thresholds (srq-tqt 1.0)" in shown.stdout
    assert shown.stderr == ""
