"""Readable formats, and the pictures of a folder."""

import os
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.decode import load
from sr_quant_cli.imaging.formats import READABLE, list_folder, picture_files
from sr_quant_cli.imaging.io import decodes, open_picture, read_rgb, write_rgb
from tests.helpers import picture

SUFFIXES = [suffix for suffixes in READABLE.values() for suffix in suffixes]
LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif", ".avif"}
GREY = {".pgm", ".pbm"}
PAGE = Path(__file__).parents[2] / "docs/upscaling.md"


def smooth(height=24, width=33):
    """A picture that lossy formats and small palettes keep within a few levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4 + 60, y * 5 + 40, 200 - x * 2 - y], axis=2).astype(np.uint8)


def save(path, pixels):
    """Write a picture, if possible with another library than the one that reads it."""
    suffix = path.suffix
    if suffix == ".pbm":
        Image.fromarray((pixels[:, :, 0] > 127).astype(np.uint8) * 255).convert("1").save(path)
    elif suffix == ".gif":
        Image.fromarray(pixels // 64 * 64).quantize(256).save(path)
    else:
        data = pixels[:, :, 0] if suffix in GREY else pixels
        options = {"quality": 95} if suffix in LOSSY else {}
        options |= {"lossless": True} if suffix == ".webp" else {}
        options |= {"irreversible": False} if suffix in READABLE["JPEG 2000"] else {}
        Image.fromarray(data).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_promised_suffix_is_read_in_a_folder(tmp_path, suffix):
    pixels = smooth()
    save(tmp_path / f"a{suffix}", pixels)
    (path,) = picture_files(tmp_path)
    read = read_rgb(path).astype(int)
    assert decodes(path)
    if suffix == ".pbm":
        pixels = (pixels > 127) * 255
    if suffix == ".gif":
        pixels = pixels // 64 * 64
    if suffix in GREY:
        pixels = np.repeat(pixels[:, :, :1], 3, axis=2)
    assert read.shape == pixels.shape
    assert open_picture(path).grey == (suffix in GREY)
    assert np.abs(read - pixels).max() <= (12 if suffix in LOSSY else 0)


def test_the_page_names_every_format():
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in READABLE if name not in text] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_suffix_that_is_wrong_does_not_matter(tmp_path, suffix, kind):
    Image.fromarray(picture(9, 7)).save(tmp_path / f"a{suffix}", kind)
    assert np.array_equal(read_rgb(tmp_path / f"a{suffix}"), picture(9, 7))


@pytest.mark.parametrize(
    ("kind", "save_options"),
    [
        ("progressive.jpg", {"progressive": True, "quality": 97, "subsampling": 0}),
        ("cmyk.jpg", {"quality": 97}),
        ("palette.png", {}),
        ("deep.png", {}),
        ("interlaced.png", {}),
        ("tiled.tif", {}),
        ("planar.tif", {}),
        ("sixteen.pgm", {}),
        ("palette.bmp", {}),
        ("run-lengths.tga", {"compression": "tga_rle"}),
        ("jpeg.tif", {"compression": "jpeg", "quality": 97}),
        ("lzw.tif", {"compression": "tiff_lzw"}),
        ("packed.tif", {"compression": "packbits"}),
        ("trailing.png", {}),
    ],
)
def test_healthy_odd_files_are_read(tmp_path, kind, save_options):
    pixels, path = smooth(), tmp_path / kind
    tolerance = 0
    match path.stem:
        case "cmyk":
            Image.fromarray(pixels).convert("CMYK").save(path, **save_options)
            tolerance = 255  # ink colours differ
        case "palette":
            pixels = pixels // 64 * 64
            Image.fromarray(pixels).quantize(256).save(path)
        case "deep":
            deep = pyvips.Image.new_from_array(pixels.astype(np.uint16) * 257)
            deep.copy(interpretation="rgb16").write_to_file(str(path))
        case "interlaced":
            pyvips.Image.new_from_array(pixels).write_to_file(str(path), interlace=True)
        case "tiled":
            image = pyvips.Image.new_from_array(pixels)
            image.write_to_file(
                str(path), tile=True, tile_width=16, tile_height=16, compression="deflate"
            )
        case "planar":
            import tifffile

            planes = pixels.transpose(2, 0, 1)
            tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
        case "sixteen":
            grey = pixels[:, :, 0]
            path.write_bytes(b"P5 33 24 65535\n" + (grey.astype(">u2") * 257).tobytes())
            pixels = np.repeat(grey[:, :, None], 3, axis=2)
        case "trailing":
            write_rgb(path, pixels)
            path.write_bytes(path.read_bytes() + b"appended by a camera")
        case _:
            Image.fromarray(pixels).save(path, **save_options)
            tolerance = 8 if "jpeg" in kind or path.suffix == ".jpg" else 0
    assert decodes(path)
    assert np.abs(read_rgb(path).astype(int) - pixels).max() <= tolerance


SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'width="9" height="9"><image xlink:href="secret.png" width="9" height="9"/></svg>'
)


@pytest.mark.parametrize("content", [SVG, "1,2,3\n4,5,6\n", "3 2\n1 2 3\n4 5 6\n", ""])
def test_other_formats_of_libvips_are_no_pictures(tmp_path, content):
    write_rgb(tmp_path / "secret.png", picture(9, 9))
    (tmp_path / "a.png").write_text(content)
    with pytest.raises(UsageError, match=r"a\.png: it is not in a picture format that srq reads"):
        open_picture(tmp_path / "a.png")
    assert not decodes(tmp_path / "a.png")


def test_an_image_of_libvips_itself_is_no_picture(tmp_path):
    pyvips.Image.new_from_array(picture(9, 9)).write_to_file(str(tmp_path / "a.v"))
    (tmp_path / "a.v").rename(tmp_path / "a.png")
    with pytest.raises(UsageError, match="not in a picture format"):
        open_picture(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png[page=0]", "a[1].png", "%d.png", os.fsdecode(b"\xff.png")])
def test_a_name_is_nothing_but_a_name(tmp_path, name):
    write_rgb(tmp_path / "a.png", picture(5, 5, seed=1))
    write_rgb(tmp_path / "b.png", picture(9, 7))
    (tmp_path / "b.png").rename(tmp_path / name)
    assert np.array_equal(read_rgb(tmp_path / name), picture(9, 7))


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    for seed in (1, 2):
        write_rgb(tmp_path / "a.png", picture(9, 7, seed=seed))
        assert np.array_equal(read_rgb(tmp_path / "a.png"), picture(9, 7, seed=seed))


def test_hidden_files_are_no_pictures_and_the_rest_is_known(tmp_path):
    for name in ("b.PNG", "a.jpg", "._a.jpg", ".hidden.png", "notes.txt", "c.heic"):
        (tmp_path / name).touch()
    for name in ("c.png", ".git"):
        (tmp_path / name).mkdir()
    found = list_folder(tmp_path)
    kinds = (found.pictures, found.others, found.folders)
    names = [[path.name for path in paths] for paths in kinds]
    assert names == [["a.jpg", "b.PNG"], ["c.heic", "notes.txt"], ["c.png"]]
    assert picture_files(tmp_path) == list(found.pictures)


def test_a_folder_that_is_none_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*nowhere: No such file"):
        list_folder(tmp_path / "nowhere")


def test_pixels_are_decoded_when_they_are_asked_for(tmp_path):
    """Only the header is read on opening, so that only tiles need to be in memory."""
    write_rgb(tmp_path / "a.tif", picture(40, 30))
    image = load(tmp_path / "a.tif").open(0)
    assert (image.width, image.height) == (30, 40)
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(pyvips.Error):
        image.avg()
