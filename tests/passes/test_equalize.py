import pytest
import torch

from sr_quant_cli.networks.edsr import EDSR, EDSRConfig
from sr_quant_cli.passes.equalize import equalize
from tests.helpers import tiny_block, tiny_edsr


def pictures(count=2):
    return torch.rand(count, 3, 10, 10, generator=torch.Generator().manual_seed(0))


def reaches(network):
    """Largest magnitude of every channel at the readers of the stream."""
    found = {}
    hooks = [
        network.get_submodule(path).register_forward_pre_hook(
            lambda _layer, inputs, path=path: found.update({path: inputs[0].abs().amax((0, 2, 3))})
        )
        for path in network.streams()[0].readers
    ]
    with torch.no_grad():
        network(pictures())
    for hook in hooks:
        hook.remove()
    return torch.stack([reach / reach.amax() for reach in found.values()])


@pytest.mark.parametrize(
    "network",
    [
        tiny_edsr(4),
        EDSR(EDSRConfig(scale=2, n_blocks=1, n_feats=8, res_scale=0.1)),
        EDSR(EDSRConfig(scale=2, n_blocks=1, n_feats=8, upsampler="direct")),
    ],
)
def test_float_network_stays_the_same(network):
    network = network.double().eval()
    x = pictures().double()
    with torch.no_grad():
        before = network(x)
        weight = network.head.weight.clone()
        equalize(network, [x])
        assert not torch.allclose(network.head.weight, weight)
        # Features are float64; the output is float32.
        assert torch.allclose(network(x), before, atol=1e-6)


def test_every_channel_reaches_as_far_as_the_largest():
    network = tiny_edsr()
    before = reaches(network)
    assert before.amax(0).min() < 0.8
    equalize(network, [pictures()[:1], pictures()[1:]])
    # The channel with the largest values differs among readers, so reaches only become closer.
    assert reaches(network).amax(0).min() > before.amax(0).min()
    equalize(single := tiny_edsr_of_one_reader(), [pictures()])
    assert torch.allclose(reaches(single), torch.ones(1, 8), atol=1e-5)


def test_channels_inside_a_block_reach_as_far_as_the_largest():
    network = tiny_edsr()
    seen = {}
    equalize(network, [pictures()])
    for index, block in enumerate(network.body):
        block.conv2.register_forward_pre_hook(
            lambda _layer, inputs, index=index: seen.update({index: inputs[0].amax((0, 2, 3))})
        )
    with torch.no_grad():
        network(pictures())
    for reach in seen.values():
        alive = reach[reach > 0]
        assert torch.allclose(alive, alive.max().expand_as(alive), rtol=1e-4)


def tiny_edsr_of_one_reader():
    """EDSR whose stream has the same values at all readers, except the last, which is left out."""
    network = tiny_edsr()
    whole = network.streams()[0]
    readers = whole.readers[:1]
    with torch.no_grad():
        for block in network.body:
            block.conv1.weight.zero_()
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
    network.streams = lambda: (type(whole)(whole.writers, readers),)
    return network


def test_dead_channel_stays_finite():
    network = tiny_edsr()
    with torch.no_grad():
        for layer in [network.head, network.body_last, *(block.conv2 for block in network.body)]:
            layer.weight[3] = 0
            layer.bias[3] = 0
        equalize(network, [pictures()])
        assert network(pictures()).isfinite().all()


def test_network_without_such_a_stream_is_refused():
    with pytest.raises(ValueError, match="no stream"):
        equalize(tiny_block(), [pictures()])


def test_a_stream_that_is_always_zero_stays_as_it_is():
    network = tiny_edsr()
    for parameter in network.body[0].conv1.parameters():
        parameter.data.zero_()
    before = network.body[0].conv2.weight.detach().clone()
    equalize(network, [torch.rand(1, 3, 8, 8)])
    # Its columns are those of the stream inside the block, its rows those of the residual stream.
    after = network.body[0].conv2.weight
    assert after.isfinite().all()
    factors = after / before
    torch.testing.assert_close(factors, factors[:, :1, :1, :1].expand_as(factors))
