"""Colours of all kinds become sRGB or keep their profile, with the depth that they have."""

import io

import numpy as np
import PIL.ImageCms as Cms
import pytest
import pyvips
import tifffile
from PIL import Image

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.colour import profile_space, to_srgb
from sr_quant_cli.imaging.decode import read_header
from sr_quant_cli.imaging.io import open_picture
from tests.helpers import picture
from tests.imaging import making

INKS = np.dstack([picture(20, 30), picture(20, 30, seed=1)[:, :, :1] // 2])


def levels(opened):
    return opened.read(0, opened.height, 0, opened.width)


def littlecms(image, profile, mode):
    """The picture in sRGB by LittleCMS, as Pillow calls it."""
    source = Cms.ImageCmsProfile(io.BytesIO(profile))
    flags = Cms.Flags.BLACKPOINTCOMPENSATION
    made = Cms.profileToProfile(
        image, source, Cms.createProfile("sRGB"), renderingIntent=1, outputMode=mode, flags=flags
    )
    return np.asarray(made).astype(int)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks_are_converted_by_their_profile(kind):
    image = Image.fromarray(INKS, "CMYK")
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    opened = open_picture(making.encoded(image, kind, icc_profile=making.CMYK_PROFILE, **options))
    assert opened.losses == ("CMYK (converted to sRGB by its profile)",)
    assert (opened.metadata.icc, opened.bits, opened.grey) == (None, 8, False)
    expected = littlecms(image, making.CMYK_PROFILE, "RGB")
    assert np.abs(levels(opened) - expected).max() <= (1 if kind == "TIFF" else 8)


def test_deep_inks_stay_deep():
    buffer = io.BytesIO()
    deep = INKS.astype(np.uint16) * 257
    tifffile.imwrite(buffer, deep, photometric="separated", iccprofile=making.CMYK_PROFILE)
    opened = open_picture(buffer.getvalue())
    assert opened.bits == 16
    expected = littlecms(Image.fromarray(INKS, "CMYK"), making.CMYK_PROFILE, "RGB")
    assert np.abs(levels(opened) / 257 - expected).max() < 1


def test_inks_without_a_profile_are_converted_by_a_general_one():
    opened = open_picture(making.encoded(Image.fromarray(INKS, "CMYK"), "TIFF"))
    assert opened.losses == ("CMYK (converted to sRGB)",)
    assert np.corrcoef(levels(opened)[:, :, 0].ravel(), 255.0 - INKS[:, :, 0].ravel())[0, 1] > 0.7


def in_lab(pixels):
    srgb, lab = Cms.createProfile("sRGB"), Cms.createProfile("LAB")
    return Cms.applyTransform(Image.fromarray(pixels), Cms.buildTransform(srgb, lab, "RGB", "LAB"))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_lab_of_eight_bits_becomes_srgb(compression):
    pixels = picture(20, 30)
    content = making.encoded(in_lab(pixels), "TIFF", compression=compression, dpi=(300, 300))
    opened = open_picture(content)
    assert (opened.bits, opened.losses) == (8, ("Lab (converted to sRGB)",))
    assert np.abs(levels(opened).astype(int) - pixels).mean() < 1
    assert opened.metadata.resolution == pytest.approx((300 / 25.4,) * 2)
    assert read_header(content).height == 20


def test_lab_of_sixteen_bits_becomes_srgb():
    pixels = picture(20, 30)
    stored = np.asarray(in_lab(pixels))
    deep = np.empty(stored.shape, np.uint16)
    deep[:, :, 0] = stored[:, :, 0] * np.uint16(257)
    deep[:, :, 1:] = (stored[:, :, 1:].view(np.int8).astype(np.int16) * 256).view(np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, deep, photometric="cielab")
    opened = open_picture(buffer.getvalue())
    assert (opened.bits, opened.losses) == (16, ("Lab (converted to sRGB)",))
    assert np.abs(levels(opened) / 257 - pixels).mean() < 1


@pytest.mark.parametrize("deep", [False, True])
def test_a_wide_gamut_becomes_srgb_on_demand(deep):
    pixels = picture(20, 30) // 2 + 60
    expected = littlecms(Image.fromarray(pixels), making.PROFILE, "RGB")
    given = pixels.astype(np.uint16) * 257 if deep else pixels
    made = to_srgb(making.to_vips(given), making.PROFILE)
    assert made.format == ("ushort" if deep else "uchar")
    error = np.abs(made.numpy() / (257 if deep else 1) - expected)
    assert error.mean() < 0.5
    assert error.max() <= (4 if deep else 1)  # Pillow computes with 8 bits
    content = making.encoded(Image.fromarray(pixels), "PNG", icc_profile=making.PROFILE)
    opened = open_picture(content)
    assert np.array_equal(levels(opened), pixels)
    converted = opened.in_srgb()
    assert converted.metadata.icc is None
    assert np.abs(levels(converted).astype(int) - expected).max() <= 1
    assert np.array_equal(levels(converted.frame(0)), levels(converted))


def test_a_grey_profile_becomes_grey_levels_of_srgb():
    """Levels of a gamma of 1.5 are darker than those of sRGB."""
    profile = grey_profile(gamma=1.5)
    assert profile_space(profile) == "GRAY"
    grey = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    content = making.encoded(Image.fromarray(grey), "TIFF", icc_profile=profile)
    opened = open_picture(content)
    assert opened.metadata.icc == profile
    made = levels(opened.in_srgb())
    light = (grey / 255) ** 1.5
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(made[:, :, 0] - 255 * expected)[:, 8:].max() <= 1
    assert np.array_equal(made[:, :, 0], made[:, :, 2])


def grey_profile(gamma):
    """A minimal profile of one channel."""

    def tag(kind, content):
        return (kind + b"\0\0\0\0" + content).ljust(-(-(8 + len(content)) // 4) * 4, b"\0")

    whole, fraction = divmod(round(gamma * 256), 256)
    tags = {
        b"desc": tag(b"desc", (5).to_bytes(4, "big") + b"grey\0" + bytes(90)),
        b"wtpt": tag(b"XYZ ", bytes.fromhex("0000f6d6000100000000d32d")),
        b"kTRC": tag(b"curv", (1).to_bytes(4, "big") + bytes([whole, fraction])),
    }
    table, content = len(tags).to_bytes(4, "big"), b""
    for name, value in tags.items():
        place = 128 + 4 + 12 * len(tags) + len(content)
        table += name + place.to_bytes(4, "big") + len(value).to_bytes(4, "big")
        content += value
    size = (128 + len(table) + len(content)).to_bytes(4, "big")
    head = size + bytes(4) + b"\x02\x40\0\0mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    white = bytes.fromhex("0000f6d6000100000000d32d")
    return (head + white).ljust(128, b"\0") + table + content


def test_srgb_itself_is_not_touched():
    profile = bytes(pyvips.Operation.call("profile_load", "srgb"))
    image = making.to_vips(picture(9, 7))
    assert np.array_equal(to_srgb(image, profile).numpy(), picture(9, 7))


@pytest.mark.parametrize("bits", [10, 12])
def test_white_of_avif_is_white(bits):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(4, 64)
    image = making.to_vips(np.dstack([ramp] * 3))
    opened = open_picture(image.write_to_buffer(".avif", bitdepth=bits, lossless=True))
    made = levels(opened)
    assert (opened.bits, made.max(), made.min()) == (16, 65535, 0)
    assert np.abs(made[:, :, 0].astype(int) - ramp).max() <= 65535 / (2**bits - 1)


def ppm(highest, *, plain, bands):
    samples = np.random.default_rng(highest).integers(0, highest + 1, (7, 9, bands))
    kind = {(1, False): 5, (1, True): 2, (3, False): 6, (3, True): 3}[bands, plain]
    head = b"P%d\n# a comment\n9 7\n%d\n" % (kind, highest)
    if plain:
        words = [b"%d" % sample for sample in samples.ravel()]
        return samples, head + b" ".join(words[:9]) + b" # more\n" + b"\n".join(words[9:]) + b"\n"
    return samples, head + samples.astype(">u2" if highest > 255 else np.uint8).tobytes()


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("highest", [15, 255, 256, 1023, 65535])
def test_portable_maps_have_the_depth_that_they_state(highest, plain, bands):
    samples, content = ppm(highest, plain=plain, bands=bands)
    opened = open_picture(content)
    assert (opened.bits, opened.grey) == (16 if highest > 255 else 8, bands == 1)
    expected = samples / highest * (2**opened.bits - 1)
    assert np.abs(levels(opened)[:, :, :bands] - expected).max() <= 0.5


def test_deep_portable_maps_that_are_damaged_are_refused():
    samples, content = ppm(1023, plain=False, bands=3)
    for damaged in (content[:-3], content[: len(content) - samples.size] + b"\xff" * samples.size):
        with pytest.raises(UsageError, match="cannot read the input: it is"):
            open_picture(damaged)
    with pytest.raises(UsageError, match="cannot read the input: it is damaged"):
        open_picture(ppm(1023, plain=True, bands=3)[1][:-9] + b" x y z\n")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (making.heic(), "does not decode HEVC; save it in another format"),
        (b"\xff\x0a" + bytes(40), "does not read JPEG XL; save it in another format"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "does not read JPEG XL; save it"),
    ],
)
def test_a_format_that_this_libvips_lacks_is_named(content, line):
    with pytest.raises(UsageError, match=f"the libvips of this installation {line}"):
        levels(open_picture(content))
