"""Counting operations with a network on meta tensors, where nothing is computed."""

from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network

N = TypeVar("N", bound=Network)


def float_twin(network: N) -> N:
    """Build a float network with the same configuration and depth on meta tensors."""
    twin = build(network.config.model_copy(update={"context": 0})).to("meta").eval()
    assert isinstance(twin, type(network))
    twin.take_depth(network)
    return twin


def count_macs(network: Network, height: int, width: int) -> int:
    """Count the multiply-accumulates of one forward pass on an LR picture of that size.

    It runs on meta tensors, so nothing is computed.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        float_twin(network)(torch.empty(1, 3, height, width, device="meta"))
    return int(counter.get_total_flops()) // 2
