"""Quantized tensors and weights of built-in recipes, against lists written from authors' modules.

Commits: zysxmu/DDTB e21403d, colorjam/PAMS 737cc09, Cheeun/CADyQ 5ca4344, Cheeun/AdaBM c855f52.
"""

from fnmatch import fnmatch

import pytest

from sr_quant_cli.commands.calibrate import prepare
from sr_quant_cli.commands.quantize_recipe import QuantizeRequest, resolve
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.known_layouts import LAYOUTS
from sr_quant_cli.networks import build
from sr_quant_cli.networks.rdn import RDNConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.recipe.schema import QuantizeRecipe

VARIANTS = ("corrected", "code")
RDN = {
    "body.?.block_in": 2,
    "body.?.layers.[12].dense_in": 4,
    "body.?.fusion": 2,
    "fusion": 1,
}
RDN_WEIGHTS = {"body.?.layers.?.conv": 6, "body.?.fusion": 2, "fusion": 1, "body_last": 1}
BLOCKS = {"body.?.conv[12]": 4}


def quantized(name, variant, *changes):
    recipe = load_recipe(
        name,
        [f"method.variant={variant}", "network.n_blocks=2", "network.n_feats=16", *changes],
        QuantizeRecipe,
    )
    network = build(recipe.network)
    if recipe.before.quantize:
        method = build_method(load_recipe(recipe.before.quantize, (), QuantizeRecipe).method)
        quantize_network(network, method, method.paper_placement(), Bits(8, 8))
    return prepare(network, recipe, []).student


def paths(network, operand):
    return [
        name.removesuffix(f".{operand}_quantizer")
        for name, module in network.named_modules()
        if name.endswith(f".{operand}_quantizer")
        and isinstance(module, Quantizer)
        and ".gate." not in name
    ]


def matched(found, expected):
    counts = {pattern: sum(fnmatch(path, pattern) for path in found) for pattern in expected}
    return counts == expected and sum(expected.values()) == len(found)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", ["pams", "ddtb"])
def test_rdn_carries_on_quantized_tensors(method, variant):
    network = quantized(f"{method}-rdn", variant, "network.n_layers=3", "network.growth=8")
    assert matched(paths(network, "input"), RDN)
    assert matched(paths(network, "weight"), RDN_WEIGHTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ddtb_quantizes_only_inputs_of_convolutions_in_blocks_of_srresnet(variant):
    network = quantized("ddtb-srresnet", variant)
    assert matched(paths(network, "input"), BLOCKS)
    assert matched(paths(network, "weight"), BLOCKS)


@pytest.mark.parametrize(
    ("variant", "carried"), [("corrected", "body.?.block_in"), ("code", "body.?.skip")]
)
def test_cadyq_quantizes_no_output_of_a_branch_of_srresnet(variant, carried):
    network = quantized("cadyq-srresnet", variant)
    assert matched(paths(network, "input"), {carried: 2, "body.?.conv2": 2})
    assert matched(paths(network, "weight"), BLOCKS)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("PAMS RDN", "pams-rdn"),
        ("DDTB RDN", "ddtb-rdn"),
        ("DDTB SRResNet (quantized)", "ddtb-srresnet"),
        ("AdaBM RDN", "adabm-rdn"),
    ],
)
def test_recipes_and_checkpoints_of_the_authors_are_quantized_alike(source, name):
    shape = ("network.n_layers=3", "network.growth=8") if name.endswith("rdn") else ()
    ours = quantized(name, "code", *shape)
    layout = next(layout for layout in LAYOUTS if layout.source == source)
    method = build_method(layout.quantized.method(ours.config))
    theirs = build(ours.config)
    placement = method.paper_placement() | layout.quantized.changes | layout.quantized.if_found
    quantize_network(theirs, method, placement, Bits(4, 4))
    for operand in ("input", "weight"):
        assert paths(ours, operand) == paths(theirs, operand)


@pytest.mark.parametrize(("scale", "side"), [(2, 64), (4, 96)])
def test_patches_of_ddtb_on_rdn(scale, side):
    request = QuantizeRequest(method="ddtb", w=4, a=4, model=None)
    network = RDNConfig(scale=scale).model_dump()
    assert resolve(request, network, "rdn").data.patch_hr == side
