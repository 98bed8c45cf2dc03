"""PAMS against hand-computed values: warm-up, placement, training."""

import subprocess
import sys

import pytest
import torch

from sr_quant_cli.methods.pams import PAMS, PAMSConfig
from sr_quant_cli.networks import build
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.max_scale import MaxScale
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import quantizers
from tests.helpers import tiny_edsr


def max_scale(bits, alpha, *, follows=False):
    quantizer = MaxScale(bits)
    quantizer.alpha.data.fill_(alpha)
    quantizer.follows = follows
    return quantizer


def lr_batch(seed=0, size=12):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def quantized(variant="corrected", bits=4):
    network, method = tiny_edsr(), PAMS(PAMSConfig(variant=variant))
    quantize_network(network, method, method.paper_placement(), Bits(bits, bits))
    method.calibrate(network, [lr_batch(1)])
    return network, method


def step(network, method, number, iters):
    network.train()
    network.zero_grad()
    method.before_step(network, number, iters)
    network(lr_batch(number)).square().mean().backward()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (2, [-3.0, 0.0, 0.0, 0.0, 3.0]),
        (3, [-3.0, -1.0, 0.0, 1.0, 3.0]),
        (4, [-3.0, -9 / 7, 0.0, 9 / 7, 3.0]),
    ],
)
def test_levels_lie_on_both_sides_of_zero(bits, expected):
    out = max_scale(bits, 3.0)(torch.tensor([-5.0, -1.4, 0.0, 1.4, 5.0]))
    assert out.tolist() == pytest.approx(expected)


