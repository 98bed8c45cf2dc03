"""The command line beside the API, whose short name is ``srq``, too."""

import pytest


@pytest.fixture
def srq_command(srq):
    return srq
