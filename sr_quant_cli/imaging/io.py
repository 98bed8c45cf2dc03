"""Pictures in and out of files, by libvips: read where needed, written band by band."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# libvips prints its warnings on stderr unless told otherwise before it is loaded.
os.environ.setdefault("VIPS_WARNING", "0")

import numpy as np
import pyvips
from numpy.typing import NDArray

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.files import replacing

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")
"""Suffixes taken as pictures when a folder is searched."""

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"compression": 3, "keep": "icc"},
    ".tif": {"compression": "deflate", "predictor": "horizontal", "bigtiff": True, "keep": "icc"},
    ".tiff": {"compression": "deflate", "predictor": "horizontal", "bigtiff": True, "keep": "icc"},
    ".webp": {"lossless": True, "keep": "icc"},
    ".jpg": {"Q": 95, "keep": "icc"},
    ".jpeg": {"Q": 95, "keep": "icc"},
}
"""Suffixes that can be written, with libvips' options for each."""

_LONGEST_SIDE = {".webp": 16383, ".jpg": 65535, ".jpeg": 65535}


def picture_files(folder: Path) -> list[Path]:
    """List the pictures lying in ``folder`` (not below it), sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in READABLE and p.is_file())


@dataclass(frozen=True)
class Picture:
    """A picture file, opened but not yet decoded.

    Attributes
    ----------
    rgb
        8-bit sRGB, 3 bands; grey pictures are replicated.
    alpha
        8-bit transparency, 1 band, or None.
    grey
        Whether the file holds one colour channel.
    icc
        The embedded colour profile, kept for the output, or None.
    not_kept
        What of the file does not survive in this form, in words for the user.
    """

    path: Path
    rgb: pyvips.Image
    alpha: pyvips.Image | None
    grey: bool
    icc: bytes | None
    not_kept: tuple[str, ...]

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.rgb.height)

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.rgb.width)

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
        """Decode a rectangle: uint8 ``[bottom - top, right - left, 3]``.

        Raises
        ------
        UsageError
            The file is damaged there.
        """
        with _readable(self.path):
            region = self.rgb.crop(left, top, right - left, bottom - top)
            return np.asarray(region.numpy(), dtype=np.uint8)


def open_picture(path: Path) -> Picture:
    """Open a picture, upright (EXIF orientation applied), as 8-bit sRGB.

    Raises
    ------
    UsageError
        The file is missing, damaged or no picture.
    """
    if not path.is_file():
        raise UsageError(f"no such picture: {path}")
    with _readable(path):
        image = pyvips.Image.new_from_file(str(path), fail_on="truncated")
        not_kept = list(_losses(image))
        icc = _field(image, "icc-profile-data")
        image = image.autorot()
        grey = image.interpretation in ("b-w", "grey16") or image.bands < 3
        if image.interpretation == "cmyk":
            icc = None  # it describes inks, not the sRGB that follows
        if image.interpretation not in ("srgb", "b-w"):
            image = image.colourspace("b-w" if grey else "srgb")
        if image.format != "uchar":
            image = image.cast("uchar")
        alpha = image[image.bands - 1] if image.hasalpha() else None
        colour = image[0] if grey else image[0:3]
        rgb = colour.bandjoin([colour, colour]) if grey else colour
        return Picture(path, rgb, alpha, grey, icc, tuple(not_kept))


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode a whole picture: uint8 ``[H, W, 3]``, sRGB 0..255; grey is replicated.

    Raises
    ------
    UsageError
        The file is missing, damaged or no picture.
    """
    picture = open_picture(path)
    return picture.read(0, picture.height, 0, picture.width)


def decodes(path: Path) -> bool:
    """Whether a file is a picture without damage."""
    try:
        pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated").avg()
    except pyvips.Error:
        return False
    return True


def thumbnail(picture: Picture | NDArray[np.uint8], longest: int = 1600) -> NDArray[np.uint8]:
    """Shrink a picture to look at, uint8 ``[h, w, 3]``: no side is longer; a small one stays.

    Raises
    ------
    UsageError
        The file is damaged.
    """
    if isinstance(picture, Picture):
        with _readable(picture.path):
            return _thumbnail(picture.rgb, longest)
    return _thumbnail(pyvips.Image.new_from_array(picture), longest)


