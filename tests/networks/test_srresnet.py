import pytest
import torch
from torch import nn

from sr_quant_cli.networks import build
from sr_quant_cli.networks.folding import fold
from sr_quant_cli.networks.msrresnet import MSRResNetConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.passes.apply import count_operations


@pytest.mark.parametrize(("scale", "parameters"), [(2, 1_399_314), (4, 1_546_771)])
def test_the_form_of_ddtb_has_its_parameter_count(scale, parameters):
    assert build(SRResNetConfig(scale=scale)).parameter_count() == parameters


@pytest.mark.parametrize("activation", ["relu", "shared"])
def test_the_other_forms_lack_the_slopes_of_the_blocks(activation):
    # 1,546,779 in CADyQ's count, with 24 values of mean shifts that are never used.
    network = build(SRResNetConfig(scale=4, activation=activation))
    assert network.parameter_count() == 1_546_779 - 24 == 1_546_771 - 16


def test_shares_of_multiply_accumulates_at_x4():
    with torch.device("meta"):
        operations = count_operations(build(SRResNetConfig(scale=4)), 20, 20)
    total = sum(operation.macs for operation in operations)

    def share(part):
        return round(100 * sum(o.macs for o in operations if part in o.name) / total, 1)

    assert (share("body."), share("upsampler."), share("tail")) == (53.2, 33.2, 11.2)


def test_the_shared_slope_is_that_of_the_head():
    network = build(SRResNetConfig(scale=2, n_blocks=2, n_feats=4, activation="shared")).eval()
    x = torch.rand(1, 3, 6, 6)
    before = network.body[1](torch.randn(1, 4, 6, 6, generator=torch.manual_seed(0)), network.act)
    with torch.no_grad():
        network.act.weight.fill_(-3.0)
    after = network.body[1](torch.randn(1, 4, 6, 6, generator=torch.manual_seed(0)), network.act)
    assert not torch.equal(before, after)
    assert sum(key.startswith("act.") for key in network.state_dict()) == 1
    assert not any(".act." in key for key in network.state_dict() if key.startswith("body."))
    assert network(x).isfinite().all()


def test_msrresnet_begins_with_the_bilinear_picture():
    network = build(MSRResNetConfig(scale=3, n_blocks=1, n_feats=4)).eval()
    with torch.no_grad():
        network.tail.weight.zero_()
        network.tail.bias.fill_(0.25)
    x = torch.rand(1, 3, 5, 4)
    wanted = torch.nn.functional.interpolate(x, scale_factor=3, mode="bilinear") + 0.25
    assert torch.allclose(network(x), wanted)


@pytest.mark.parametrize(("scale", "parameters"), [(2, 1_369_859), (3, 1_554_499), (4, 1_517_571)])
def test_msrresnet_is_as_large_as_edsr(scale, parameters):
    # One convolution behind the upsampler instead of the one behind the body.
    assert build(MSRResNetConfig(scale=scale)).parameter_count() == parameters


def test_biases_that_normalization_leaves_are_trained():
    network = build(SRResNetConfig(scale=4))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    channels = sum(norm.num_features for norm in norms)
    folded = fold(network.eval())
    # Weight and bias of each channel become one bias.
    assert folded.parameter_count() == network.parameter_count() - channels
    assert all(parameter.requires_grad for parameter in folded.parameters())
