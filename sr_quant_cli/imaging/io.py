"""Pictures in and out of files, by libvips: read where needed, written band by band."""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyvips
from numpy.typing import NDArray

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.decode import field, load, one_line, readable, to_srgb
from sr_quant_cli.imaging.formats import SAVE_OPTIONS, check_writable
from sr_quant_cli.system.files import replacing

_METADATA = {"exif-data": "EXIF", "xmp-data": "XMP", "iptc-data": "IPTC"}
"""libvips' names of what is not kept, and the user's."""


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
        with readable(self.path):
            region = self.rgb.crop(left, top, right - left, bottom - top)
            return np.asarray(region.numpy(), dtype=np.uint8)

    def alpha_range(self) -> tuple[int, int]:
        """The lowest and the highest alpha; 255 where there is none.

        Raises
        ------
        UsageError
            The file is damaged.
        """
        if self.alpha is None:
            return 255, 255
        with readable(self.path):
            stats = self.alpha.stats()
            lowest, highest = (int(stats.getpoint(column, 0)[0]) for column in range(2))
        return lowest, highest


def open_picture(path: Path) -> Picture:
    """Open a picture, upright (EXIF orientation applied), as 8-bit sRGB.

    Raises
    ------
    UsageError
        The file is missing, damaged, no picture, or has samples that mean no levels.
    """
    with readable(path):
        if not path.is_file():
            raise UsageError(f"no such picture: {path}")
        image = load(path)
        not_kept = list(_losses(image))
        icc = field(image, "icc-profile-data")
        image = image.autorot()
        grey = image.interpretation in ("b-w", "grey16") or image.bands < 3
        if image.interpretation == "cmyk":
            icc = None  # it describes inks, not the sRGB that follows
        image, losses = to_srgb(image, grey=grey)
        alpha = image[image.bands - 1] if image.hasalpha() else None
        colour = image[0] if grey else image[0:3]
        rgb = colour.bandjoin([colour, colour]) if grey else colour
        return Picture(path, rgb, alpha, grey, icc, (*losses, *not_kept))


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
    """True if a file is a picture without damage."""
    try:
        with readable(path):
            load(path).avg()
    except UsageError:
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
        with readable(picture.path):
            return _thumbnail(picture.rgb, longest)
    return _thumbnail(pyvips.Image.new_from_array(picture), longest)


def write_rgb(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 ``[H, W, 3]`` to ``path`` atomically, in the format of its suffix."""
    height, width, _ = pixels.shape
    with StreamWriter(path, height, width) as writer:
        writer.write(pixels)


class StreamWriter:
    """Writes a picture of which only a band of rows is in memory at a time.

    Rows gather uncompressed in a file without a name beside the output, which the system removes
    however the process ends; libvips then encodes it as a stream. Leave the ``with`` block normally
    to complete the output; an exception leaves nothing.

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
    cancelled
        Asked again and again while the output is encoded; True: that fails and leaves nothing.
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
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        check_writable(path, height, width, alpha=alpha is not None)
        self.path = path
        self._shape = (height, width, 1 if grey else 3)
        self._grey = grey
        self._alpha = alpha
        self._icc = icc
        self._cancelled = cancelled

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rows = tempfile.TemporaryFile(dir=self.path.parent)
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
        height, width, bands = self._shape
        try:
            self._rows.flush()
            # Mapped, not read: of a large picture the system holds the pages that it has room for.
            rows = np.memmap(self._rows, np.uint8, "r", shape=self._shape)
            image = pyvips.Image.new_from_memory(rows, width, height, bands, "uchar").copy(
                interpretation="b-w" if self._grey else "srgb"
            )
            if self._alpha is not None:
                image = image.bandjoin(self._alpha)
            if self._icc is not None:
                image.set_type(pyvips.GValue.blob_type, "icc-profile-data", self._icc)
            image.set_progress(True)
            image.signal_connect("eval", lambda now, _: now.set_kill(self._cancelled()))
            suffix = self.path.suffix.lower()
            with replacing(self.path) as temporary:
                target = pyvips.Target.new_to_file(os.fsencode(temporary))
                image.write_to_target(target, suffix, **SAVE_OPTIONS[suffix])
        except (OSError, ValueError, pyvips.Error) as error:
            raise FailedError(f"cannot write {self.path}: {one_line(error)}") from error


def _thumbnail(image: pyvips.Image, longest: int) -> NDArray[np.uint8]:
    shrunk = image.thumbnail_image(longest, height=longest, size="down")
    return np.asarray(shrunk.numpy(), dtype=np.uint8)


def _losses(image: pyvips.Image) -> Iterator[str]:
    names = image.get_fields()
    yield from (kind for name, kind in _METADATA.items() if name in names)
    if any("-comment" in name for name in names):
        yield "comments"
    pages = field(image, "n-pages") or 1
    if pages > 1:
        yield f"pages 2 to {pages}"
