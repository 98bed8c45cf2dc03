"""A server of processes for each worker of the tests, and folders for them."""

import os

import pytest

from tests.hostile.corpus import write_models
from tests.hostile.processes import Place, Server

collect_ignore_glob = ["test_*.py"] if os.name == "nt" else []


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server that has imported srq, as an ordinary user."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def place(server, tmp_path):
    """An empty folder of the ordinary user."""
    return Place(server, tmp_path / "place")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Model files that no test changes, by their names."""
    return write_models(tmp_path_factory.mktemp("models"))
