"""Packages and files beside srq, known for the length of a test."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from sr_quant_cli import methods, networks, plugins
from sr_quant_cli.recipe import texts
from sr_quant_cli.runtimes import registry
from tests.outside.conftest import EXTRA

PAGE = (Path(__file__).parents[2] / "docs/plugins.md").read_text(encoding="utf-8")


def block(kind):
    """The block of a language on the page."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def srq_tqt():
    """The module that the page describes."""
    return (EXTRA / "tqt.py").read_text(encoding="utf-8") + "\n\n" + block("python")


def forget(monkeypatch):
    """Leave no plugin registered, nor any trace of one."""
    for each in (methods.REGISTRY, networks.REGISTRY):
        own = {name: made for name, made in each.known.items() if not _foreign(made[0])}
        monkeypatch.setattr(each, "known", own)
    own = {name: entry for name, entry in registry._known.items() if name != "toy"}
    monkeypatch.setattr(registry, "_known", own)
    monkeypatch.setattr(texts, "_texts", {})
    monkeypatch.setattr(plugins, "_origins", {})
    monkeypatch.setattr(plugins, "_tried", set())
    monkeypatch.setattr(plugins, "_files", {})
    plugins._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.startswith("srq_")]:
        del sys.modules[name]


def _foreign(cls):
    return not cls.__module__.startswith("sr_quant_cli.")


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch):
    forget(monkeypatch)
    yield
    plugins._entry_points.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a module with entry points, as pip would; return the folder."""

    def installed(module, text, groups, name=None, version="1.0"):
        site = tmp_path / f"site-{name or module}"
        site.mkdir()
        (site / f"{module}.py").write_text(text)
        info = site / f"{name or module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {(name or module).replace('_', '-')}\n"
            f"Version: {version}\n"
        )
        lines = []
        for group, points in groups.items():
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(site)
        plugins._entry_points.cache_clear()
        return site

    return installed


@pytest.fixture
def tqt(install):
    """The package that the page describes."""
    groups = tomllib.loads(block("toml"))["project"]["entry-points"]
    return install("srq_tqt", srq_tqt(), groups)
