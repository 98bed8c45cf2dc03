"""Bits chosen for every sample: values, gradients, and calls of the provider."""

import copy

import pytest
import torch

from sr_quant_cli.methods.cadyq import CADyQ, CADyQConfig
from sr_quant_cli.methods.pams import PAMS, PAMSConfig
from sr_quant_cli.networks import build
from sr_quant_cli.networks.carn import CARNConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.dynamic import (
    BitProvider,
    Choice,
    Scales,
    attach,
    dynamic_quantizers,
)
from sr_quant_cli.quant.grids import quantize, sym_narrow
from sr_quant_cli.quant.plan import Bits
from tests.helpers import tiny_edsr

WIDTHS = (4, 6, 8)


class ByBrightness(BitProvider):
    """Brighter pictures get more bits; the second layer a candidate more than the first."""

    def look(self, picture):
        self.index = (3 * picture.mean((1, 2, 3))).long().clamp(0, 2)

    def choose(self, layer, x):
        return self.of_index((self.index + layer.endswith("conv2")).clamp(max=2))


class Learning(BitProvider):
    """Chooses the most probable candidate, with probabilities that were set from outside."""

    def choose(self, layer, x):
        made = self.of_index(self.p.argmax(1))
        return Choice(made.bits, made.index, self.p)


def scales(provider):
    quantizer = Scales(8, WIDTHS)
    quantizer.alpha.data.copy_(torch.tensor([3.0, 2.0, 1.0]))
    quantizer.layer, quantizer.provider = "layer", (provider,)
    return quantizer


def level(x, k):
    return quantize(x, sym_narrow(torch.tensor([3.0, 2.0, 1.0][k]), WIDTHS[k]))


@pytest.fixture
def x():
    return 3 * torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))


def test_one_candidate_for_each_sample(x):
    provider = ByBrightness(WIDTHS)
    provider.begin(torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 3, 2, 2))
    y = scales(provider)(x)
    for n in range(3):
        assert torch.equal(y[n], level(x, n)[n])
        assert len(y[n].unique()) <= 2 ** WIDTHS[n] - 1


def test_all_candidates_learn_though_one_is_chosen(x):
    provider = Learning(WIDTHS)
    provider.p = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]).requires_grad_()
    quantizer, x = scales(provider), x.requires_grad_()
    weight = torch.randn_like(x)
    y = quantizer(x)
    for n in range(3):
        assert torch.equal(y[n], level(x, n)[n])
    (y * weight).sum().backward()
    expected = torch.stack([(weight * level(x, k)).sum((1, 2, 3)) for k in range(3)], 1)
    assert torch.allclose(provider.p.grad, expected, rtol=1e-4)
    # The gradients are those of the mixture: of clipped values, less the rounding error.
    to_x = torch.zeros_like(x)
    for k, alpha in enumerate((3.0, 2.0, 1.0)):
        p = provider.p.detach()[:, k].view(3, 1, 1, 1)
        inside = x.abs() < alpha
        slope = torch.where(inside, (level(x, k) - x) / alpha, x.sign())
        expected = (weight * p * slope).sum().item()
        assert quantizer.alpha.grad[k].item() == pytest.approx(expected, rel=1e-3)
        to_x += weight * p * inside
    assert torch.allclose(x.grad, to_x, atol=1e-6)


def test_gradients_of_fixed_choices_are_those_of_single_samples(x):
    provider = ByBrightness(WIDTHS)
    pictures = torch.tensor([0.9, 0.1, 0.9]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    together = scales(provider)
    provider.begin(pictures)
    together(x).sum().backward()
    apart = scales(provider)
    for n in range(3):
        provider.begin(pictures[n : n + 1])
        apart(x[n : n + 1]).sum().backward()
    assert torch.allclose(together.alpha.grad, apart.alpha.grad, rtol=1e-4)
    assert together.alpha.grad[1] == 0


def dynamic_edsr():
    network, method = tiny_edsr(), PAMS(PAMSConfig())
    quantize_network(network, method, method.paper_placement(), Bits(8, 8))
    for path in ("body.0.block_in", "body.0.conv2"):
        module = network.get_submodule(path)
        module.input_quantizer = Scales(8, WIDTHS)
    attach(network, ByBrightness(WIDTHS))
    return network


def pictures(*brightness):
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.cat([b + 0.02 * noise for b in brightness])


def test_the_provider_looks_at_what_the_network_is_given():
    network = dynamic_edsr()
    assert list(dynamic_quantizers(network)) == ["body.0.block_in", "body.0.conv2"]
    lr = pictures(0.1, 0.5, 0.9)
    with torch.no_grad():
        whole = network(lr)
    assert network.bit_provider.chosen().tolist() == [[4, 6], [6, 8], [8, 8]]
    with torch.no_grad():
        alone = torch.cat([network(lr[n : n + 1]) for n in range(3)])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_a_copy_asks_its_own_provider():
    network = dynamic_edsr()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        network(pictures(0.1))
        twin(pictures(0.9))
    assert network.bit_provider.chosen().tolist() == [[4, 6]]
    assert twin.bit_provider.chosen().tolist() == [[8, 8]]


def test_every_use_of_a_shared_layer_has_a_choice_of_its_own():
    torch.manual_seed(0)
    network = build(CARNConfig(scale=2, n_feats=8, groups=2, shared=True)).eval()
    method = CADyQ(CADyQConfig())
    quantize_network(network, method, method.paper_placement(), Bits(8, 8))
    layers = len(dynamic_quantizers(network))
    assert layers == 9  # an input and two more convolutions in each of three blocks
    with torch.no_grad():
        network(pictures(0.5, 0.9))
    assert network.bit_provider.chosen().shape == (2, 3 * layers)
    network.train()(pictures(0.5, 0.9))
    loss = method.regularizers(network)["bits"]
    soft = (4 + 6 + 8 * torch.e) / (2 + torch.e)
    assert loss.item() == pytest.approx(1e-4 * 2 * 3 * layers * 8 / soft, rel=1e-3)
