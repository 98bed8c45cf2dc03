"""EXIF data is changed in place, and damaged data harms nothing."""

import io
import random
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from sr_quant_cli.imaging import exif
from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture
from tests.imaging import making


def little(data):
    """The same EXIF data in the other byte order, as Pillow writes it."""
    image = Image.Exif()
    image.load(data)
    image.endian = "<"
    return image.tobytes()


def tags(data):
    image = Image.Exif()
    image.load(data)
    return dict(image), dict(image.get_ifd(0x8769)), dict(image.get_ifd(0x8825))


def test_only_what_changes_is_changed():
    before = making.exif(orientation=6)
    after = exif.refreshed(before, 40, 60)
    first, below, gps = tags(after)
    assert (first[0x112], below[0xA002], below[0xA003]) == (1, 60, 40)
    expected = tags(before)
    for old, new in zip(expected, (first, below, gps), strict=True):
        for tag in old:
            if tag not in (0x112, 0xA002, 0xA003, 0x8769, 0x8825):
                assert new[tag] == old[tag]
    assert after.index(making.NOTE) == before.index(making.NOTE)
    assert making.THUMBNAIL in before
    assert making.THUMBNAIL not in after


def test_a_thumbnail_in_the_middle_is_overwritten():
    before = making.exif() + b"behind it"
    after = exif.refreshed(before, 4, 6)
    assert len(after) == len(before)
    assert b"thumbnail" not in after
    assert after.endswith(b"behind it")


def test_a_size_beyond_its_type_is_left_open():
    _, below, _ = tags(exif.refreshed(making.exif(), 70000, 60))
    assert (below[0xA002], below[0xA003]) == (60, 0)


@pytest.mark.parametrize("resolution", [240.0, None])
def test_the_resolution_is_read(resolution):
    found = exif.resolution_of(making.exif(resolution=resolution))
    assert found == (resolution and pytest.approx((240 / 25.4,) * 2))


def test_random_damage_never_raises_or_grows():
    draw = random.Random(0)
    whole = making.exif()
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 5)):
            data[draw.randrange(6, 140)] = draw.randrange(256)
        cut = bytes(data[: draw.randrange(7, len(data) + 1)] if draw.random() < 0.3 else data)
        made = exif.refreshed(cut, 9, 9)
        assert made is None or len(made) <= len(cut) + 6
        exif.resolution_of(cut)
        exif.read_tiff(io.BytesIO(cut[6:]))


@pytest.mark.parametrize("data", [b"", b"Exif\0\0", b"II*\0", b"MM\0*" + b"\xff" * 40, b"x" * 99])
def test_what_is_no_exif_is_none(data):
    assert exif.refreshed(data, 1, 1) is None
    assert exif.resolution_of(data) is None
    assert exif.read_tiff(io.BytesIO(data)) == (None, None)


def test_directories_that_contain_themselves_end():
    data = bytearray(making.exif(thumbnail=False)[6:])
    order = "<" if data[:2] == b"II" else ">"
    place = data.index(struct.pack(order + "HH", 0x8769, 4)) + 8
    struct.pack_into(order + "I", data, place, 8)
    found, _ = exif.read_tiff(io.BytesIO(bytes(data)))
    assert found is None or len(found) < 10 * len(data)
    exif.refreshed(bytes(data), 1, 1)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_exif_goes_into_a_tiff_and_out_again(tmp_path, big, swap):
    pixels, path = picture(20, 30), tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", bigtiff=big, metadata=None, rowsperstrip=4)
    data = making.exif(thumbnail=False)
    exif.write_tiff(path, little(data) if swap else data, making.IPTC, "unused")
    assert np.array_equal(tifffile.imread(path), pixels)
    with path.open("rb") as file:
        found, iptc = exif.read_tiff(file)
    assert iptc == making.IPTC
    first, below, gps = tags(found)
    assert (first[0x10F], below[0x9003], below[0x927C]) == (
        "Maker",
        "2020:01:01 00:00:00",
        making.NOTE,
    )
    assert gps[2] == making.GPS
    assert 0x112 not in first  # that of the file counts
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.tags["ExifTag"].value["LensModel"] == "Lens"
        assert len(tiff.pages) == 1


def test_further_pages_stay(tmp_path):
    path = tmp_path / "a.tif"
    stack = np.stack([picture(20, 30, seed=seed) for seed in range(3)])
    tifffile.imwrite(path, stack, photometric="rgb", metadata=None)
    exif.write_tiff(path, making.exif(), None, "")
    assert np.array_equal(tifffile.imread(path, key=range(3)), stack)
    exif.forget_resolution(path)
    with tifffile.TiffFile(path) as tiff:
        assert {int(page.tags["ResolutionUnit"].value) for page in tiff.pages} == {1}


def test_a_description_is_added_unless_there_is_one(tmp_path):
    for given, expected in (("ünï", "ünï"), ("", None)):
        write_rgb(tmp_path / "a.tif", picture(9, 9))
        exif.write_tiff(tmp_path / "a.tif", None, None, given)
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            assert tiff.pages.first.description == (expected or "")
