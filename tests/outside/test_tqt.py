"""TQT from outside the package: what every method keeps, and the gradients it states."""

import math

import pytest
import torch

from sr_quant_cli.methods import method_names
from sr_quant_cli.networks import network_names
from sr_quant_cli.quant.grids import levels, sym_full, unsigned
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.recipe.load import load_recipe
from tests.methods import test_conformance as conformance
from tests.outside.conftest import EXTRA
from tests.outside.srq_extra.tqt import TQT, Threshold, TQTConfig

pytestmark = pytest.mark.usefixtures("registered")
each_placement = pytest.mark.parametrize("placement", ["paper", "full"])
PAIRS = [
    *(("tqt", network) for network in (*network_names(), "rlfn")),
    *((method, "rlfn") for method in method_names()),
]
each_pair = pytest.mark.parametrize(("name", "network"), PAIRS)


@each_placement
@each_pair
def test_levels_and_packed_files(tmp_path, name, network, placement):
    conformance.test_levels_and_packed_files(tmp_path, name, network, placement, 4)


@each_placement
@pytest.mark.parametrize("network", ["edsr", "rlfn"])
def test_trained_files_and_gradients(tmp_path, monkeypatch, network, placement):
    monkeypatch.setattr(
        conformance,
        "load_recipe",
        lambda _, changes: load_recipe(f"{EXTRA}/tqt-edsr.toml", changes),
    )
    conformance.test_trainable_files(tmp_path, "tqt", network, placement, "corrected")
    conformance.test_every_trainable_parameter_gets_a_gradient(
        "tqt", network, "corrected", placement
    )


@pytest.mark.parametrize("packed", [True, False])
def test_a_tensor_too_few_or_too_many_is_refused(tmp_path, packed):
    conformance.test_a_tensor_too_few_or_too_many_is_refused(tmp_path, "tqt", "rlfn", packed)


def test_samples_do_not_depend_on_their_batch():
    assert not conformance.depends_on_its_batch("tqt", "rlfn", "corrected")


def test_codes_start_at_zero_where_the_network_says_so():
    method = TQT(TQTConfig())
    for is_unsigned, to_grid in ((False, sym_full), (True, unsigned)):
        quantizer = method.input_quantizer(Site("", "block", 3, unsigned=is_unsigned), 3)
        quantizer.value.data.fill_(-1.3)  # the next power of two is 2^-1
        quantizer.batches.fill_(1)
        grid = to_grid(torch.tensor(0.5), 3)
        assert levels(quantizer.static_grid()).tolist() == levels(grid).tolist()


def test_gradients_are_those_of_the_paper():
    x = torch.tensor([-3.0, -0.9, 0.2, 0.7, 1.4, 9.0], requires_grad=True)
    quantizer = Threshold(3, sym_full)
    quantizer.value.data.fill_(-1.3)
    quantizer.batches.fill_(1)
    quantizer(x).sum().backward()
    v = (x.detach() / 0.5).tolist()
    inside = [-4 <= each <= 3 for each in v]
    assert x.grad.tolist() == [float(each) for each in inside]
    of_step = sum(
        round(each) - each if within else max(min(each, 3), -4)
        for each, within in zip(v, inside, strict=True)
    )
    assert quantizer.value.grad.item() == pytest.approx(of_step * 0.5 * math.log(2), rel=1e-5)
