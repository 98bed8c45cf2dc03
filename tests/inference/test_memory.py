"""Too little memory for a tile, and tiles in batches."""

import numpy as np
import pytest
import torch

from sr_quant_cli.errors import OutOfMemoryError
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.inference.upscaler import BicubicUpscaler
from sr_quant_cli.runtimes.onnxruntime import OnnxRuntime
from sr_quant_cli.runtimes.openvino import OpenVinoRuntime
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import nearest_onnx, picture, tiny_edsr
from tests.inference.stubs import WINDOWS, Windows, gradient
from tests.lowered import CPU

TOLD = "windows: memory ran out; smaller tiles from here on\n"


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("region", [None, Region(3, 5, 140, 201)])
def test_smaller_tiles_give_the_same_picture(capsys, region, ensemble):
    lr = picture(150, 210)
    wanted = TiledUpscaler(Windows(), WINDOWS, self_ensemble=ensemble)(lr, region=region)
    short = Windows(most=80 * 80)
    upscaler = TiledUpscaler(short, WINDOWS, self_ensemble=ensemble)
    ran = []
    assert np.array_equal(upscaler(lr, ran.append, region), wanted)
    name = "windows+" if ensemble else "windows"
    assert capsys.readouterr().err == TOLD.replace("windows", name)
    kept = sum(
        (tile.rows.last - tile.rows.first) * (tile.columns.last - tile.columns.first)
        for tile in ran
    )
    assert kept == np.prod(wanted.shape[:2]) // 4
    # The next picture begins with tiles that fit.
    failed = len(short.shapes)
    upscaler(lr, region=region)
    assert max(h * w for _, h, w, _ in short.shapes[failed:]) <= 80 * 80
    assert capsys.readouterr().err == ""


def test_finished_bands_are_not_made_again():
    lr = picture(120, 64)
    runtime, tops = Windows(), []

    def read(top, bottom, left, right):
        tops.append(top)
        return lr[top:bottom, left:right]

    bands = TiledUpscaler(runtime, WINDOWS, 64).bands(read, 120, 64)
    first = next(bands)
    runtime.most = 3000
    tops.clear()
    made = np.concatenate([first, *bands])
    assert np.array_equal(made, TiledUpscaler(Windows(), WINDOWS)(lr))
    assert len(first) == 2 * 60
    assert min(tops) == 60 - 8


def test_there_is_an_end_to_it():
    runtime = Windows(most=30 * 30)
    with pytest.raises(OutOfMemoryError, match="out of memory: 36x36"):
        TiledUpscaler(runtime, WINDOWS, tile=128)(picture(300, 300))
    assert len(runtime.shapes) == 3  # 128, 64 and 32 LR pixels that are kept


class NoMemory:
    """A network on which torch says what it says without memory."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
)
def test_torch_s_lack_of_memory_is_one_line(monkeypatch, error):
    network = tiny_edsr()
    runtime = TorchRuntime(network, CPU)
    monkeypatch.setattr(network, "forward", NoMemory(error))
    for run in (
        lambda: runtime(picture(5, 6)),
        lambda: runtime.floats(np.zeros((1, 5, 6, 3), "f")),
    ):
        with pytest.raises(OutOfMemoryError, match="out of memory: torch, with 6x5 pixels at once"):
            run()
    monkeypatch.setattr(network, "forward", NoMemory(RuntimeError("another one")))
    with pytest.raises(RuntimeError, match="another one"):
        runtime(picture(5, 6))


@pytest.mark.parametrize("runtime", [OnnxRuntime, OpenVinoRuntime])
def test_so_is_that_of_graphs(tmp_path, runtime):
    graph = runtime(nearest_onnx(tmp_path / "n.onnx"), 1)
    for text in ("std::bad_alloc", "Failed to allocate memory for requested buffer of size 9"):
        error = graph.refused(graph.to_batch(picture(5, 6)), RuntimeError(text))
        assert isinstance(error, OutOfMemoryError)
        assert str(error) == f"out of memory: {tmp_path / 'n.onnx'}, with 6x5 pixels at once"


@pytest.mark.parametrize("deep", [False, True])
def test_tiles_of_one_size_run_in_batches(deep):
    lr = (gradient if deep else picture)(40, 90)
    runtime, ran = Windows(), []
    upscaler = TiledUpscaler(runtime, WINDOWS, 12, batch=3)
    sr = upscaler(lr, ran.append)
    assert np.array_equal(sr, TiledUpscaler(Windows(), WINDOWS)(lr))
    assert len(ran) == upscaler.tile_count(40, 90) == 32
    # Of a row of 8 tiles five see a whole halo on both sides.
    assert sorted(shape[0] for shape in runtime.shapes[:5]) == [1, 1, 1, 2, 3]


def test_a_network_in_batches_gives_the_same_tiles():
    network = tiny_edsr()
    traits = traits_of_network(network, "net")
    lr = picture(60, 150)
    sizes = []
    network.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    one, many = (TiledUpscaler(TorchRuntime(network, CPU), traits, 16, batch=n) for n in (1, 4))
    first = one(lr).astype(int)
    assert set(sizes) == {1}
    assert np.abs(first - many(lr)).max() <= 1
    assert max(sizes) == 4


def test_batches_without_memory_run_one_by_one(capsys):
    lr = picture(40, 90)
    upscaler = TiledUpscaler(Windows(most=28 * 28 * 2), WINDOWS, 12, batch=4)
    assert np.array_equal(upscaler(lr), TiledUpscaler(Windows(), WINDOWS)(lr))
    assert capsys.readouterr().err == TOLD


def test_the_memory_of_the_device_decides_on_batches(monkeypatch):
    runtime = Windows()
    upscaler = TiledUpscaler(runtime, WINDOWS, 12)
    upscaler(picture(40, 90))
    assert {shape[0] for shape in runtime.shapes} == {1}
    tile = 28 * 28
    monkeypatch.setattr(runtime, "free_memory", lambda: 4 * tile * WINDOWS.bytes_per_pixel)
    runtime.shapes.clear()
    upscaler(picture(40, 90))
    assert max(shape[0] for shape in runtime.shapes) > 1
    assert max(np.prod(shape[:3]) for shape in runtime.shapes) == 2 * tile
    runtime.batch_matters = True
    runtime.shapes.clear()
    upscaler(picture(40, 90))
    assert {shape[0] for shape in runtime.shapes} == {1}


def test_the_cost_is_estimated_before_anything_runs():
    upscaler = TiledUpscaler(Windows(), WINDOWS, 16, pixel_seconds=0.5)
    known = upscaler.estimate(32, 48)
    assert known.tiles == upscaler.tile_count(32, 48) == 6
    # Rows of 24 and 24 LR pixels with their halos of 8, columns of 24, 32 and 24.
    assert known.seconds == 0.5 * 48 * 80
    assert known.bytes == 24 * 32 * 100 + 16 * 48 * 4 * 3
    assert upscaler.estimate(32, 48, bits=16).bytes == 24 * 32 * 100 + 16 * 48 * 4 * 3 * 2
    assert upscaler.estimate(32, 48, Region(0, 0, 8, 8)).tiles == 1
    assert upscaler.estimate(32, 48, Region(0, 0, 8, 8)).seconds == 0.5 * 16 * 16
    turned = TiledUpscaler(Windows(), WINDOWS, 16, pixel_seconds=0.5, self_ensemble=True)
    assert turned.estimate(32, 48).seconds == 8 * known.seconds
    assert BicubicUpscaler(2).estimate(32, 48).seconds is None
