"""Small pictures and networks that several test modules use."""

import numpy as np
import torch
from numpy.typing import NDArray

from sr_quant_cli.networks import build
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig


def tiny_edsr(scale: int = 2, seed: int = 0) -> EDSR:
    """A network small enough for tests, with weights that make its output vary."""
    torch.manual_seed(seed)
    network = build(EDSRConfig(scale=scale, n_blocks=2, n_feats=8))
    assert isinstance(network, EDSR)
    return network.eval()


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture with smooth shapes and texture: uint8 ``[height, width, 3]``."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        127 + 90 * np.sin(x / (3 + 2 * c) + y / (5 + c) + random.uniform(0, 6)) for c in range(3)
    ]
    noise = random.normal(0, 8, (height, width, 3))
    return np.clip(np.stack(waves, axis=2) + noise, 0, 255).astype(np.uint8)
