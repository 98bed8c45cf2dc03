"""CABM: the table from scores and choices, by hand."""

import pytest
import torch

from sr_quant_cli.methods.cabm import CABM, CABMConfig, EdgeTable
from sr_quant_cli.methods.cadyq import CADyQ, CADyQConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.pictures import edge_score
from sr_quant_cli.quant.plan import Bits
from tests.helpers import tiny_edsr


def test_a_table_of_two_intervals_and_two_layers():
    table = EdgeTable((4, 6, 8), ["a", "b"], 2)
    assert table.table.tolist() == [[2, 2]] * 2
    scores = torch.tensor([1.0, 9.0, 2.0, 8.0, 3.0, 7.0])
    chosen = torch.tensor([[0, 1], [2, 2], [0, 0], [2, 1], [1, 1], [1, 1]])
    table.fill(scores, chosen)
    assert table.edges.tolist() == [5.0]
    # The smooth ones: 0, 0, 1 and 1, 0, 1; the edgy ones: 2, 2, 1 and 2, 1, 1.
    assert table.table.tolist() == [[0, 1], [2, 1]]


def test_of_equal_counts_the_fewer_bits():
    table = EdgeTable((4, 8), ["a"], 1)
    table.fill(torch.tensor([1.0, 2.0]), torch.tensor([[1], [0]]))
    assert table.table.tolist() == [[0]]


def test_an_interval_without_patches_keeps_the_most_bits():
    table = EdgeTable((4, 8), ["a"], 3)
    table.fill(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([[0], [0], [0]]))
    assert table.table.tolist() == [[0], [1], [1]]


def quantized(method, bits=8):
    network = tiny_edsr()
    quantize_network(network, method, method.paper_placement(), Bits(8, bits))
    return network


def smooth_and_edgy():
    ramp = torch.linspace(0.2, 0.8, 12).expand(1, 3, 12, 12)
    noise = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return torch.cat([ramp, ramp + 0.05 * noise[:1], noise[1:]])


def test_it_chooses_what_cadyq_chose_for_patches_like_it():
    before = quantized(CADyQ(CADyQConfig()))
    for selector in before.bit_provider.layers.values():
        # 4 bits unless the gradient decides otherwise.
        torch.nn.init.zeros_(selector.weight)
        selector.bias.data.copy_(torch.tensor([0.1, 0.0, -90.0]))
        selector.weight.data[2, :2] = 1.0
    method = CABM(CABMConfig(intervals=2))
    network = quantized(method)
    lr = smooth_and_edgy()
    method.inherit(network, before, [lr[:2], lr[2:]])
    assert edge_score(lr).argsort().tolist()[:2] == [0, 1]
    with torch.no_grad():
        network(lr)
        before(lr)
    assert network.bit_provider.chosen().tolist() == [[4] * 4, [4] * 4, [8] * 4, [8] * 4]
    assert torch.equal(network.bit_provider.chosen(), before.bit_provider.chosen())
    assert not list(network.bit_provider.parameters())


def test_another_set_of_candidates_is_refused():
    before = quantized(CADyQ(CADyQConfig(candidates=[2, 8])))
    method = CABM(CABMConfig())
    with pytest.raises(ValueError, match=r"chooses among \[2, 8\] bits, the table among \[4, 6, 8"):
        method.inherit(quantized(method), before, [smooth_and_edgy()])


def test_other_bits_are_refused():
    with pytest.raises(ValueError, match="`a` 6: bits are chosen among"):
        quantized(CABM(CABMConfig()), bits=6)
