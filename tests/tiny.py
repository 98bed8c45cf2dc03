"""Tiny configurations of every registered network and method, for tests that go over all."""

import pytest

from sr_quant_cli import methods, networks

_CONVOLUTIONAL = {"n_blocks": 2, "n_feats": 8}
_TRANSFORMER = {"embed_dim": 8, "layers": [2], "heads": [2], "window": 4}

NETWORKS = {
    "carn": {"": {"n_feats": 8}, "m": {"n_feats": 8, "groups": 4, "shared": True}},
    "edsr": {"": _CONVOLUTIONAL, "luma": {**_CONVOLUTIONAL, "luma": True}},
    "idn": {
        "": {"n_blocks": 1, "n_feats": 16},
        "luma": {"n_blocks": 1, "n_feats": 16, "luma": True},
    },
    "msrresnet": {"": _CONVOLUTIONAL},
    "quantsr_c": {"": _CONVOLUTIONAL},
    "quantsr_t": {"": _TRANSFORMER},
    "rdn": {"": {**_CONVOLUTIONAL, "n_layers": 2, "growth": 4}},
    "srresnet": {
        "": _CONVOLUTIONAL,
        "relu": {**_CONVOLUTIONAL, "activation": "relu"},
        "shared": {**_CONVOLUTIONAL, "activation": "shared"},
    },
    "swinir_light": {"": _TRANSFORMER},
}
"""Fields of a tiny configuration of every network, by the name of its form."""

METHODS = {
    "2dquant": {"candidates": 10},
    "condiquant": {"candidates": 10, "rounds": 10},
    "ddtb": {"dynamic_ratio": 1.0},
    "dobi": {"candidates": 10},
}
"""Fields that make a method fast, or that make all parts of it run; by default its own values."""


def network_config(name, form="", **changes):
    """Configuration of a tiny x2 network; fails if the table lacks it."""
    if name not in NETWORKS:
        pytest.fail(f"add a tiny configuration of {name} to NETWORKS in {__file__}")
    return networks.config_class(name)(**({"scale": 2} | NETWORKS[name][form] | changes))


def method_config(name, **changes):
    """Configuration of a method that calibrates within milliseconds."""
    return methods.config_class(name)(**(METHODS.get(name, {}) | changes))


def network_forms():
    """Names of all registered networks, each with every form in the table."""
    return [(name, form) for name in networks.network_names() for form in NETWORKS.get(name, [""])]
