"""Fixtures that several test modules use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Root of the real pictures; without them the test is skipped and says so."""
    if "SRQ_DATA" not in os.environ:
        pytest.skip("SRQ_DATA is not set: needs the benchmark pictures")
    return Path(os.environ["SRQ_DATA"])
