"""Damaged, mislabelled, crafted and enormous pictures of every readable format."""

import io
import struct
import zlib
from pathlib import PurePath
from random import Random

import pytest
from PIL import Image

from tests.hostile.corpus import DAMAGES, PICTURES, PIXELS, damaged
from tests.hostile.processes import sizes, survive
from tests.imaging.making import encoded


@pytest.fixture(scope="module")
def files():
    return {name: make() for name, make in PICTURES.items()}


def enlarge(place, models, name, content, *options, **changes):
    """Enlarge a picture; nothing may come of it but a picture or a line."""
    given = place.put(name, content)
    model = ("--model", models["program"])
    return place.attack("upscale", given, "-o", f"{place.made}/", *model, *options, **changes)


@pytest.mark.hostile
def test_the_files_themselves_are_enlarged(place, models, files):
    def case(name):
        assert enlarge(place, models, name, files[name]).code == 0

    survive(place, case, [(name,) for name in files])


@sizes(part=15, whole=27 * 11 * 3)
def test_damaged_pictures(place, models, files, size):
    def case(name, damage, seed):
        content = damaged(files[name], damage, f"{name} {seed}")
        enlarge(place, models, name, content, "--max-pixels", "4M")

    every = [(name, damage, seed) for seed in range(3) for damage in DAMAGES for name in files]
    survive(place, case, size.sample(every))


@sizes(part=4, whole=120)
def test_pictures_of_another_format_than_their_names(place, models, files, size):
    def case(name, suffix):
        enlarge(place, models, PurePath(name).stem + suffix, files[name])

    suffixes = sorted({PurePath(name).suffix for name in files})
    others = [(n, s) for n in files for s in suffixes if PurePath(n).suffix != s]
    survive(place, case, size.sample(others))


