"""Figures of crops: what they show, pixel by pixel, and that nothing is cut off."""

import numpy as np
import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, thumbnail
from sr_quant_cli.imaging.sheet import (
    Panel,
    before_after,
    check_sheet,
    draw_sheet,
    largest_sum,
    most_different,
)
from sr_quant_cli.imaging.tiling import Region
from tests.helpers import picture


def places(sheet, crop):
    """Corners where a crop, enlarged to about 320 pixels without smoothing, lies in a sheet."""
    zoom = max(1, round(320 / max(crop.shape)))
    large = crop.repeat(zoom, 0).repeat(zoom, 1)
    height, width, _ = large.shape
    starts = (sheet[: 1 - height or None, : 1 - width or None] == large[0, 0]).all(axis=2)
    ends = (sheet[height - 1 :, width - 1 :] == large[-1, -1]).all(axis=2)
    return [
        (int(y), int(x))
        for y, x in np.argwhere(starts & ends)
        if np.array_equal(sheet[y : y + height, x : x + width], large)
    ]


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (4, 2), (7, 2), (12, 3)])
def test_every_crop_is_there_pixel_for_pixel(tmp_path, count, rows):
    crops = [picture(24, 32, seed=index) for index in range(count)]
    panels = [Panel(f"model-{index}", crop, "30.00 / 0.9") for index, crop in enumerate(crops)]
    path = tmp_path / "sheet.png"
    draw_sheet(panels, picture(90, 120), Region(10, 20, 24, 32), path, title="a", footer="b")
    sheet = read_rgb(path)
    corners = [places(sheet, crop) for crop in crops]
    assert all(len(found) == 1 for found in corners)
    flat = [found[0] for found in corners]
    assert flat == sorted(flat)
    assert len({y for y, _ in flat}) == rows


@pytest.mark.parametrize(
    ("shape", "whole"),
    [
        ((24, 32), (90, 120)),
        ((40, 6), (400, 20)),
        ((6, 60), (20, 400)),
        ((1, 1), (1, 1)),
        ((400, 300), (400, 300)),
    ],
)
def test_labels_stay_within_the_sheet(tmp_path, shape, whole):
    label = "a-network-with-a-name-that-is-much-longer-than-its-column-$x$_模型-" * 2
    panels = [Panel(label, picture(*shape), label)] * 2
    draw_sheet(panels, picture(*whole), Region(0, 0, 1, 1), tmp_path / "s.png", title=label)
    sheet = read_rgb(tmp_path / "s.png")
    for border in (sheet[:12], sheet[-8:], sheet[:, :12], sheet[:, -12:]):
        assert (border == 255).all()


def test_labels_of_neighbours_do_not_meet(tmp_path):
    label = "edsr-baseline-x4-w8a8-of-my-own-folder"
    panels = [Panel(label, np.zeros((30, 40, 3), np.uint8))] * 3
    draw_sheet(panels, picture(60, 80), Region(0, 0, 30, 40), tmp_path / "s.png")
    sheet = read_rgb(tmp_path / "s.png")
    below = sheet[24 + 240 : 24 + 240 + 30]
    dark = (below < 250).any(axis=(0, 2))
    starts = [x for y, x in places(sheet, panels[0].crop)]
    assert starts
    for start in starts[1:]:
        assert not dark[start - 8 : start - 4].any()


@pytest.mark.parametrize(
    ("suffix", "first"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_formats_follow_the_suffix(tmp_path, suffix, first):
    path = tmp_path / f"sheet.{suffix}"
    check_sheet(path)
    draw_sheet([Panel("a", picture(8, 8))], picture(20, 20), Region(0, 0, 8, 8), path)
    assert path.read_bytes().startswith(first)
    with pytest.raises(UsageError, match=r"a figure ends in \.png, \.svg, \.pdf"):
        check_sheet(tmp_path / "sheet.jpg")


def test_before_and_after_have_the_same_size(tmp_path):
    lr, sr = picture(10, 12), picture(40, 48, seed=1)
    path = tmp_path / "p.png"
    before_after(
        Panel("before", lr), Panel("after", sr), picture(80, 96), Region(0, 0, 40, 48), path
    )
    sheet = read_rgb(path)
    ((top, left),) = places(sheet, sr)
    ((first, start),) = places(sheet, lr.repeat(4, 0).repeat(4, 1))
    assert (first, start < left) == (top, True)


def test_the_box_is_drawn_around_its_place(tmp_path):
    whole = np.full((100, 100, 3), 128, np.uint8)
    crop = np.zeros((20, 30, 3), np.uint8)
    draw_sheet([Panel("a", crop)], whole, Region(40, 50, 20, 30), tmp_path / "s.png")
    sheet = read_rgb(tmp_path / "s.png").astype(int)
    marked = np.argwhere((np.abs(sheet - [0xE6, 0x19, 0x4B]).sum(axis=2)) < 30)
    grey = np.argwhere((sheet == 128).all(axis=2))
    top, left = grey.min(axis=0)
    side = (grey.max(axis=0) - [top, left] + 1)[1] / 100
    assert (marked.min(axis=0) - [top, left]) / side == pytest.approx([40, 50], abs=1.5)
    assert (marked.max(axis=0) - [top, left]) / side == pytest.approx([60, 80], abs=1.5)


def test_the_place_is_where_results_differ_most():
    a = picture(40, 60)
    b, c = a.copy(), a.copy()
    b[5:8, 5:8] ^= 7
    c[22:28, 33:39] = 255 - c[22:28, 33:39]
    found = most_different([a, b, c], 6, 6)
    assert (found.top, found.left) == (22, 33)
    assert most_different([a, a], 10, 20) == Region(15, 20, 10, 20)
    with pytest.raises(ValueError, match="larger than the picture"):
        largest_sum(np.zeros((4, 4), np.float32), 5, 2)


def test_small_pictures_have_thumbnails_in_colour():
    for shape in ((1, 1), (4, 4), (3, 50)):
        pixels = picture(*shape)
        assert np.array_equal(thumbnail(pixels), pixels)
