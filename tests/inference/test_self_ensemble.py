"""Geometric self-ensemble: the mean of eight float results, rounded once."""

import itertools

import numpy as np
import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.levels import to_floats
from sr_quant_cli.imaging.tiling import Patches, Region
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.symmetry import SYMMETRIES
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.runtimes.torch import TorchRuntime
from tests.helpers import nearest_onnx, open_path, picture, tiny_edsr
from tests.inference.stubs import WINDOWS, Windows, gradient
from tests.lowered import CPU


def by_hand(runtime, lr):
    """Mean of all eight turned pictures, whole, in levels."""
    turned = []
    for turns, mirrored in itertools.product(range(4), (False, True)):
        x = np.rot90(to_floats(lr), turns)
        y = runtime.floats((x[:, ::-1] if mirrored else x)[None])[0]
        turned.append(np.rot90(y[:, ::-1] if mirrored else y, -turns))
    most = np.iinfo(lr.dtype).max
    return (np.mean(turned, axis=0, dtype=np.float64) * most).clip(0, most)


def test_the_symmetries_are_the_eight_of_a_square():
    square = picture(4, 4)
    assert len({symmetry.apply(square).tobytes() for symmetry in SYMMETRIES}) == 8
    assert np.array_equal(SYMMETRIES[0].apply(square), square)
    lr, region = picture(5, 9), Region(1, 2, 3, 4)
    for symmetry in SYMMETRIES:
        turned = symmetry.apply(lr)
        assert np.array_equal(symmetry.undo(turned), lr)
        assert turned.shape[:2] == symmetry.size(5, 9)
        place = symmetry.place(region, 5, 9)
        seen = turned[place.top : place.bottom, place.left : place.right]
        assert np.array_equal(seen, symmetry.apply(lr[1:4, 2:6]))
        assert symmetry.origin(place, 5, 9) == region


@pytest.mark.parametrize("tile", [None, 4, 9])
@pytest.mark.parametrize("size", [(37, 53), (16, 12), (1, 6)])
def test_tiles_give_the_mean_of_whole_pictures(tile, size):
    for lr in (picture(*size), gradient(*size)):
        upscaler = TiledUpscaler(Windows(), WINDOWS, tile, self_ensemble=True)
        wanted = by_hand(Windows(), lr)
        sr = upscaler(lr)
        assert sr.dtype == lr.dtype
        assert np.abs(sr - wanted).max() <= 0.51
    assert upscaler.name == "windows+"


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_models_and_foreign_graphs_do_it(tmp_path, tiny_model, runtime):
    lr = picture(13, 18)
    if runtime == "torch":
        path, model = tiny_model, TorchRuntime(tiny_edsr(), CPU)
    else:
        path = nearest_onnx(tmp_path / "n.onnx")
        model = open_path(path, runtime=runtime, threads=1)._runtime
    upscaler = open_path(path, runtime=runtime, threads=1, self_ensemble=True)
    assert upscaler.name.endswith("+")
    assert np.abs(upscaler(lr) - by_hand(model, lr)).max() <= 0.51


def test_patches_are_not_turned():
    with pytest.raises(UsageError, match=r"`self_ensemble`: not with patches"):
        RunOptions(patches=Patches(), self_ensemble=True)
