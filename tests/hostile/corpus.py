"""Small valid files of every kind that srq reads, and ways to damage them."""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyvips
import tifffile
import torch
from PIL import Image

from sr_quant_cli.commands.pack import PackRequest, pack
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import config_class
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL
from tests.helpers import picture, tiny_edsr
from tests.imaging.making import animation, encoded, pages, photograph

PIXELS = picture(21, 26)
DEEP = PIXELS.astype(np.uint16) * 257
RGBA = np.dstack([PIXELS, PIXELS[:, :, 0]])


def _vips(suffix, pixels=PIXELS, **options):
    return pyvips.Image.new_from_array(pixels).write_to_buffer(suffix, **options)


def _tiff(pixels=PIXELS, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", **options)
    return buffer.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "photograph.png": lambda: photograph("PNG", PIXELS),
    "interlaced.png": lambda: _vips(".png", interlace=True),
    "palette.png": lambda: encoded(Image.fromarray(RGBA).quantize(32), "PNG"),
    "deep.png": lambda: _vips(".png", DEEP),
    "moving.png": lambda: animation("PNG"),
    "photograph.jpg": lambda: photograph("JPEG", PIXELS),
    "progressive.jpg": lambda: _vips(".jpg", interlace=True),
    "cmyk.jpg": lambda: encoded(Image.fromarray(RGBA, "CMYK"), "JPEG"),
    "photograph.webp": lambda: photograph("WEBP", PIXELS),
    "lossy.webp": lambda: _vips(".webp", RGBA),
    "moving.webp": lambda: animation("WEBP"),
    "photograph.tif": lambda: photograph("TIFF", PIXELS),
    "raw.tif": _tiff,
    "deflated.tif": lambda: _tiff(DEEP, compression="zlib", tile=(16, 16)),
    "big.tif": lambda: _tiff(bigtiff=True),
    "float.tif": lambda: _tiff(PIXELS.astype(np.float32) / 255),
    "pages.tif": lambda: pages(PIXELS, PIXELS[::-1]),
    "moving.gif": lambda: animation("GIF"),
    "still.gif": lambda: encoded(Image.fromarray(PIXELS), "GIF"),
    "photograph.avif": lambda: photograph("AVIF", PIXELS),
    "a.bmp": lambda: encoded(Image.fromarray(PIXELS), "BMP"),
    "palette.bmp": lambda: encoded(Image.fromarray(PIXELS).quantize(16), "BMP"),
    "a.ppm": lambda: encoded(Image.fromarray(PIXELS), "PPM"),
    "deep.pgm": lambda: b"P5 4 3 65535\n" + DEEP.tobytes()[:24],
    "plain.ppm": lambda: b"P3 2 2 300\n" + b" ".join(b"%d" % i for i in range(12)),
    "a.tga": lambda: encoded(Image.fromarray(RGBA), "TGA", compression="tga_rle"),
    "a.jp2": lambda: encoded(Image.fromarray(PIXELS), "JPEG2000"),
}
"""Pictures of every readable format, by their names."""


def _cut(data, draw):
    return data[: draw.randrange(len(data))]


def _cut_end(data, draw):
    return data[: -draw.randint(1, min(len(data), 24))]


def _flip(data, draw, upto=None):
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(min(len(data), upto or len(data)))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _flip_head(data, draw):
    return _flip(data, draw, 64)


def _overwrite(data, draw):
    at, count = draw.randrange(len(data)), draw.randint(1, 64)
    what = draw.choice([b"\0" * count, b"\xff" * count, draw.randbytes(count)])
    return data[:at] + what + data[at + count :]


def _number(data, draw):
    """Put an extreme number where a header may have a length or a size."""
    at = draw.randrange(min(len(data), 300))
    kind = draw.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"])
    bits = 8 * struct.calcsize(kind)
    value = draw.choice([0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 2 ** (bits - 3)])
    return data[:at] + struct.pack(kind, value) + data[at + bits // 8 :]


def _insert(data, draw):
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.randint(1, 40)) + data[at:]


def _remove(data, draw):
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.randint(1, 40) :]


def _repeat(data, draw):
    at, count = draw.randrange(len(data)), draw.randint(4, 200)
    return data[: at + count] + data[at : at + count] * draw.randint(1, 50) + data[at + count :]


def _swap(data, draw):
    at = draw.randrange(len(data))
    return data[at:] + data[:at]


def _append(data, draw):
    return data + draw.randbytes(draw.randint(1, 5000))


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    function.__name__.strip("_"): function
    for function in (
        *(_cut, _cut_end, _flip, _flip_head, _overwrite, _number),
        *(_insert, _remove, _repeat, _swap, _append),
    )
}
"""Changes of a file's bytes."""


def damaged(data: bytes, damage: str, seed: str) -> bytes:
    """Damage a file in a way that follows from the seed."""
    return DAMAGES[damage](data, Random(f"{damage} {seed}"))


def write_models(folder: Path) -> dict[str, Path]:
    """Write model files: float, quantized, and one with a program for srq's kernels."""
    save_model(folder / "float.safetensors", tiny_edsr(), Card(name="tiny"))
    network, method = tiny_edsr(), build_method(config_class("minmax")())
    quantize_network(network, method, FULL, Bits(8, 8))
    method.calibrate(network, [torch.rand(2, 3, 12, 12)])
    save_model(folder / "quantized.safetensors", network, Card(name="tiny w8a8"))
    pack(PackRequest(str(folder / "quantized.safetensors"), folder / "program.safetensors"))
    return {path.stem: path for path in folder.glob("*.safetensors")}


def split(model: bytes) -> tuple[dict, bytes]:
    """Header and tensors of a safetensors file."""
    (length,) = struct.unpack_from("<Q", model)
    return json.loads(model[8 : 8 + length]), model[8 + length :]


def joined(header: object, tensors: bytes) -> bytes:
    """A safetensors file of a header and tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def tar_of(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    """A tar archive; a member is a file's content, or an entry of another kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            entry = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
