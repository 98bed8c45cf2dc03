"""Patches: how they are joined, and their independence of their batch."""

import numpy as np
import pytest
import torch
from torch import nn

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.tiling import Patches, Span
from sr_quant_cli.inference.bits import BitMeter
from sr_quant_cli.inference.patchwise import PatchwiseUpscaler
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.methods import build
from sr_quant_cli.methods.ddtb import DDTBConfig
from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import nearest_onnx, open_path, picture, tiny_edsr
from tests.inference.dynamic import dynamic_edsr

CPU = torch.device("cpu")


class Nearest(Network):
    """Repeats pixels, paints the outermost ones of each patch red, and counts its batches."""

    receptive_radius = 0
    floats_per_pixel = 12

    def __init__(self, mark=False):
        super().__init__(NetworkConfig(name="nearest", scale=2))
        self.mark, self.shapes = mark, []
        self.conv = nn.Conv2d(3, 3, 1)

    def declared_sites(self):
        return ()

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        if self.mark:
            x = x.clone()
            for edge in (x[:, 0, 0], x[:, 0, -1], x[:, 0, :, 0], x[:, 0, :, -1]):
                edge.fill_(1)
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def patchwise(network, patch=96, step=90, batch=None):
    traits = traits_of_network(network, "net")
    meter = BitMeter(network)
    return PatchwiseUpscaler(
        TorchRuntime(network, CPU), traits, meter, Patches(patch, step), batch=batch
    )


def test_positions_are_those_of_the_papers_code():
    assert Patches().spans(290) == [
        Span(0, 96, 0, 93),
        Span(90, 186, 93, 183),
        Span(180, 290, 183, 290),  # at most one pixel less than a patch and a step
    ]
    assert Patches().spans(185) == [Span(0, 185, 0, 185)]
    assert [(s.start, s.stop) for s in Patches().spans(186)] == [(0, 96), (90, 186)]
    assert Patches(96, 96).spans(200) == [Span(0, 96, 0, 96), Span(96, 200, 96, 200)]
    assert Patches().spans(20) == [Span(0, 20, 0, 20)]


@pytest.mark.parametrize("length", [1, 9, 10, 17, 18, 19, 26, 53])
@pytest.mark.parametrize(("patch", "step"), [(10, 8), (10, 10), (9, 3), (1, 1)])
def test_patches_keep_every_pixel_once(length, patch, step):
    spans = Patches(patch, step).spans(length)
    assert [p for s in spans for p in range(s.first, s.last)] == list(range(length))
    assert all(s.start <= s.first < s.last <= s.stop for s in spans)


@pytest.mark.parametrize(
    ("patch", "step", "message"),
    [
        (90, 96, "from 1 to the size of a patch"),
        (96, 0, "from 1 to the size of a patch"),
        (96, 91, "overlap of 5 must be even"),
    ],
)
def test_patches_that_there_are_not_are_refused(patch, step, message):
    with pytest.raises(UsageError, match=message) as refused:
        Patches(patch, step)
    assert "\n" not in str(refused.value)


def test_a_network_that_sees_one_pixel_gives_the_whole_picture():
    lr = picture(47, 61)
    expected = lr.repeat(2, axis=0).repeat(2, axis=1)
    for patch, step in ((10, 8), (12, 12), (64, 50)):
        assert np.array_equal(patchwise(Nearest(), patch, step)(lr), expected)


def test_half_of_the_overlap_is_discarded_on_inner_sides_only():
    # Patches of 10 at a step of 6 begin at 0, 6, 12; the last one ends with the picture, at 22.
    sr = patchwise(Nearest(mark=True), 10, 6)(np.zeros((22, 10, 3), np.uint8))
    red = sr[:, 8, 0] == 255
    # With 2 pixels discarded only the picture's own border is left of the marks.
    assert np.flatnonzero(red).tolist() == [0, 1, 42, 43]
    # Nothing is discarded without overlap: every patch shows its border.
    sr = patchwise(Nearest(mark=True), 10, 10)(np.zeros((22, 10, 3), np.uint8))
    rows = np.flatnonzero(sr[:, 8, 0] == 255) // 2
    assert sorted(set(rows.tolist())) == [0, 9, 10, 21]


