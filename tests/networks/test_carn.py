import torch

from sr_quant_cli.networks import build
from sr_quant_cli.networks.carn import CARNBlock, CARNConfig, Cascade


def count(scale, **config):
    return build(CARNConfig(scale=scale, **config)).parameter_count()


def test_parameter_counts():
    # The counts of the papers include 24 values of mean shifts.
    assert count(4) + 24 == 1_111_899
    upsamplers = {2: 9 * 64 * 256 + 256, 3: 9 * 64 * 576 + 576, 4: 2 * (9 * 64 * 256 + 256)}
    body = count(4) - upsamplers[4]
    assert all(count(scale) == body + upsamplers[scale] for scale in (2, 3))
    assert body + sum(upsamplers.values()) + 24 == 1_591_963


def test_carn_m_has_one_block_in_each_cascade_and_grouped_kernels():
    block = 2 * (9 * 64 * 16 + 64) + 64 * 64 + 64
    fusions = sum(i * 64 * 64 + 64 for i in (2, 3, 4))
    ends = 9 * 3 * 64 + 64 + 9 * 64 * 3 + 3
    upsampler = 2 * (9 * 16 * 256 + 256)
    wanted = 3 * block + 4 * fusions + ends + upsampler
    assert count(4, groups=4, shared=True) == wanted


def test_a_block_ends_with_a_relu_behind_the_sum():
    block = CARNBlock(2, 1)
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.fill_(-0.5)
    x = torch.tensor([-1.0, 0.2, 0.7, 2.0]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    assert torch.allclose(block(x), (x - 0.5).clamp_min(0))


def test_a_cascade_merges_all_outputs_so_far():
    # Units add 1, fusions sum up what they get: 2x + 1, then x + (x + 1) + (2x + 2), and so on.
    class PlusOne(torch.nn.Module):
        def forward(self, x):
            return x + 1

    for units in ([PlusOne()], [PlusOne() for _ in range(3)]):
        cascade = Cascade(1, units)
        with torch.no_grad():
            for fusion in cascade.fusions:
                fusion.weight.fill_(1.0)
                fusion.bias.zero_()
        x = torch.rand(1, 1, 3, 3)
        kept, y = [x], x
        for _ in range(3):
            kept.append(y + 1)
            y = sum(kept)
        assert torch.allclose(cascade(x), y)
