"""Names of methods and networks: help texts point to lists that name all that are registered."""

from typing import Literal

import pytest

from sr_quant_cli import methods, networks
from sr_quant_cli.methods.minmax import MinMax, MinMaxConfig
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig


class MyMethodConfig(MinMaxConfig):
    name: Literal["my_method"] = "my_method"


class MyNetworkConfig(EDSRConfig):
    name: Literal["my_network"] = "my_network"


@pytest.mark.parametrize(
    ("command", "listing", "module", "made", "config"),
    [
        ("quantize", "methods", methods, MinMax, MyMethodConfig),
        ("pretrain", "networks", networks, EDSR, MyNetworkConfig),
    ],
)
def test_help_points_to_a_list_of_every_registered_name(
    srq, monkeypatch, command, listing, module, made, config
):
    monkeypatch.setattr(module.REGISTRY, "known", dict(module.REGISTRY.known))
    module.REGISTRY.register(made, config)
    code, text, _ = srq(command, "--help")
    assert code == 0
    assert f"'srq recipes {listing}'" in " ".join(text.replace("|", " ").split())
    code, text, _ = srq("recipes", listing)
    assert code == 0
    named = {line.split()[0]: line for line in text.splitlines()}
    assert set(named) == set(module.REGISTRY.names())
    assert all(len(line.split()) > 2 for name, line in named.items() if not name.startswith("my"))
