"""Blocks that a network repeats: traced once, each with its own weights."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import sr_quant_cli.lowering.onnx as lowering_onnx
from sr_quant_cli.lowering.onnx import to_onnx
from sr_quant_cli.lowering.repeats import UnrepeatableError, stand_in
from sr_quant_cli.networks.base import Network
from tests.helpers import tiny_edsr

ran = []
"""Factors of the blocks whose ``forward`` was traced."""


class Block(nn.Module):
    def __init__(self, factor=0.5, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.factor = factor

    def forward(self, x, mask=None):
        if torch.compiler.is_exporting():
            ran.append(self.factor)
        y = self.conv(x) if mask is None else self.conv(x) * mask
        return x + self.factor * y.relu()


class Squeeze(Block):
    """Halves height and width."""

    def forward(self, x):
        return super().forward(x)[:, :, ::2, ::2]


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x):
        return self.second(self.first(x)) * 0.9


class Body(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Masked(Body):
    def forward(self, x):
        for block in self.blocks:
            x = block(x, x.mean(1, keepdim=True).sigmoid())
        return x


class Downwards(Body):
    def forward(self, x):
        for block in self.blocks:
            x = block(x)[:, :, ::2, ::2]
        return x


class Enclosing(Block):
    """Its attribute is a function that encloses a number."""

    def __init__(self, factor):
        super().__init__()
        self.multiply = lambda y: y * factor

    def forward(self, x):
        return self.multiply(super().forward(x))


def network_of(body):
    """A network that enlarges by 2 and has ``body`` between head and tail."""

    class Tested(Network):
        receptive_radius, floats_per_pixel = 8, 8

        def __init__(self):
            super().__init__(tiny_edsr(scale=2).config)
            self.head, self.body, self.tail = (
                nn.Conv2d(3, 4, 3, padding=1),
                body,
                nn.Conv2d(4, 12, 3, padding=1),
            )

        def declared_sites(self):
            return ()

        def enlarge(self, x):
            y = self.body(self.head(x))
            return nn.functional.pixel_shuffle(self.tail(y), 2)

    torch.manual_seed(0)
    return Tested().eval()


def traced_and_equal(body):
    """Trace a network and compare the graph with it; return the factors of the traced blocks."""
    torch.manual_seed(1)
    network = network_of(body)
    x = torch.rand(1, 3, 21, 34)
    with torch.no_grad():
        wanted = network(x).numpy()
    ran.clear()
    model = to_onnx(network, "float")
    traced = list(ran)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (given,) = session.run(None, {"lr": x.numpy()})
    assert not any(node.domain == "srq" for node in model.graph.node)
    np.testing.assert_allclose(given, wanted, atol=2e-6)
    return traced


def sharing(*pairs):
    """Blocks, some of which have the weight of another one."""
    blocks = [Block() for _ in range(4)]
    for block, other in pairs:
        blocks[block].conv.weight = blocks[other].conv.weight
    return Body(*blocks)


def aliased(*same):
    """Blocks with two buffers, which are one tensor in some of them."""
    blocks = [Block() for _ in same]
    for index, (block, one) in enumerate(zip(blocks, same, strict=True)):
        block.conv.register_buffer("a", torch.full((), 0.1 * index))
        block.conv.register_buffer("b", block.conv.a if one else torch.full((), 0.5))
        block.conv.__class__ = Shifted
    return Body(*blocks)


class Shifted(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * self.a + self.b


@pytest.mark.parametrize(
    ("body", "traced"),
    [
        (lambda: Body(*(Block() for _ in range(5))), 1),
        (lambda: Masked(*(Block() for _ in range(3))), 1),
        (lambda: Body(Block(0.5), Block(0.25), Block(0.5), Block(0.25)), 2),
        (lambda: Body(Pair(), Pair(), Pair()), 1),
        (lambda: Body(Pair(), Block(), Pair()), 1),
        (lambda: Downwards(Block(), Block(), Block()), 3),
        (lambda: Body(Squeeze(), Squeeze()), 2),
        (lambda: Body(Enclosing(0.5), Enclosing(0.5), Enclosing(0.7)), 2),
        (lambda: Body(*[Block()] * 3), 3),
        (lambda: Body(*[block for block in (Block(), Block()) for _ in range(2)]), 4),
        (lambda: sharing((1, 0), (3, 0)), 3 + 1),
        (lambda: aliased(True, False, True, False), 2),
    ],
    ids=[
        "equal",
        "mask",
        "two kinds",
        "blocks in blocks",
        "inner and outer",
        "sizes",
        "other shape",
        "functions",
        "one module",
        "modules that run twice",
        "shared weights",
        "one tensor of two names",
    ],
)
def test_one_block_of_each_kind_is_traced(body, traced):
    assert len(traced_and_equal(body())) == traced


def test_a_block_with_a_hook_is_traced():
    body = Body(Block(), Block())
    body.blocks[1].register_forward_hook(lambda module, inputs, y: y * 2)
    assert len(traced_and_equal(body)) == 2


def test_all_blocks_are_traced_if_one_cannot_be_copied(monkeypatch):
    def refuse(*_):
        raise UnrepeatableError

    monkeypatch.setattr(lowering_onnx, "copy_repeats", refuse)
    assert len(traced_and_equal(Body(Block(), Block()))) == 1 + 2


def test_a_module_without_repetition_is_unchanged():
    body = Body(Block(0.5), Block(0.25))
    stand_in(body)
    assert all("forward" not in vars(module) for module in body.modules())
