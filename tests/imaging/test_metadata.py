"""Metadata survives in every format that holds it, and describes the new picture."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sr_quant_cli.imaging.formats import SaveOptions, writable_formats
from sr_quant_cli.imaging.io import open_picture, write_rgb
from sr_quant_cli.imaging.writer import StreamWriter
from tests.helpers import picture
from tests.imaging import making

PIXELS = picture(20, 30)
FORMATS = [key for key in writable_formats() if key != "gif"]


def rewritten(content, key, pixels=None, size=None):
    """Read a picture, write it to another format with its metadata, and read that."""
    opened = open_picture(content)
    pixels = opened.read(0, opened.height, 0, opened.width) if pixels is None else pixels
    buffer = io.BytesIO()
    with StreamWriter(
        buffer,
        *pixels.shape[:2],
        metadata=opened.metadata,
        save=SaveOptions(key),
        size=size,
    ) as writer:
        writer.write(pixels)
    return opened, buffer.getvalue()


def exif_of(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(content))
        image.load()
        found = image.getexif()
    return found, found.get_ifd(0x8769), found.get_ifd(0x8825)


@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("key", FORMATS)
def test_metadata_goes_from_every_format_to_every_other(source, key):
    opened, content = rewritten(making.photograph(source, PIXELS, orientation=6), key)
    assert (opened.height, opened.width, opened.losses) == (30, 20, ())
    made = open_picture(content)
    assert (made.height, made.width) == (30, 20)
    assert made.metadata.icc == making.PROFILE
    first, below, gps = exif_of(content)
    assert (first[0x10F], first[0x8298], first[0x112]) == ("Maker", "somebody", 1)
    assert (below[0x9003], below[0xA434]) == ("2020:01:01 00:00:00", "Lens")
    assert below[0x927C] == making.NOTE
    assert (gps[1], gps[2]) == ("N", making.GPS)
    assert making.THUMBNAIL not in content
    assert b"<dc:title>sea" in made.metadata.xmp
    assert b'tiff:Orientation="1"' in made.metadata.xmp
    assert b"PixelXDimension" not in made.metadata.xmp
    assert made.metadata.resolution == pytest.approx((240 / 25.4,) * 2, rel=1e-4)


@pytest.mark.parametrize("key", FORMATS)
def test_exif_states_the_new_size(key):
    large = picture(40, 60)
    content = making.photograph("JPEG", PIXELS)
    for size, (height, width) in ((None, (40, 60)), ((33, 51), (33, 51))):
        _, made = rewritten(content, key, large, size)
        below = exif_of(made)[1]
        stated = (below.get(0xA003, height), below.get(0xA002, width))
        assert stated in ((height, width), (0, 0))


@pytest.mark.parametrize("key", ["png", "jpg", "tiff"])
@pytest.mark.parametrize("source", ["PNG", "JPEG"])
def test_comments_are_kept(source, key):
    opened, content = rewritten(making.photograph(source, PIXELS), key)
    expected = {
        "PNG": (("Author", "somebody"), ("Title", "ünï€")),
        "JPEG": (("Comment", "a comment"),),
    }[source]
    assert opened.metadata.comments == expected
    if key == "png":
        assert open_picture(content).metadata.comments == expected
        return
    text = {"PNG": "Author: somebody\nTitle: ünï€", "JPEG": "a comment"}[source]
    image = Image.open(io.BytesIO(content))
    found = image.info["comment"] if key == "jpg" else tifffile_description(content)
    assert found == text.encode()


def tifffile_description(content):
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        return tiff.pages.first.tags[270].value.encode()


def with_iptc(suffix):
    data = making.IPTC
    if suffix == ".tif":
        buffer = io.BytesIO()
        tag = (33723, 7, len(data), data, True)
        tifffile.imwrite(buffer, PIXELS, photometric="rgb", extratags=[tag], metadata=None)
        return buffer.getvalue()
    image = pyvips.Image.new_from_array(PIXELS).copy()
    padding = b"\0" * (len(data) % 2)
    length = len(data).to_bytes(4, "big")
    data = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + length + data + padding
    image.set_type(pyvips.GValue.blob_type, "iptc-data", data)
    return image.write_to_buffer(suffix, keep="iptc")


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("key", ["jpg", "tiff"])
def test_iptc_records_fit_each_format(suffix, key):
    opened, content = rewritten(with_iptc(suffix), key)
    assert opened.metadata.iptc == making.IPTC
    assert open_picture(content).metadata.iptc == making.IPTC
    if key == "tiff":
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            assert tiff.pages.first.tags[33723].value == making.IPTC
    else:
        blocks = Image.open(io.BytesIO(content)).info["photoshop"]
        assert blocks[0x0404] == making.IPTC


def test_iptc_records_are_a_text_of_a_png():
    _, content = rewritten(with_iptc(".jpg"), "png")
    ((keyword, text),) = open_picture(content).metadata.comments
    assert keyword == "Raw profile type iptc"
    name, size, *lines = text.split()
    assert (name, int(size)) == ("iptc", len(making.IPTC))
    assert bytes.fromhex("".join(lines)) == making.IPTC


@pytest.mark.parametrize("key", FORMATS)
def test_no_resolution_is_made_up(key):
    buffer = io.BytesIO()
    with StreamWriter(buffer, 20, 30, save=SaveOptions(key)) as writer:
        writer.write(PIXELS)
    assert open_picture(buffer.getvalue()).metadata.resolution is None
    image = Image.open(io.BytesIO(buffer.getvalue()))
    assert image.info.get("dpi") in (None, (1, 1), (72, 72)) or image.format == "TIFF"
    if key == "tiff":
        with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as tiff:
            assert int(tiff.pages.first.tags["ResolutionUnit"].value) == 1


@pytest.mark.parametrize("key", FORMATS)
@pytest.mark.parametrize("unit", ["in", "cm"])
def test_a_resolution_without_exif_is_kept(key, unit):
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        PIXELS,
        photometric="rgb",
        resolution=(300, 200),
        resolutionunit={"in": 2, "cm": 3}[unit],
        metadata=None,
        software=False,
    )
    _, content = rewritten(buffer.getvalue(), key)
    millimetres = {"in": 25.4, "cm": 10}[unit]
    expected = (300 / millimetres, 200 / millimetres)
    assert open_picture(content).metadata.resolution == pytest.approx(expected, rel=1e-3)


def test_a_bitmap_has_a_resolution_too():
    content = making.encoded(Image.fromarray(PIXELS), "BMP", dpi=(120, 120))
    assert open_picture(content).metadata.resolution == pytest.approx((120 / 25.4,) * 2, rel=1e-3)


def test_without_metadata_none_is_written():
    for key in writable_formats():
        buffer = io.BytesIO()
        with StreamWriter(buffer, 20, 30, save=SaveOptions(key)) as writer:
            writer.write(PIXELS)
        image = Image.open(io.BytesIO(buffer.getvalue()))
        assert {"exif", "icc_profile", "xmp", "comment"} & set(image.info) <= {"exif"}
        assert not image.info.get("exif"), key
        if key == "png":
            assert not image.text


@pytest.mark.parametrize("key", ["gif", "webp", "avif", "jpg"])
def test_what_a_format_does_not_hold_is_named(key):
    form = writable_formats()[key]
    metadata = open_picture(making.photograph("PNG", PIXELS)).metadata
    _, losses = metadata.held_by(form)
    expected = {"gif": ["EXIF", "XMP", "comments"], "jpg": []}
    assert losses == expected.get(key, ["comments"])


def test_metadata_too_long_for_a_segment_of_a_jpeg_is_named():
    content = making.photograph("WEBP", PIXELS)
    large = pyvips.Image.new_from_buffer(content, "").copy()
    large.set_type(pyvips.GValue.blob_type, "xmp-data", b"<x>" + b"y" * 70000 + b"</x>")
    opened = open_picture(large.write_to_buffer(".webp", keep="all"))
    kept, losses = opened.metadata.held_by(writable_formats()["jpg"])
    assert (kept.xmp, losses) == (None, ["XMP (too long for JPEG)"])
    assert opened.metadata.held_by(writable_formats()["png"])[1] == []


def test_exif_that_is_damaged_is_dropped_and_named():
    image = pyvips.Image.new_from_array(PIXELS).copy()
    image.write_to_buffer(".jpg")
    plain = making.encoded(Image.fromarray(PIXELS), "PNG", exif=b"MM\0*\0\0\xff\xff")
    opened = open_picture(plain)
    assert (opened.metadata.exif, opened.losses) == (None, ("EXIF (damaged)",))


def test_a_colour_profile_that_is_damaged_or_of_other_colours_is_dropped():
    damaged = making.encoded(Image.fromarray(PIXELS), "JPEG", icc_profile=b"no profile" * 20)
    opened = open_picture(damaged)
    assert (opened.metadata.icc, opened.losses) == (None, ("colour profile (damaged)",))
    grey = making.encoded(Image.fromarray(PIXELS[:, :, 0]), "JPEG", icc_profile=making.PROFILE)
    assert open_picture(grey).metadata.icc is None


def test_texts_of_all_kinds_are_read(tmp_path):
    texts = PngInfo()
    texts.add_text("A", "plain é")
    texts.add_text("Z", "packed " * 30, zip=True)
    texts.add_itxt("I", "ünï€", zip=True)
    content = making.encoded(Image.fromarray(PIXELS), "PNG", pnginfo=texts)
    expected = (("A", "plain é"), ("Z", "packed " * 30), ("I", "ünï€"))
    opened, again = rewritten(content, "png")
    assert opened.metadata.comments == expected
    assert open_picture(again).metadata.comments == expected
    assert Image.open(io.BytesIO(again)).text["I"] == "ünï€"


def test_a_packed_text_cannot_fill_the_memory():
    texts = PngInfo()
    texts.add_text("Z", "y" * 2**26, zip=True)
    content = making.encoded(Image.fromarray(PIXELS), "PNG", pnginfo=texts)
    ((_, text),) = open_picture(content).metadata.comments
    assert len(text) <= 2**20


def test_a_file_with_metadata_is_written_atomically(tmp_path):
    opened = open_picture(making.photograph("PNG", PIXELS))
    for suffix in (".png", ".jpg", ".tif"):
        path = tmp_path / f"a{suffix}"
        with StreamWriter(path, 20, 30, metadata=opened.metadata) as writer:
            writer.write(PIXELS)
        assert open_picture(path).metadata.exif is not None
        write_rgb(path, PIXELS)
        assert open_picture(path).metadata.icc is None
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["a.jpg", "a.png", "a.tif"]


def test_sizes_of_pixels_are_unchanged_by_metadata():
    """Inserted chunks and directories must leave the pixels alone."""
    for key in ("png", "tiff"):
        _, content = rewritten(making.photograph("PNG", PIXELS), key)
        assert np.array_equal(open_picture(content).read(0, 20, 0, 30), PIXELS)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), PIXELS)
    _, content = rewritten(making.photograph("PNG", PIXELS), "tiff")
    assert np.array_equal(tifffile.imread(io.BytesIO(content)), PIXELS)
