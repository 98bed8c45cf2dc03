import pytest
import torch

from sr_quant_cli.commands.calibrate import choose_placement
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.networks import build
from sr_quant_cli.networks.rdn import DenseLayer, RDNConfig, ResidualDenseBlock
from sr_quant_cli.passes.apply import count_operations
from sr_quant_cli.quant.layers import QuantTensor
from sr_quant_cli.quant.max_scale import MaxScale
from sr_quant_cli.quant.plan import Bits, plan_sites
from sr_quant_cli.recipe.load import load_recipe


@pytest.mark.parametrize(("scale", "parameters"), [(2, 22_123_395), (4, 22_271_107)])
def test_configuration_b_has_the_published_parameter_count(scale, parameters):
    with torch.device("meta"):
        assert build(RDNConfig(scale=scale)).parameter_count() == parameters


def test_configuration_a_by_hand():
    # 20 blocks of 6 layers: kernels over 64 + 32 i channels, and the fusion of each block.
    layers = sum(9 * (64 + 32 * i) * 32 + 32 for i in range(6)) + (64 + 6 * 32) * 64 + 64
    ends = (9 * 3 * 64 + 64) + 2 * (9 * 64 * 64 + 64) + (20 * 64 * 64 + 64)
    upsampler = 9 * 64 * 4 * 32 + 4 * 32 + 9 * 32 * 3 + 3
    config = RDNConfig(scale=2, n_blocks=20, n_layers=6, growth=32)
    with torch.device("meta"):
        assert build(config).parameter_count() == 20 * layers + ends + upsampler


def test_shares_of_multiply_accumulates_at_x4():
    with torch.device("meta"):
        operations = count_operations(build(RDNConfig(scale=4)), 20, 20)
    total = sum(operation.macs for operation in operations)

    def share(*parts):
        chosen = sum(o.macs for o in operations if any(part in o.name for part in parts))
        return round(100 * chosen / total, 1)

    assert share(".layers.") == 93.4
    assert share("body.") - share(".layers.") == pytest.approx(2.6, abs=0.06)
    assert share("upsampler.") == 3.2


def test_a_concatenation_carries_on_what_was_quantized_for_the_layer():
    """Three levels of PAMS at 2 bits, of the first layer's input and of the second's."""
    layer = DenseLayer(2, 1)
    layer.dense_in = QuantTensor(MaxScale(2))
    layer.dense_in.input_quantizer.alpha.data.fill_(0.6)
    with torch.no_grad():
        layer.conv.weight.fill_(0.0)
        layer.conv.weight[:, :, 1, 1] = 1.0
        layer.conv.bias.zero_()
    x = torch.tensor([[[[0.1, 0.4]], [[0.9, -0.5]]]])
    wanted = torch.tensor([[[[0.0, 0.6]], [[0.6, -0.6]], [[0.6, 0.0]]]])
    assert torch.allclose(layer(x), wanted)


@pytest.mark.parametrize("name", ["pams-rdn", "ddtb-rdn"])
def test_the_recipes_quantize_145_activations(name):
    recipe = load_recipe(name)
    method = build_method(recipe.method)
    with torch.device("meta"):
        network = build(recipe.network)
    placement = choose_placement(recipe, method)
    plan = plan_sites(network.sites(), placement, Bits(4, 4))
    assert sum(entry.input_bits == 4 and not entry.given for entry in plan) == 145
    weights = {entry.site.path: entry.weight_bits for entry in plan if entry.weight_bits}
    float_weights = {path for path, bits in weights.items() if bits == 32}
    assert float_weights == {"head", "head2", "upsampler.0", "upsampler.2", "tail"}


def test_a_dense_layer_keeps_its_input():
    block = ResidualDenseBlock(2, 3, 2)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.layers[0].conv.bias.fill_(2.0)
        block.layers[1].conv.bias.fill_(-1.0)
        block.fusion.weight[:, 2:5] = 1.0
        block.fusion.weight[:, 5:] = 10.0
    x = torch.rand(1, 2, 4, 4)
    # The first layer gives 2 in three features, the second nothing behind its ReLU.
    assert torch.allclose(block(x), x + 6)
    assert torch.equal(block.layers(x)[:, :2], x)
