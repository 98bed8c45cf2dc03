"""Help texts list names by hand, as help does not import torch: none is forgotten."""

import re

import pytest

from sr_quant_cli.methods import method_names
from sr_quant_cli.networks import network_names


@pytest.mark.parametrize(
    ("command", "names"),
    [("quantize", method_names()), ("pretrain", network_names())],
)
def test_help_lists_every_name(srq, command, names):
    code, text, _ = srq(command, "--help")
    assert code == 0
    assert set(names) <= set(re.findall(r"\w+", text))