def write_rgb(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 ``[H, W, 3]`` to ``path`` atomically, in the format of its suffix."""
    height, width, _ = pixels.shape
    with StreamWriter(path, height, width) as writer:
        writer.write(pixels)


def check_writable(path: Path, height: int, width: int, *, alpha: bool = False) -> None:
    """Refuse an output that its format cannot hold.

    Raises
    ------
    UsageError
        Unknown suffix, sides too long, or transparency in a JPEG.
    """
    suffix = path.suffix.lower()
    if suffix not in SAVE_OPTIONS:
        raise UsageError(f"cannot write {path}: suffix must be one of {', '.join(SAVE_OPTIONS)}")
    limit = _LONGEST_SIDE.get(suffix)
    if limit is not None and max(height, width) > limit:
        raise UsageError(
            f"cannot write {path}: {width}x{height} is too large for {suffix} "
            f"(longest side {limit}); use .png or .tif"
        )
    if alpha and suffix in (".jpg", ".jpeg"):
        raise UsageError(f"cannot write {path}: JPEG holds no transparency; use .png")


class StreamWriter:
    """Writes a picture of which only a band of rows is in memory at a time.

    Rows gather uncompressed in a temporary file beside the output, which libvips then encodes as a
    stream. Leave the ``with`` block normally to complete the file; an exception leaves nothing.

    Parameters
    ----------
    path
        Output file; its suffix chooses the format (``SAVE_OPTIONS``).
    height, width
        Size of the whole picture in pixels.
    grey
        Write one channel, the mean of the three.
    alpha
        Transparency to join, 1 band of the full size.
    icc
        Colour profile to embed.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        *,
        grey: bool = False,
        alpha: pyvips.Image | None = None,
        icc: bytes | None = None,
    ) -> None:
        check_writable(path, height, width, alpha=alpha is not None)
        self.path = path
        self._size = (width, height)
        self._grey = grey
        self._alpha = alpha
        self._icc = icc

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rows = tempfile.NamedTemporaryFile(
                dir=self.path.parent, prefix=f".{self.path.stem}.", suffix=".raw"
            )
        except OSError as error:
            raise FailedError(f"cannot write {self.path}: {error.strerror}") from error
        return self

    def write(self, rows: NDArray[np.uint8]) -> None:
        """Append rows: uint8 ``[h, width, 3]``.

        Raises
        ------
        FailedError
            The disk is full.
        """
        if self._grey:
            rows = np.rint(rows.mean(axis=2, dtype=np.float32)).astype(np.uint8)
        try:
            self._rows.write(np.ascontiguousarray(rows).data)
        except OSError as error:
            raise FailedError(f"cannot write {self.path}: {error.strerror}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._rows:
            if error is None:
                self._encode()

    def _encode(self) -> None:
        bands = 1 if self._grey else 3
        try:
            self._rows.flush()
            image = pyvips.Image.rawload(
                self._rows.name, *self._size, bands, access="sequential"
            ).copy(interpretation="b-w" if self._grey else "srgb")
            if self._alpha is not None:
                image = image.bandjoin(self._alpha)
            if self._icc is not None:
                image.set_type(pyvips.GValue.blob_type, "icc-profile-data", self._icc)
            with replacing(self.path) as temporary:
                image.write_to_file(str(temporary), **SAVE_OPTIONS[self.path.suffix.lower()])
        except (OSError, pyvips.Error) as error:
            raise FailedError(f"cannot write {self.path}: {_one_line(error)}") from error


def _thumbnail(image: pyvips.Image, longest: int) -> NDArray[np.uint8]:
    shrunk = image.thumbnail_image(longest, height=longest, size="down")
    return np.asarray(shrunk.numpy(), dtype=np.uint8)


def _losses(image: pyvips.Image) -> Iterator[str]:
    if image.format != "uchar":
        depth = "16 bits" if image.format == "ushort" else image.format
        yield f"{depth} a sample (reduced to 8)"
    if _field(image, "exif-data") is not None:
        yield "EXIF"
    if image.interpretation == "cmyk":
        yield "CMYK (converted to sRGB)"
    pages = _field(image, "n-pages") or 1
    if pages > 1:
        yield f"pages 2 to {pages}"


def _field(image: pyvips.Image, name: str) -> Any:
    return image.get(name) if image.get_typeof(name) else None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except pyvips.Error as error:
        raise UsageError(f"cannot read {path}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = error.detail if isinstance(error, pyvips.Error) else str(error)
    lines = [line.strip() for line in text.strip().splitlines()]
    return lines[0] if lines else "unknown error"
