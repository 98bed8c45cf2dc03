"""AdaBM on RDN against losses and ranges of the authors' modules.

They are those of github.com/Cheeun/AdaBM, commit c855f52, on the same tensors.
"""

import pytest
import torch

from sr_quant_cli.methods import build
from sr_quant_cli.methods.adabm import AdaBMConfig
from sr_quant_cli.passes.apply import quantize_network, without_quantizers
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.training.objective import StudentLoss
from tests.methods.test_adabm import pictures
from tests.modelfiles.test_adabm_layout import ALL, BODY, filled, rdn, read, released

FEATURES = 6 * 6 * 7
"""Values of a feature: C H W."""


def network_of_authors(tmp_path, placement):
    """RDN x2 of two blocks of three layers, all of whose layers have one bit more."""
    tensors = filled(released(*rdn(2, placement)))
    for key in tensors:
        if key.endswith("measure_layer"):
            tensors[key] = torch.ones(1)
    return read(tmp_path, tensors, w=4, a=5).network


def losses(network, variant, step):
    method = build(AdaBMConfig(variant=variant))
    method.before_step(network, step, 500)
    recipe = load_recipe("adabm-rdn", ["network.scale=2"])
    objective = StudentLoss(network.train(), recipe, method, without_quantizers(network))
    return {k: v.item() for k, v in objective(pictures(), torch.zeros(3, 3, 12, 14)).items()}


@pytest.mark.parametrize(
    ("placement", "pixel", "feature"),
    [
        (BODY, 47.705078125, 0.0035691047087311745),
        (ALL, 284.3310241699219, 0.0044486443512141705),
    ],
)
def test_losses_are_the_measured_ones(tmp_path, placement, pixel, feature):
    network = network_of_authors(tmp_path, placement)
    # 8 of 10 layers have a bit more; those that end the blocks do not.
    measured = {"pixel": pixel, "feature": feature, "bits": 40.00000762939453}
    assert losses(network, "code", 100) == pytest.approx(measured, rel=1e-5)
    assert losses(network, "code", 50).keys() == {"pixel", "feature"}
    whole = losses(network, "corrected", 100)
    assert whole == pytest.approx(measured | {"feature": FEATURES * feature}, rel=1e-5)


CALIBRATED = {
    "body.0.fusion": (-207.1566619873047, 352.1014099121094),
    "body.1.fusion": (-428.1306457519531, 516.9410400390625),
    "fusion": (-984.8876342773438, 680.218505859375),
}
ENDS = {
    "head": (0.17297181487083435, 237.14248657226562),
    "tail": (-871.9868774414062, 795.150146484375),
}


@pytest.mark.parametrize(
    ("placement", "bounds", "offsets"),
    [
        (BODY, CALIBRATED, [-1, -1, -1, 1, 0, 0, 1, 1]),
        (ALL, ENDS, [0, -1, -1, 1, 0, -1, 1, 1]),
    ],
)
def test_bounds_and_offsets_are_the_measured_ones(tmp_path, placement, bounds, offsets):
    network = without_quantizers(network_of_authors(tmp_path, placement))
    method = build(AdaBMConfig(variant="code"))
    quantize_network(network, method, placement, Bits(4, 5))
    method.calibrate(network, [pictures(), pictures().flip(3)[:2] / 2])
    assert network.bit_provider.offsets.tolist() == offsets
    for path, expected in bounds.items():
        quantizer = network.get_submodule(path).input_quantizer
        found = [quantizer.lower.item(), quantizer.upper.item()]
        assert found == pytest.approx(expected, rel=1e-5)