def test_gradients_inside_on_and_beyond_the_bound():
    # q = 3 and alpha = 6: steps of 2, and v = x / 2.
    quantizer = max_scale(3, 6.0)
    x = torch.tensor([-7.0, 0.8, 2.6, 6.0, 9.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.5, 0.0]
    # sign(x) beyond, (R(v) - v) / q inside, half of 1 on the bound.
    expected = -1 + (0 - 0.4) / 3 + (1 - 1.3) / 3 + 0.5 + 1
    assert quantizer.alpha.grad.item() == pytest.approx(expected)


def test_weights_take_their_largest_absolute_value_and_all_get_their_gradient():
    network, _ = quantized(bits=3)
    quantizer = network.body[0].conv1.weight_quantizer
    w = torch.tensor([-0.3, 0.08, 0.12, 0.26], requires_grad=True)
    out = quantizer(w)
    assert out.tolist() == pytest.approx([-0.3, 0.1, 0.1, 0.3])
    out.sum().backward()
    assert w.grad.tolist() == [1.0] * 4


def test_alpha_follows_the_mean_of_the_largest_values_and_nothing_is_clipped():
    quantizer = max_scale(3, 1.0, follows=True)
    x = torch.tensor([[-4.0, 1.0], [8.0, -3.2]], requires_grad=True)
    out = quantizer(x)
    assert quantizer.alpha.item() == 6.0
    assert out.tolist() == [[-4.0, 0.0], [8.0, -4.0]]
    out.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    # (R(v) - v) / q of all values, the one beyond alpha included.
    assert quantizer.alpha.grad.item() == pytest.approx(((0 - 0.5) + (-2 + 1.6)) / 3, abs=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_no_value_is_clipped_in_a_large_batch_while_alpha_follows(bits):
    x = torch.zeros(64, 8)
    x[0, 0] = 1e4
    quantizer = max_scale(bits, 1.0, follows=True)
    assert quantizer(x)[0, 0].item() == pytest.approx(1e4, rel=0.02)


def test_in_evaluation_alpha_stays_and_clips():
    quantizer = max_scale(3, 3.0, follows=True).eval()
    assert quantizer(torch.tensor([[-9.0, 9.0]])).tolist() == [[-3.0, 3.0]]
    assert quantizer.alpha.item() == 3.0


@pytest.mark.parametrize("alpha", [0.0, -2.0])
def test_alpha_that_is_not_positive_gives_zeros_and_can_grow_again(alpha):
    quantizer = max_scale(2, alpha)
    x = torch.tensor([-1.0, 0.0, 3.0, 2.0])
    assert quantizer(x).abs().max() <= 1e-7
    quantizer.clamp_range()
    assert 0 < quantizer.alpha.item() <= 1e-7
    quantizer(x).sum().backward()
    # Two values above, one below.
    assert quantizer.alpha.grad.item() == pytest.approx(1.0)


@pytest.mark.parametrize("follows", [False, True])
def test_constant_inputs_give_numbers(follows):
    quantizer = max_scale(2, 1.0, follows=follows)
    for constant in (0.0, 7.0, -7.0):
        x = torch.full((2, 3, 4, 4), constant, requires_grad=True)
        out = quantizer(x)
        out.sum().backward()
        assert torch.isfinite(torch.stack([out.sum(), x.grad.sum(), quantizer.alpha.grad])).all()


@pytest.mark.parametrize(
    ("iters", "following"), [(30, range(1)), (300, range(10)), (7, range(1)), (30_000, range(1000))]
)
def test_the_first_thirtieth_of_the_training_is_warm_up(iters, following):
    network, method = quantized()
    for number in {0, len(following) - 1, len(following), iters - 1}:
        method.before_step(network, number, iters)
        follows = {q.follows for q in quantizers(network) if isinstance(q, MaxScale)}
        assert follows == {number in following}


@pytest.mark.parametrize(
    ("variant", "kinds"),
    [
        ("code", {"skip", "block", "block_out"}),
        ("paper", {"block_in", "block", "block_out"}),
        ("corrected", {"block_in", "block", "block_out"}),
    ],
)
def test_every_block_has_three_quantized_activations_and_two_weights(variant, kinds):
    network, method = build(EDSRConfig(n_feats=4)), PAMS(PAMSConfig(variant=variant))
    plan = quantize_network(network, method, method.paper_placement(), Bits(4, 3))
    assert sum(isinstance(q, MaxScale) for q in quantizers(network)) == 3 * 16
    assert sum(entry.weight_bits == 4 for entry in plan) == 2 * 16
    # The first convolution reads the quantized block_in and has no quantizer of its own.
    own = {e.site.kind for e in plan if e.input_bits == 3} - {"block_first"}
    assert own == kinds
    first = {entry.input_bits for entry in plan if entry.site.kind == "block_first"}
    assert first == ({32} if variant == "code" else {3})


@pytest.mark.parametrize("variant", ["code", "paper", "corrected"])
@pytest.mark.parametrize("number", [0, 29])
def test_every_trainable_parameter_gets_a_gradient_in_both_phases(variant, number):
    network, method = quantized(variant)
    trained = {id(p) for group in method.parameter_groups(network).values() for p in group}
    step(network, method, number, 30)
    for name, parameter in network.named_parameters():
        assert id(parameter) in trained
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_resumed_training_equals_an_uninterrupted_one(stop):
    def train(network, method, steps):
        for number in steps:
            step(network, method, number, 10)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 1e-4 * parameter.grad
            method.after_step(network)

    config = PAMSConfig(warmup=0.4)
    whole, method = quantized()[0], PAMS(config)
    train(whole, method, range(10))
    first = quantized()[0]
    train(first, PAMS(config), range(stop))
    second = quantized()[0]
    second.load_state_dict(first.state_dict())
    train(second, PAMS(config), range(stop, 10))
    for key, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key


TOGETHER = """
import torch
from torch import distributed
from sr_quant_cli.quant.max_scale import MaxScale

distributed.init_process_group("gloo")
quantizer = MaxScale(3)
quantizer.follows = True
quantizer(torch.tensor([[2.0 + 4.0 * distributed.get_rank()]]))
distributed.destroy_process_group()
assert quantizer.alpha.item() == 4.0
"""


@pytest.mark.slow
def test_alpha_follows_the_data_of_all_processes(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    subprocess.run([*command, "2", str(script)], check=True)
