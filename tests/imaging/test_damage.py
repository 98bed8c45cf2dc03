"""Damaged pictures are refused, wherever the damage lies."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import decodes, read_rgb
from tests.helpers import picture

PIXELS = picture(60, 75)


def by_vips(suffix, **options):
    return pyvips.Image.new_from_array(PIXELS).write_to_buffer(suffix, **options)


def by_tifffile(**options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PIXELS, photometric="rgb", **options)
    return buffer.getvalue()


def by_pillow(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "png": lambda: by_vips(".png"),
    "png interlaced": lambda: by_vips(".png", interlace=True),
    "jpg": lambda: by_vips(".jpg"),
    "jpg progressive": lambda: by_vips(".jpg", interlace=True),
    "webp": lambda: by_vips(".webp", lossless=True),
    "avif": lambda: by_vips(".avif"),
    "tif, directory last": lambda: by_vips(".tif"),
    "tif": by_tifffile,
    "tif tiled": lambda: by_tifffile(tile=(16, 16)),
    "tif deflate": lambda: by_tifffile(compression="zlib", rowsperstrip=16),
    "tif deflate tiled": lambda: by_tifffile(compression="zlib", tile=(16, 16)),
    "tif big": lambda: by_tifffile(bigtiff=True),
    "tif lzw": lambda: by_vips(".tif", compression="lzw"),
    "gif": lambda: by_pillow("GIF"),
    "bmp": lambda: by_pillow("BMP"),
    "ppm": lambda: by_pillow("PPM"),
    "jp2": lambda: by_pillow("JPEG2000"),
}
CHECKED = ("png", "png interlaced", "tif deflate", "tif deflate tiled")
"""Formats in which every changed bit is detected."""


def place(tmp_path, kind, content):
    path = tmp_path / f"a.{kind.split(',')[0].split()[0]}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_cut_off_is_refused(tmp_path, kind):
    whole, draw = FILES[kind](), random.Random(0)
    assert decodes(place(tmp_path, kind, whole))
    for length in [3, len(whole) - 20, *(draw.randrange(1, len(whole) - 20) for _ in range(8))]:
        path = place(tmp_path, kind, whole[:length])
        assert not decodes(path), length
        with pytest.raises(UsageError, match=r"cannot read .*a\.\w+: ") as refused:
            read_rgb(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", CHECKED)
def test_a_flipped_bit_is_seen_where_the_format_has_checksums(tmp_path, kind):
    whole, draw = FILES[kind](), random.Random(0)
    start = pixels_at(kind, whole)
    for _ in range(12):
        changed = bytearray(whole)
        changed[draw.randrange(start, len(whole) - 20)] ^= 1 << draw.randrange(8)
        assert not decodes(place(tmp_path, kind, bytes(changed)))


def pixels_at(kind, whole):
    """Return the offset of the pixels in the file."""
    if kind.startswith("png"):
        return whole.index(b"IDAT")
    with tifffile.TiffFile(io.BytesIO(whole)) as tiff:
        return tiff.pages.first.dataoffsets[0]


@pytest.mark.parametrize("name", [b"tEXt", b"tRNS", b"PLTE", b"IDAT", b"IEND"])
def test_every_checksum_of_a_png_counts(tmp_path, name):
    rgba = np.dstack([PIXELS, PIXELS[:, :, 0]])
    buffer = io.BytesIO()
    text = PngInfo()
    text.add_text("Author", "somebody")
    Image.fromarray(rgba).quantize(32).save(buffer, "PNG", pnginfo=text)
    whole = buffer.getvalue()
    assert decodes(place(tmp_path, "png", whole))
    at = whole.index(name)
    (length,) = struct.unpack(">I", whole[at - 4 : at])
    end = at + 4 + length
    checksum = zlib.crc32(whole[at:end])
    assert whole[end : end + 4] == struct.pack(">I", checksum)
    wrong = whole[:end] + struct.pack(">I", checksum ^ 1) + whole[end + 4 :]
    path = place(tmp_path, "png", wrong)
    with pytest.raises(UsageError, match="a checksum does not match"):
        read_rgb(path)


def test_a_strip_whose_checksum_was_changed_alone_is_seen(tmp_path):
    """libtiff decodes such a strip without an error."""
    whole = bytearray(FILES["tif deflate"]())
    with tifffile.TiffFile(io.BytesIO(whole)) as tiff:
        page = tiff.pages.first
        last = page.dataoffsets[1] + page.databytecounts[1] - 1
    whole[last] ^= 1
    with pytest.raises(UsageError, match="deflated pixels do not match"):
        read_rgb(place(tmp_path, "tif", bytes(whole)))


@pytest.mark.slow
def test_commands_refuse_a_cut_picture(tmp_path, srq, tiny_model):
    """A truncated, uncompressed TIFF with its directory first looks complete to decoders."""
    whole = FILES["tif"]()
    folder = tmp_path / "data/benchmark/Set5/HR"
    folder.mkdir(parents=True)
    for index in range(5):
        (folder / f"p{index}.tif").write_bytes(whole)
    cut = folder / "p3.tif"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    message = f"cannot read {cut}: it is cut off\n"

    code, out, err = srq("data", "check", "Set5", "--data-root", tmp_path / "data")
    assert code == 1
    assert "5 of 5 pictures  damaged: p3.tif" in out
    command = ("upscale", cut, "--model", tiny_model, "--runtime", "torch")
    assert srq(*command) == (2, "", f"srq: error: {message}")
    command = ("eval", tiny_model, "--bench", "Set5", "--data-root", tmp_path / "data")
    code, out, err = srq(*command)
    assert (code, err.splitlines()[-1]) == (2, f"srq: error: {message}".strip())
    folder.rename(tmp_path / "photographs")
    code, out, err = srq(
        *("pretrain", "edsr", "--scale", 2, "--data", tmp_path / "photographs"),
        *("--run", tmp_path / "run", "--set", "train.iters=1", "--set", "data.patch_hr=32"),
        *("--set", "network.n_blocks=1", "--set", "network.n_feats=4"),
    )
    assert code == 2
    assert err.splitlines()[-1].endswith("p3.tif: it is cut off")
