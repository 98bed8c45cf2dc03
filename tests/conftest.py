"""Fixtures shared by several test modules."""

import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One core for each of the processes that share the tests, before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from sr_quant_cli.cli.app import main
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.report.terminal import TerminalReporter
from sr_quant_cli.system.reporting import reporting
from tests.helpers import picture, tiny_edsr


def pytest_collection_modifyitems(config, items):
    """Leave out the tests that take long, unless ``-m`` names their marker."""
    if "hostile" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("hostile")]
    items[:] = [item for item in items if not item.get_closest_marker("hostile")]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch):
    """Let every test see notes that are printed once per process."""
    monkeypatch.setattr("sr_quant_cli.modelfiles.loading._noted", set())


@pytest.fixture(autouse=True)
def _terminal():
    """Report to the terminal, as the command line does."""
    with reporting(TerminalReporter()):
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keep tests out of the user's cache and models."""
    monkeypatch.setenv("SRQ_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("SRQ_MODELS", str(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="session", autouse=True)
def _any_processor():
    """Make the same graphs on all machines: those for processors without VNNI."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("inference.graph_cache", "commands.bench_upscale"):
            patch.setattr(f"sr_quant_cli.{module}.has_vnni", lambda: False)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the root of the real pictures; skip the test, with a reason, without them."""
    if "SRQ_DATA" not in os.environ:
        pytest.skip("SRQ_DATA is not set: needs the benchmark pictures")
    return Path(os.environ["SRQ_DATA"])


@pytest.fixture
def tiny_model(tmp_path) -> Path:
    """A model file of a tiny x2 network."""
    path = tmp_path / "tiny.safetensors"
    save_model(path, tiny_edsr(), Card(name="tiny"))
    return path


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A folder of six small pictures to train on."""
    folder = tmp_path / "photographs"
    for index in range(6):
        write_rgb(folder / f"p{index}.png", picture(40 + 2 * index, 52, seed=index))
    return folder


@pytest.fixture
def srq(monkeypatch, capsys):
    """Run a command line in this process; return exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["srq", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run
