"""A rectangle of the result, alone: the same as that rectangle of the whole result."""

import itertools

import numpy as np
import onnx
import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.tiling import Patches, Region
from sr_quant_cli.inference.bits import BitMeter
from sr_quant_cli.inference.patchwise import PatchwiseUpscaler
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.inference.upscaler import BicubicUpscaler
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import nearest_onnx, open_path, picture, tiny_edsr, tiny_swinir
from tests.inference.dynamic import dynamic_edsr
from tests.inference.stubs import WINDOWS, Windows, gradient
from tests.lowered import CPU, deployed

SIZE = (37, 53)
REGIONS = [
    Region(0, 0, 37, 53),
    Region(0, 0, 1, 1),
    Region(36, 52, 1, 1),
    Region(5, 7, 20, 31),
    Region(8, 12, 16, 16),
    Region(19, 0, 18, 53),
    Region(0, 30, 37, 5),
]


def cut(whole, region, scale=2):
    rows = slice(region.top * scale, region.bottom * scale)
    return whole[rows, region.left * scale : region.right * scale]


@pytest.mark.parametrize(("region", "tile"), [*itertools.product(REGIONS, [None, 4, 7, 16])])
def test_tiles_and_windows_are_those_of_the_whole_picture(region, tile):
    upscaler = TiledUpscaler(Windows(), WINDOWS, tile)
    for lr in (picture(*SIZE), gradient(*SIZE)):
        whole = TiledUpscaler(Windows(), WINDOWS)(lr)
        ran = []
        assert np.array_equal(upscaler(lr, ran.append, region), cut(whole, region))
        assert len(ran) == upscaler.tile_count(*SIZE, region)


@pytest.mark.parametrize("tile", [None, 9])
def test_an_integer_graph_gives_the_very_rectangle(tmp_path, tile):
    made = deployed("full w4a4", "uint8")
    onnx.save(made.model, tmp_path / "p.onnx")
    graph = open_path(tmp_path / "p.onnx", runtime="onnxruntime", threads=1)._runtime
    lr = picture(*SIZE)
    whole = TiledUpscaler(graph, made.traits)(lr)
    for region in REGIONS:
        part = TiledUpscaler(graph, made.traits, tile)(lr, region=region)
        assert np.array_equal(part, cut(whole, region))


@pytest.mark.parametrize("make", [tiny_edsr, tiny_swinir])
def test_a_float_network_gives_it_but_for_the_order_of_sums(make):
    network = make()
    upscaler = TiledUpscaler(TorchRuntime(network, CPU), traits_of_network(network, "net"), 16)
    lr = gradient(*SIZE)
    whole = upscaler(lr)
    for region in REGIONS:
        part = upscaler(lr, region=region)
        assert np.abs(part.astype(int) - cut(whole, region)).max() <= 1


def test_only_the_region_and_its_surroundings_are_read():
    lr = picture(200, 300)
    reads = []

    def read(top, bottom, left, right):
        reads.append((top, bottom, left, right))
        return lr[top:bottom, left:right]

    region = Region(90, 120, 20, 40)
    bands = list(TiledUpscaler(Windows(), WINDOWS, 16).bands(read, 200, 300, region=region))
    assert sum(len(band) for band in bands) == 40
    assert {band.shape[1:] for band in bands} == {(80, 3)}
    top, bottom, left, right = np.transpose(reads)
    assert top.min() >= 90 - 11
    assert bottom.max() <= 110 + 11
    assert left.min() >= 120 - 11
    assert right.max() <= 160 + 11


def test_whole_pictures_and_patches_are_cut(tmp_path):
    lr = picture(*SIZE)
    network = tiny_edsr()
    patchwise = PatchwiseUpscaler(
        TorchRuntime(network, CPU),
        traits_of_network(network, "net"),
        BitMeter(network),
        Patches(12, 10),
        batch=1,
    )
    foreign = open_path(nearest_onnx(tmp_path / "n.onnx"), runtime="onnxruntime", threads=1)
    for upscaler in (BicubicUpscaler(2), foreign, patchwise):
        whole = upscaler(lr)
        for region in REGIONS:
            assert np.array_equal(upscaler(lr, region=region), cut(whole, region))
    assert patchwise.tile_count(*SIZE, Region(5, 7, 20, 31)) == 3 * 4


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region(0, 0, 38, 1), "`region` 0,0,1,38: goes beyond the picture, which has 53x37 pixels"),
        (Region(0, 53, 1, 1), "`region` 53,0,1,1: goes beyond"),
        (Region(0, 0, 0, 1), "`region` 0,0,1,0: must be X,Y,W,H"),
        (Region(-1, 0, 1, 1), "`region` 0,-1,1,1: must be X,Y,W,H"),
    ],
)
def test_what_is_no_rectangle_of_the_picture_is_refused(region, message):
    for upscaler in (TiledUpscaler(Windows(), WINDOWS), BicubicUpscaler(2)):
        with pytest.raises(UsageError, match=message):
            upscaler(picture(*SIZE), region=region)


def test_bits_of_a_part_are_warned_of(capsys):
    network = dynamic_edsr()
    upscaler = TiledUpscaler(TorchRuntime(network, CPU), traits_of_network(network, "net"))
    upscaler(picture(20, 20))
    assert capsys.readouterr().err == ""
    upscaler(picture(20, 20), region=Region(0, 0, 5, 20))
    assert "its ranges or bits are those of each tile" in capsys.readouterr().err
