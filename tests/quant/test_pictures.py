"""Statistics of pictures, against numpy and by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from sr_quant_cli.quant.pictures import deviations, edge_score, entropy, sobel_gradients
from tests.helpers import picture


def batch(*seeds, size=(9, 13)):
    pixels = np.stack([picture(*size, seed) for seed in seeds])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def grey(x):
    return np.tensordot(x.double().numpy(), (0.299, 0.587, 0.114), axes=((1,), (0,)))


def test_sobel_gradients():
    x = batch(1, 2)
    found = sobel_gradients(x)
    lengths = sobel_gradients(x, magnitude=True)
    assert found.shape == (2, 2)
    assert lengths.shape == (2, 1)
    for g, slopes, length in zip(grey(x), found, lengths, strict=True):
        dx, dy = (ndimage.sobel(g, axis, mode="nearest") / 8 for axis in (1, 0))
        assert slopes.tolist() == pytest.approx([abs(dx).mean(), abs(dy).mean()], rel=1e-5)
        assert length.item() == pytest.approx(np.hypot(dx, dy).mean(), rel=1e-5)


def test_edge_score():
    x = batch(3, 4)
    expected = [abs(ndimage.laplace(255 * g, mode="nearest")).mean() for g in grey(x)]
    assert edge_score(x).tolist() == pytest.approx(expected, rel=1e-4)


def test_entropy():
    x = batch(5, 6)
    points = np.linspace(0, 1, 32)
    for g, found in zip(grey(x), entropy(x), strict=True):
        density = np.exp(-0.5 * ((g.reshape(-1, 1) - points) / 0.0255) ** 2).mean(0)
        p = density / density.sum()
        assert found.item() == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ramp = noise.expand(1, 3, 64, 64)
    assert entropy(ramp).item() == pytest.approx(np.log(32), abs=0.02)


def test_deviations_are_unbiased_and_of_each_channel():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = x.double().numpy().std(axis=(2, 3), ddof=1)
    assert np.allclose(deviations(x).numpy(), expected, rtol=1e-5)
    assert deviations(x[:, :, :1, :1]).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("function", [sobel_gradients, edge_score, entropy])
def test_a_sample_does_not_depend_on_its_batch_and_one_pixel_is_a_picture(function):
    x = batch(1, 2, 3)
    assert torch.allclose(function(x)[1], function(x[1:2])[0], rtol=1e-5)
    assert function(x[:, :, :1, :1]).isfinite().all()
