"""The quantizers of each method in the networks of its authors, counted in their code.

Networks have the published number of blocks with few features. Commits: DAQ 28c56e4, PAMS 737cc09,
CADyQ 5ca4344, DDTB e21403d, 2DQuant 972eb42, QuantSR d470ad6, AdaBM c855f52, PTQ4SR 225ddd2.
"""

from collections import Counter

import pytest

from sr_quant_cli import networks
from sr_quant_cli.commands.calibrate import choose_placement
from sr_quant_cli.methods import build
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.dynamic import DynamicQuantizer
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.recipe.load import load_recipe, recipe_names

SMALL = {
    "edsr": {"n_feats": 8},
    "quantsr_c": {"n_feats": 8},
    "srresnet": {"n_feats": 8},
    "msrresnet": {"n_feats": 8},
    "rdn": {"n_feats": 8, "growth": 4},
    "carn": {"n_feats": 8},
    "idn": {"n_feats": 16},
    "swinir_light": {"embed_dim": 12},
}
TWO_PER_BLOCK = {"block_first": (3, 2, 16), "block": (3, 2, 16)}
PTQ4SR = TWO_PER_BLOCK | {"head": (8, 8, 1), "tail": (8, 8, 1)}
RDN = {
    "block_in": (None, 2, 16),
    "dense_in": (None, 2, 112),
    "block_first": (3, None, 16),
    "block": (3, None, 112),
    "fusion": (3, 2, 17),
    "body_last": (3, None, 1),
}
RELEASED_EDSR = {
    "block_first": (3, None, 16),
    "block": (3, 2, 16),
    "skip": (None, 2, 16),
    "block_out": (None, 2, 16),
}
PUBLISHED = {
    ("daq", "edsr"): TWO_PER_BLOCK,
    ("daq", "srresnet"): TWO_PER_BLOCK,
    ("daq", "rdn"): {"block_first": (3, 2, 16), "block": (3, 2, 112)},
    ("pams", "edsr"): RELEASED_EDSR,
    ("pams", "rdn"): RDN,
    ("ddtb", "edsr"): RELEASED_EDSR,
    ("ddtb", "srresnet"): TWO_PER_BLOCK,
    ("ddtb", "rdn"): RDN,
    ("2dquant", "swinir_light"): {"linear": (3, 2, 144), "matmul": (None, 2, 96)},
    ("quantsr", "quantsr_c"): {"block_first": (3, 2, 32), "block": (3, 2, 32)},
    ("dbdc_pac", "edsr"): PTQ4SR | {"body_last": (3, 2, 1), "upsampler": (3, 2, 2)},
    ("dbdc_pac", "msrresnet"): PTQ4SR | {"upsampler": (3, 2, 3)},
    ("adabm", "edsr"): TWO_PER_BLOCK,
    ("adabm", "srresnet"): TWO_PER_BLOCK,
    ("adabm", "rdn"): {
        "head": (8, 8, 2),
        "block_first": (3, 2, 16),
        "block": (3, 2, 112),
        "fusion": (3, 2, 17),
        "body_last": (3, 2, 1),
        "upsampler": (8, 8, 2),
        "tail": (8, 8, 1),
    },
}
"""Bits of weights and of activations (None: float, or none) and number of sites, by their kind."""

ADABM = {
    "edsr": {"block_first": 16, "block": 16},
    "srresnet": {"block_first": 16, "block": 16},
    "rdn": {"block_first": 16, "block": 112, "fusion": 1, "body_last": 1},
}
"""Inputs of AdaBM's networks whose bits follow the picture, by kind. DAQ finds the ranges of all
inputs at run time, and DDTB those of the layers that calibration chooses for its gates."""

CHOOSING = {"edsr": 32, "srresnet": 32, "carn": 18, "idn": 24}
FIXED = {"edsr": 16, "srresnet": 0, "carn": 0, "idn": 2}
"""Inputs with selectors, and inputs at 8 bits, in CADyQ's networks."""


def quantized(method, network, bits):
    """Quantize a network by the recipe for it, in variant ``code``."""
    made = networks.build(networks.config_class(network)(scale=4, **SMALL[network]))
    name = f"{method}-{network}"
    name = name if name in recipe_names() else f"{method}-edsr"
    recipe = load_recipe(name, ["method.variant=code"])
    built = build(recipe.method)
    quantize_network(made, built, choose_placement(recipe, built), bits)
    return made


def quantizers_of(network):
    """List kind, operand, quantizer of all operands on a grid; gates inside quantizers aside."""
    found = []
    for entry in network.quantization.sites:
        layer = network.get_submodule(entry.site.path)
        for name, module in layer.named_children():
            # The operands of a product share a list.
            parts = [module] if isinstance(module, Quantizer) else list(module.children())
            operand = "weight" if name == "weight_quantizer" else "input"
            found += [(entry.site.kind, operand, q) for q in parts if isinstance(q, Quantizer)]
    return found


@pytest.mark.parametrize(("method", "network"), PUBLISHED)
def test_quantizers_are_those_of_the_authors(method, network):
    made = quantized(method, network, Bits(3, 2))
    found = Counter((kind, op, q.bits) for kind, op, q in quantizers_of(made))
    expected = Counter()
    for kind, (weight, activation, count) in PUBLISHED[method, network].items():
        if weight:
            expected[kind, "weight", weight] += count
        if activation:
            expected[kind, "input", activation] += count
    assert found == expected
    per_channel = {
        any(p.numel() > 1 for p in q.parameters())
        for _, op, q in quantizers_of(made)
        if op == "weight"
    }
    assert per_channel == {method == "dbdc_pac"}
    inputs = [(kind, q) for kind, op, q in quantizers_of(made) if op == "input"]
    chosen = Counter(kind for kind, q in inputs if isinstance(q, DynamicQuantizer))
    assert chosen == (ADABM[network] if method == "adabm" else {})
    for name, count in made.named_buffers():
        if name.endswith(".batches"):
            count.fill_(1)
    follow = Counter(kind for kind, q in inputs if q.static_grid() is None)
    assert follow == (Counter(kind for kind, _ in inputs) if method == "daq" else chosen)


@pytest.mark.parametrize("network", CHOOSING)
def test_selectors_of_cadyq_are_where_the_authors_have_them(network):
    found = quantizers_of(quantized("cadyq", network, Bits(8, 8)))
    inputs = [q for _, op, q in found if op == "input"]
    chosen = [q for q in inputs if isinstance(q, DynamicQuantizer)]
    assert (len(chosen), len(inputs) - len(chosen)) == (CHOOSING[network], FIXED[network])
    assert {q.bits for _, op, q in found if op == "weight"} == {8}
