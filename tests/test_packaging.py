"""Distributions are complete, and work outside the source tree."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sr_quant_cli import __version__
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from tests.helpers import picture

ROOT = Path(__file__).parents[1]


def run(*command, cwd, **environment):
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build a source distribution, and a wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """Install the wheel into a folder outside the source tree."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = distributions.glob("*.whl")
    run("-m", "pip", "install", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


@pytest.mark.slow
def test_an_installed_wheel_runs_elsewhere(installed, tmp_path):
    write_rgb(tmp_path / "a.png", picture(9, 7))
    srq = ("-m", "sr_quant_cli")
    where = run(
        "-c",
        "import sr_quant_cli; print(sr_quant_cli.__file__)",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert Path(where.strip()).is_relative_to(installed)
    assert "pretrain-edsr" in run(*srq, "recipes", "list", cwd=tmp_path, PYTHONPATH=str(installed))
    for scale in (2, 3, 4):
        run(*srq, "upscale", "a.png", "--scale", scale, cwd=tmp_path, PYTHONPATH=str(installed))
        assert read_rgb(tmp_path / f"a_x{scale}.png").shape == (9 * scale, 7 * scale, 3)


@pytest.mark.slow
def test_the_source_distribution_can_be_built_and_tested(distributions):
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for needed in (
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "recipes/pretrain-edsr.toml",
        "sr_quant_cli/models/edsr-baseline-x4.safetensors",
        "sr_quant_cli/web/static/index.html",
        "tests/conftest.py",
        "docs/images/sample.png",
        "docs/commands/upscale.md",
        "mkdocs.yml",
        "mkdocs_hooks.py",
        "CITATION.cff",
        "Dockerfile",
        ".dockerignore",
        ".github/workflows/ci.yml",
    ):
        assert needed in names


@pytest.mark.slow
def test_the_wheel_carries_type_information(installed):
    assert (installed / "sr_quant_cli/py.typed").is_file()


@pytest.mark.slow
def test_the_wheel_carries_the_page(installed):
    files = {path.name for path in (ROOT / "sr_quant_cli/web/static").iterdir()}
    assert files >= {"index.html", "app.css", "app.js", "icon.svg"}
    assert {path.name for path in (installed / "sr_quant_cli/web/static").iterdir()} == files


@pytest.mark.slow
def test_the_version_is_written_once(installed):
    (metadata,) = installed.glob("sr_quant_cli-*.dist-info/METADATA")
    assert f"\nVersion: {__version__}\n" in metadata.read_text()
    written = re.compile(rf'["\']{re.escape(__version__)}["\']')
    files = [ROOT / "pyproject.toml", *(ROOT / "sr_quant_cli").rglob("*.py")]
    places = [path.name for path in files if written.search(path.read_text(encoding="utf-8"))]
    assert places == ["__init__.py"]
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_pre_commit_runs_the_checks_of_ci():
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    ci = (ROOT / ".ci/run").read_text()
    checks = re.findall(r"^(?:ruff|mypy|lint-imports).*$", ci, re.MULTILINE)
    assert hooks == checks


def test_embedded_models_are_small_and_carry_their_cards():
    from sr_quant_cli.modelfiles.modelfile import load_model
    from sr_quant_cli.system.resources import models_dir

    models = sorted(models_dir().glob("*.safetensors"))
    assert sum(path.stat().st_size for path in models) < 16_000_000
    for path in models:
        network, header = load_model(path)
        assert path.stem.partition("-w")[0].endswith(f"x{network.scale}")
        assert header.card.data
        assert header.card.licence
        assert header.card.training
        if "photo" not in path.stem:  # judged on degraded sets, in docs/results.md
            assert {score.bench for score in header.card.scores} >= {"Set5", "Set14", "B100"}