def test_every_patch_is_a_picture_of_its_own():
    network = tiny_edsr()
    lr = picture(34, 22)
    sr = patchwise(network, 12, 10)(lr)
    alone = TiledUpscaler(TorchRuntime(network, CPU), traits_of_network(network, "net"))
    # The middle patch of the first column: rows 10 to 22, of which 11 to 21 are kept.
    expected = alone(lr[10:22, :12])[2:22, :22]
    assert np.abs(sr[22:42, :22].astype(int) - expected).max() <= 1
    assert not np.array_equal(sr, alone(lr))


def test_patches_of_one_size_run_in_full_batches():
    network = Nearest()
    upscaler = patchwise(network, 10, 8, batch=3)
    upscaler(picture(26, 58))  # 3 rows of 7 patches, the last ones as large as the others
    assert network.shapes == [(3, 3, 10, 10), (3, 3, 10, 10), (1, 3, 10, 10)] * 3
    network.shapes.clear()
    patchwise(network, 10, 8, batch=14)(picture(26, 59))
    # Two rows at once: 12 patches, and 2 that are one pixel wider; then the third.
    assert network.shapes == [(12, 3, 10, 10), (2, 3, 10, 11), (6, 3, 10, 10), (1, 3, 10, 11)]
    assert upscaler.tile_count(26, 58) == 21


@pytest.mark.parametrize("make", [tiny_edsr, dynamic_edsr])
def test_the_batch_changes_nothing(make):
    # Dark to bright from left to right, so that bits differ from patch to patch.
    lr = (picture(26, 90) * np.linspace(0.1, 1, 90)[:, None] + 40 * np.eye(1)).astype(np.uint8)
    lr[:, 60:] = 255 - lr[:, 60:] // 3
    network = make()
    made, bits = [], []
    for batch in (1, 4, 100):
        ran = []
        made.append(patchwise(network, 10, 8, batch)(lr, ran.append).astype(int))
        ran.sort(key=lambda tile: (tile.rows.start, tile.columns.start))
        bits.append([None if tile.bits is None else tile.bits.tolist() for tile in ran])
    assert bits[0] == bits[1] == bits[2]
    if network.bit_provider is not None:
        assert {row[0] for row in bits[0]} == {4, 6, 8}
    for other in made[1:]:
        # Kernels of another batch may sum up in another order.
        assert np.abs(made[0] - other).max() <= 1
        assert (made[0] != other).mean() <= 1e-3


def test_methods_with_ranges_of_a_batch_run_patches_one_by_one():
    lr = picture(26, 42)
    for variant, batches in (("corrected", 2), ("code", 1)):
        network, method = tiny_edsr(), build(DDTBConfig(variant=variant))
        quantize_network(network, method, method.paper_placement(), Bits(4, 4))
        method.calibrate(network, [torch.rand(2, 3, 12, 12)])
        sizes = []
        network.register_forward_pre_hook(lambda _, x, sizes=sizes: sizes.append(len(x[0])))
        patchwise(network, 10, 8, batch=2)(lr)
        assert max(sizes) == batches


def test_only_a_row_of_patches_is_read_and_held_at_a_time():
    lr = picture(60, 50)
    reads = []

    def read(top, bottom, left, right):
        reads.append((top, bottom, left, right))
        return lr[top:bottom, left:right]

    bands = patchwise(Nearest(), 16, 14, batch=1).bands(read, 60, 50)
    assert next(bands).shape == (30, 100, 3)
    assert len(reads) == 3
    assert [band.shape[0] for band in bands] == [28, 28, 34]
    assert max(bottom - top for top, bottom, _, _ in reads) == 60 - 3 * 14


def test_what_does_not_go_with_patches_is_refused(tmp_path, tiny_model):
    graph = nearest_onnx(tmp_path / "n.onnx")
    for path, options, message in [
        (graph, {"runtime": "auto"}, "n.onnx is a graph, name the model that it was made"),
        (tiny_model, {"tile": 9}, "`tile` 9: patches"),
    ]:
        with pytest.raises(UsageError, match=message) as refused:
            open_path(path, patches=Patches(), **options)
        assert "\n" not in str(refused.value)
    assert isinstance(open_path(tiny_model, runtime="auto", patches=Patches()), PatchwiseUpscaler)