@sizes(part=3, whole=80)
def test_halves_of_two_pictures(place, models, files, size):
    def case(first, second):
        a, b = files[first], files[second]
        enlarge(place, models, first, a[: len(a) // 2] + b[len(b) // 2 :], "--max-pixels", "4M")

    pairs = [(a, b) for a in files for b in files if a != b]
    survive(place, case, size.sample(pairs))


def _chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _png(*chunks, size=(8, 8)):
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    pixels = zlib.compress((b"\0" + b"\x80" * 24) * 8)
    whole = (*chunks, _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(whole)


def _bomb(count):
    return zlib.compress(bytes(count), 9)


def _tiff(entries, following=0, tail=b""):
    """A TIFF file of one directory: entries of tag, type, count and value."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    directory = struct.pack("<H", len(entries)) + body + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + directory + tail


def _tiff_of(width, height, strips=1, **changes):
    tags = {
        "width": (256, 4, 1, width),
        "height": (257, 4, 1, height),
        "bits": (258, 3, 1, 8),
        "compression": (259, 3, 1, 1),
        "photometric": (262, 3, 1, 1),
        "offset": (273, 4, strips, 200),
        "rows": (278, 4, 1, height),
        "bytes": (279, 4, strips, 64),
    }
    following = changes.pop("following", 0)
    return _tiff([*(tags | changes).values()], following, bytes(400))


def _large(kind, width, height):
    """A file whose header claims a size."""
    match kind:
        case "png":
            return _png(size=(width, height))
        case "tif":
            return _tiff_of(width, height)
        case "gif":
            image = encoded(Image.fromarray(PIXELS), "GIF")
            side = struct.pack("<HH", min(width, 65535), min(height, 65535))
            return image[:6] + side + image[10:]
        case "bmp":
            image = encoded(Image.fromarray(PIXELS), "BMP")
            return image[:18] + struct.pack("<II", width, height) + image[26:]
        case "tga":
            image = encoded(Image.fromarray(PIXELS), "TGA")
            side = struct.pack("<HH", min(width, 65535), min(height, 65535))
            return image[:12] + side + image[16:]
        case "jpg":
            image = bytearray(encoded(Image.fromarray(PIXELS), "JPEG"))
            at = image.index(b"\xff\xc0") + 5
            image[at : at + 4] = struct.pack(">HH", min(height, 65535), min(width, 65535))
            return bytes(image)
        case "jp2":
            image = bytearray(encoded(Image.fromarray(PIXELS), "JPEG2000"))
            at = image.index(b"ihdr") + 4
            image[at : at + 8] = struct.pack(">II", height, width)
            at = image.index(b"\xff\x51") + 6
            image[at : at + 8] = struct.pack(">II", width, height)
            return bytes(image)
        case "avif":
            image = bytearray(encoded(Image.fromarray(PIXELS), "AVIF"))
            at = image.index(b"ispe") + 8
            image[at : at + 8] = struct.pack(">II", width, height)
            return bytes(image)
        case _:
            return b"P6\n%d %d\n255\n" % (width, height) + bytes(1000)


SIDES = [
    (1, 2**31 - 1),
    (65535, 65535),
    (2**31 - 1, 2**31 - 1),
    (2**32 - 1, 1),
    (0, 8),
    (200000, 3),
]


@sizes(part=5, whole=54)
def test_headers_that_claim_an_enormous_size(place, models, size):
    kinds = ("png", "tif", "gif", "bmp", "tga", "jpg", "jp2", "avif", "ppm")

    def case(kind, width, height):
        enlarge(place, models, f"a.{kind}", _large(kind, width, height), cpu=20)

    every = [(kind, *sides) for sides in SIDES for kind in kinds]
    survive(place, case, size.sample(every))


CRAFTED = {
    "text bomb.png": lambda: _png(_chunk(b"zTXt", b"a\0\0" + _bomb(2**28))),
    "international bomb.png": lambda: _png(_chunk(b"iTXt", b"a\0\1\0\0\0" + _bomb(2**28))),
    "profile bomb.png": lambda: _png(_chunk(b"iCCP", b"a\0\0" + _bomb(2**28))),
    "pixel bomb.png": lambda: _png(_chunk(b"IDAT", _bomb(2**28))),
    "many texts.png": lambda: _png(*[_chunk(b"tEXt", b"a%d\0b" % i) for i in range(50_000)]),
    "escape.png": lambda: _png(_chunk(b"tEXt", b"\x1b]0;title\x07\0\x1b[2J")),
    "many frames.png": lambda: _png(_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "exif loop.png": lambda: _png(
        _chunk(b"eXIf", b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 8, 8))
    ),
    "exif count.png": lambda: _png(
        _chunk(b"eXIf", b"II*\0" + struct.pack("<IHHHIII", 8, 65535, 0x10F, 2, 2**32 - 1, 8, 8))
    ),
    "no pixels.png": lambda: b"\x89PNG\r\n\x1a\n" + _chunk(b"IEND", b""),
    "long chunk.png": lambda: b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xff" + b"IHDR" + bytes(40),
    "loop.tif": lambda: _tiff_of(8, 8, following=8),
    "chain.tif": lambda: _tiff_of(8, 8, following=12),
    "many strips.tif": lambda: _tiff_of(8, 8, strips=2**31),
    "zero bits.tif": lambda: _tiff_of(8, 8, bits=(258, 3, 1, 0)),
    "no rows.tif": lambda: _tiff_of(8, 8, rows=(278, 4, 1, 0)),
    "many samples.tif": lambda: _tiff_of(8, 8, more=(277, 3, 1, 65535)),
    "odd compression.tif": lambda: _tiff_of(8, 8, compression=(259, 3, 1, 34712)),
    "huge tile.tif": lambda: _tiff_of(8, 8, tw=(322, 4, 1, 2**31), th=(323, 4, 1, 2**31)),
    "no directory.tif": lambda: b"II*\0" + struct.pack("<I", 2**31),
    "empty directory.tif": lambda: _tiff([]),
    "no blocks.gif": lambda: b"GIF89a\x08\0\x08\0\0\0\0;",
    "endless.gif": lambda: b"GIF89a\x08\0\x08\0\0\0\0" + b"!\xfe\x01a\0" * 100_000 + b";",
    "wide code.gif": lambda: (
        b"GIF89a\x08\0\x08\0\x80\0\0" + bytes(6) + b",\0\0\0\0\x08\0\x08\0\0\x0c\x02\xff\xff\0;"
    ),
    "comments.ppm": lambda: b"P6\n" + b"#" * 2**20 + b"\n2 2\n255\n" + bytes(12),
    "long number.ppm": lambda: b"P6\n" + b"9" * 5000 + b" 2\n255\n" + bytes(12),
    "negative.ppm": lambda: b"P6\n-2 -2\n255\n" + bytes(12),
    "no levels.ppm": lambda: b"P6\n2 2\n0\n" + bytes(12),
    "words.ppm": lambda: b"P3\n2 2\n255\n" + b"a " * 12,
    "svg.png": lambda: (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="b.png"/></svg>'
    ),
    "csv.png": lambda: b"1,2,3\n4,5,6\n",
    "vips.png": lambda: struct.pack("<I", 0xB6A6F208) + bytes(1000),
    "matlab.png": lambda: b"MATLAB 5.0 MAT-file" + bytes(1000),
    "pdf.png": lambda: b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<</Root 1 0 R>>\n",
    "fits.png": lambda: b"SIMPLE  =                    T".ljust(2880),
    "hdr.png": lambda: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 8\n" + bytes(256),
    "empty.png": lambda: b"",
    "byte.jpg": lambda: b"\xff",
    "markers.jpg": lambda: b"\xff\xd8" + b"\xff\xfe\0\x04ab" * 100_000 + b"\xff\xd9",
    "riff.webp": lambda: b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WEBPVP8X" + bytes(100),
    "boxes.avif": lambda: b"\0\0\0\x1cftypavif" + bytes(16) + b"\0\0\0\x08meta" * 10_000,
    "box.avif": lambda: b"\0\0\0\x1cftypavif" + bytes(16) + b"\xff\xff\xff\xffmeta" + bytes(100),
    "run.tga": lambda: bytes([0, 0, 10, *[0] * 9, 8, 0, 8, 0, 24, 0]) + b"\xff\1\2\3" * 2,
    "palette.bmp": lambda: encoded(Image.fromarray(PIXELS).quantize(4), "BMP")[:46] + b"\xff" * 200,
    "codestream.j2k": lambda: b"\xff\x4f\xff\x51" + b"\xff\xff" + bytes(200),
}
"""Pictures made to make decoders run, allocate or recurse without end."""


@sizes(part=8, whole=len(CRAFTED))
def test_crafted_pictures(place, models, size):
    def case(name):
        enlarge(place, models, name, CRAFTED[name](), cpu=20)

    survive(place, case, size.sample((name,) for name in sorted(CRAFTED)))


@sizes(part=0, whole=20)
def test_folders_of_damaged_pictures(place, models, files, size):
    """The whole pictures of a folder are enlarged, the others named."""

    def case(seed):
        draw = Random(seed)
        names = sorted(files)
        for name in names:
            damage = draw.choice([None, *DAMAGES])
            content = files[name]
            place.put(f"{seed}/{name}", damaged(content, damage, name) if damage else content)
        ended = place.attack(
            *("upscale", place.given / str(seed), "-o", f"{place.made}/", "--max-pixels", "4M"),
            *("--model", models["program"]),
            memory=3 << 29,  # several at once, and one of 16 bits, for which torch is imported
        )
        made = list(place.made.iterdir())
        assert made
        failed = [line for line in ended.err.splitlines() if "failed" in line]
        assert (ended.code == 0) == (not failed)

    survive(place, case, size.sample((seed,) for seed in range(20)))


def test_a_picture_never_reads_its_neighbours(place, models):
    """An SVG file with the name of a PNG would draw the picture beside it."""
    secret = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(secret, "PNG")
    place.put("b.png", secret.getvalue())
    ended = enlarge(place, models, "a.png", CRAFTED["svg.png"]())
    assert ended.code == 2
    assert not list(place.made.iterdir())
