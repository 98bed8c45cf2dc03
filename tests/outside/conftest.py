"""A method and a network from outside the package, known for the length of a test."""

from pathlib import Path

import pytest

from sr_quant_cli import methods, networks
from tests import tiny
from tests.outside.srq_extra import register

EXTRA = Path(__file__).parent / "srq_extra"


@pytest.fixture
def registered(monkeypatch):
    """Register both; afterwards the registries are as before."""
    for registry in (methods.REGISTRY, networks.REGISTRY):
        monkeypatch.setattr(registry, "known", dict(registry.known))
    register()
    config = {"n_blocks": 2, "n_feats": 8, "attention_feats": 4}
    monkeypatch.setitem(tiny.NETWORKS, "rlfn", {"": config})
