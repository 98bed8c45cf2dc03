"""One trace for a graph: in place or not, with regions or not."""

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.program import is_plain, make_functional, trace
from tests.helpers import tiny_edsr
from tests.lowered import quantize


class InPlace(nn.Module):
    def forward(self, x):
        y = (x - 0.5).mul_(2).relu_()
        scratch = y.square()
        total = scratch.sum((2, 3), keepdim=True)
        return y.div_(total + torch.sign(y, out=scratch).sum())


class ReadLater(nn.Module):
    def forward(self, x):
        y = x - 0.5
        y.relu_()
        return y * x


class OfAView(nn.Module):
    def forward(self, x):
        y = x - 0.5
        y[:, :1].relu_()
        return y


def traced(module):
    return trace(module, torch.rand(1, 2, 8, 6), {2: Dim("h", min=2), 3: Dim("w", min=2)})


@pytest.mark.parametrize(("module", "plain"), [(InPlace, True), (OfAView, False)])
def test_overwritten_tensors_get_results_of_their_own(module, plain):
    program, x = traced(module()), torch.rand(1, 2, 5, 9)
    assert not is_plain(program.graph_module, {})
    make_functional(program.graph_module)
    assert is_plain(program.graph_module, {}) == plain
    assert torch.equal(program.module()(x), module()(x.clone()))


def test_a_tensor_that_is_read_later_stays_overwritten():
    program, x = traced(ReadLater()), torch.rand(1, 2, 5, 9)
    make_functional(program.graph_module)
    assert torch.equal(program.module()(x), ReadLater()(x.clone()))


@pytest.mark.parametrize("method", ["minmax", "daq"])
def test_a_graph_is_made_of_one_trace(monkeypatch, method):
    again = []
    monkeypatch.setattr(ExportedProgram, "run_decompositions", lambda *_: again.append(method))
    assert deploy(quantize(tiny_edsr(), method, "paper"), method, "uint8").model.graph.node
    assert not again
