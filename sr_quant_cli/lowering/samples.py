"""Real pictures from scikit-image, on which exported graphs are checked."""

import numpy as np
from skimage import data

from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.runtimes.base import Pixels

NAMES = ("chelsea", "coffee", "rocket")
_LR_SIDES = ((73, 101), (97, 85), (67, 113))
"""Odd heights and widths, which show mistakes with tiles and strides."""


def sample_pairs(scale: int) -> list[tuple[str, Pixels, Pixels]]:
    """Load three pictures: name, LR (MATLAB's bicubic) and HR, uint8 ``[h, w, 3]``."""
    pairs = []
    for name, (height, width) in zip(NAMES, _LR_SIDES, strict=True):
        whole = getattr(data, name)()
        top, left = (whole.shape[0] - height * scale) // 2, (whole.shape[1] - width * scale) // 2
        hr = np.ascontiguousarray(whole[top:, left:][: height * scale, : width * scale])
        pairs.append((name, downscale(hr, scale), hr))
    return pairs
