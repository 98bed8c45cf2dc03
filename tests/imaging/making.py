"""Picture files with metadata, frames and unusual samples, made by other libraries than srq."""

import io
import struct

import numpy as np
import pyvips
from PIL import Image
from PIL.PngImagePlugin import PngInfo

GPS = (51.0, 30.5, 12.25)
NOTE = b"a note of the camera's maker" * 3
IPTC = b"\x1c\x02\x05\x00\x05title\x1c\x02\x19\x00\x03key"
XMP = b'<x tiff:Orientation="6" exif:PixelXDimension="30"><dc:title>sea</dc:title></x>'
THUMBNAIL = b"\xff\xd8\xff this is a thumbnail \xff\xd9"
PROFILE = bytes(pyvips.Operation.call("profile_load", "p3"))
CMYK_PROFILE = bytes(pyvips.Operation.call("profile_load", "cmyk"))


def exif(orientation=1, resolution=240.0, thumbnail=True):
    """EXIF data with GPS, a camera's note, a lens and a thumbnail; behind ``Exif\\0\\0``."""
    made = Image.Exif()
    made[0x10F], made[0x112], made[0x8298] = "Maker", orientation, "somebody"
    if resolution:
        made[0x11A] = made[0x11B] = resolution
        made[0x128] = 2
    made.get_ifd(0x8769).update(
        {0x9003: "2020:01:01 00:00:00", 0x927C: NOTE, 0xA002: 30, 0xA003: 20, 0xA434: "Lens"}
    )
    made.get_ifd(0x8825).update({0: b"\2\3\0\0", 1: "N", 2: GPS})
    data = bytearray(made.tobytes()[6:])
    if thumbnail:
        order = "<" if data[:2] == b"II" else ">"
        (first,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, first)
        data += b"\0" * (len(data) % 2)
        struct.pack_into(order + "I", data, first + 2 + 12 * count, len(data))
        place = len(data) + 2 + 3 * 12 + 4
        data += struct.pack(order + "H", 3)
        data += struct.pack(order + "HHIHH", 0x103, 3, 1, 6, 0)
        data += struct.pack(order + "HHII", 0x201, 4, 1, place)
        data += struct.pack(order + "HHII", 0x202, 4, 1, len(THUMBNAIL))
        data += struct.pack(order + "I", 0) + THUMBNAIL
    return b"Exif\0\0" + bytes(data)


def photograph(kind, pixels, orientation=1):
    """A file with all the metadata that Pillow writes into files of that format."""
    options = {"icc_profile": PROFILE, "exif": exif(orientation), "xmp": XMP}
    match kind:
        case "PNG":
            texts = PngInfo()
            texts.add_text("Author", "somebody")
            texts.add_itxt("Title", "ünï€")
            texts.add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
            options |= {"pnginfo": texts, "dpi": (240, 240)}
        case "JPEG":
            options |= {"quality": 98, "subsampling": 0, "comment": b"a comment", "dpi": (240, 240)}
        case "TIFF":
            data = Image.Exif()
            data.load(options["exif"])
            data[700] = options.pop("xmp")
            options |= {"dpi": (240, 240), "exif": data}
        case "WEBP":
            options |= {"lossless": True}
        case "AVIF":
            options |= {"quality": 100, "subsampling": "4:4:4"}
    return encoded(Image.fromarray(pixels), kind, **options)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawn(index, height=24, width=36):
    """A frame, uint8 ``[height, width, 4]``: a disc that moves, in a colour that changes."""
    y, x = np.mgrid[:height, :width]
    colour = [40 * index, 100, 200 - 30 * index]
    alpha = np.where(np.hypot(x - 10 - 4 * index, y - 12) < 8, 255, 0)
    return np.dstack([np.full((height, width, 3), colour), alpha]).astype(np.uint8)


def animation(kind, count=4, **options):
    """An animation that is shown three times."""
    first, *others = (Image.fromarray(drawn(index)) for index in range(count))
    times = [50 * (index + 1) for index in range(count)]
    options = {"disposal": 2} if kind == "GIF" else {"lossless": True} if kind == "WEBP" else {}
    return encoded(
        first, kind, save_all=True, append_images=others, duration=times, loop=3, **options
    )


def pages(*pictures):
    first, *others = map(Image.fromarray, pictures)
    return encoded(first, "TIFF", save_all=True, append_images=others)


def to_vips(levels):
    """An image of libvips: uint8 or uint16 ``[H, W, C]``, of 1 to 4 channels."""
    grey, deep = levels.shape[2] < 3, levels.dtype == np.uint16
    space = (("srgb", "b-w"), ("rgb16", "grey16"))[deep][grey]
    return pyvips.Image.new_from_array(levels).copy(interpretation=space)


def heic():
    """A file that states HEVC compression, made of an AVIF file."""
    data = bytearray(pyvips.Image.black(64, 64, bands=3).write_to_buffer(".avif"))
    settings = struct.pack(">I4s", 31, b"hvcC") + bytes([1, 1, *[0] * 20, 0])
    at = data.index(b"av1C") - 4
    (size,) = struct.unpack_from(">I", data, at)
    for name in (b"ipco", b"iprp", b"meta"):
        place = data.index(name) - 4
        (length,) = struct.unpack_from(">I", data, place)
        struct.pack_into(">I", data, place, length + len(settings) - size)
    data[at : at + size] = settings
    return bytes(data).replace(b"av01", b"hvc1").replace(b"ftypavif", b"ftypheic")
