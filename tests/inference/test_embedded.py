"""Embedded models: flat pictures, edges of photographs, PSNR to three decimals."""

import numpy as np
import pytest
import torch

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.lowering.samples import sample_pairs
from sr_quant_cli.metrics import get_protocol, score
from sr_quant_cli.system.resources import models_dir
from tests.helpers import open_path

pytestmark = pytest.mark.slow

GOLDEN = {
    "edsr-baseline-x2": 34.250,
    "edsr-baseline-x2-w29a6": 34.232,
    "edsr-baseline-x3": 32.168,
    "edsr-baseline-x3-w29a6": 32.132,
    "edsr-baseline-x4": 31.929,
    "edsr-baseline-x4-w29a6": 31.914,
    "edsr-baseline-x4-w8a8": 31.919,
    "edsr-photo-x2-w29a6": 32.444,
    "edsr-photo-x4-w29a6": 30.988,
    "edsr-small-x4-w8a8": 31.815,
}
"""PSNR in dB on the first sample picture, protocol matlab"""

COLOURS = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
COLOURS += [(128, 128, 128), (30, 90, 200), (200, 200, 200)]

models = pytest.mark.parametrize("name", sorted(path.stem for path in models_dir().glob("*.safe*")))


def opened(name):
    torch.manual_seed(0)
    return open_path(models_dir() / f"{name}.safetensors", runtime="torch", threads=1)


@models
def test_flat_pictures_stay_flat_to_the_last_pixel(name):
    upscaler = opened(name)
    for colour in COLOURS:
        for size in ((11, 14), (1, 1)):
            flat = np.full((*size, 3), colour, np.uint8)
            assert np.abs(upscaler(flat).astype(int) - colour).max() <= 2, (colour, size)


@models
def test_edges_of_photographs_are_as_good_as_their_inside(name):
    """Compared with bicubic: at x4 the outermost pixels lie outside the span of the LR pixels."""
    upscaler = opened(name)
    ratios = []
    for _, lr, hr in sample_pairs(upscaler.scale):
        edge = np.ones(hr.shape[:2], bool)
        edge[1:-1, 1:-1] = False
        for sr in (upscaler(lr), enlarge(lr, upscaler.scale)):
            error = np.square(sr.astype(float) - hr)
            ratios.append(np.sqrt(error[edge].mean() / error[~edge].mean()))
    ours, bicubic = np.reshape(ratios, (-1, 2)).mean(0)
    assert ours < 1.1 * max(bicubic, 1)


@models
def test_psnr_is_that_of_the_day_it_was_embedded(name):
    upscaler = opened(name)
    _, lr, hr = sample_pairs(upscaler.scale)[0]
    psnr = score(upscaler(lr), hr, upscaler.scale, get_protocol("matlab")).psnr
    assert psnr == pytest.approx(GOLDEN[name], abs=1e-3)
