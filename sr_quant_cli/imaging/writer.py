"""Pictures into files and streams, written band by band."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import pyvips
from numpy.typing import NDArray

from sr_quant_cli.errors import FailedError
from sr_quant_cli.imaging.apng import write_apng
from sr_quant_cli.imaging.colour import to_eight_bits
from sr_quant_cli.imaging.failures import one_line
from sr_quant_cli.imaging.finishing import FINISHES
from sr_quant_cli.imaging.formats import SaveOptions, check_writable
from sr_quant_cli.imaging.metadata import Metadata
from sr_quant_cli.imaging.resize import resample
from sr_quant_cli.system.files import replacing

_CLASSIC_TIFF = 10**9
"""Largest number of samples of a TIFF file with offsets of 4 bytes, which every program reads."""

_KINDS = {1: "uchar", 2: "ushort"}
"""libvips' names of samples, by their bytes."""
_INTERPRETATIONS = {(1, 1): "b-w", (1, 3): "srgb", (2, 1): "grey16", (2, 3): "rgb16"}
"""libvips' names of colours, by the bytes of a sample and the number of bands."""


class StreamWriter:
    """Writes a picture of which only a band of rows is in memory at a time.

    Rows gather uncompressed in a file without a name beside the output, which the system removes
    however the process ends; libvips then encodes it as a stream. Leave the ``with`` block normally
    to complete the output; an exception leaves nothing.

    Parameters
    ----------
    target
        Output file, or a binary stream, which receives the complete file at once.
    height, width
        Size of the written rows' picture, or of one frame of it, in pixels.
    bits
        8 or 16 a sample.
    grey
        Write one channel, the mean of the three.
    alpha
        Transparency to join, 1 band of the full size and depth; frames one below the other.
    metadata
        Metadata of the output.
    save
        Format of the output.
    size
        ``(H, W)`` to resample to while encoding; None: as written.
    durations
        Times of the frames in milliseconds; None: not an animation.
    loop
        Number of times that an animation is shown; 0: forever.
    pages
        Number of frames, which are written one after the other.
    cancelled
        Asked again and again while the output is encoded; True: that fails and leaves nothing.
    """

    def __init__(
        self,
        target: Path | BinaryIO,
        height: int,
        width: int,
        *,
        bits: int = 8,
        grey: bool = False,
        alpha: pyvips.Image | None = None,
        metadata: Metadata = Metadata(),  # noqa: B008 - frozen
        save: SaveOptions = SaveOptions(),  # noqa: B008 - frozen
        size: tuple[int, int] | None = None,
        pages: int = 1,
        durations: tuple[int, ...] | None = None,
        loop: int = 0,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path = target if isinstance(target, Path) else None
        self._stream = None if isinstance(target, Path) else target
        self._form = check_writable(
            self._path, *(size or (height, width)), alpha=alpha is not None, save=save
        )
        self._shape = (pages * height, width, 1 if grey else 3)
        self._pages, self._durations, self._loop = pages, durations, loop
        self._dtype = np.uint16 if bits == 16 else np.uint8
        self._grey = grey
        self._alpha = alpha
        self._metadata, _ = metadata.held_by(self._form)
        self._save = save
        self._size = size
        self._cancelled = cancelled
        self._finished = False

    @property
    def _name(self) -> Path | str:
        return "the output" if self._path is None else self._path

    def open(self) -> None:
        """Get ready for rows; end with ``finish`` or ``discard``.

        Raises
        ------
        FailedError
            There can be no file beside the output.
        """
        with self._failing():
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            folder = self._path and self._path.parent
            self._rows = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - see above

    def __enter__(self) -> Self:
        self.open()
        return self

    def write(self, rows: NDArray[Any]) -> None:
        """Append rows: uint8 or uint16 ``[h, width, 3]``, of the depth of the picture.

        Raises
        ------
        FailedError
            The disk is full.
        """
        if self._grey:
            rows = grey_of(rows)
        with self._failing():
            self._rows.write(np.ascontiguousarray(rows).data)

    def finish(self) -> None:
        """Encode the picture; the output appears when it is complete.

        Raises
        ------
        FailedError
            Rows are missing, the disk is full, or the encoder fails.
        """
        with self._rows, self._failing():
            self._rows.flush()
            # Mapped, not read: of a large picture the system holds the pages that it has room for.
            rows = np.memmap(self._rows, self._dtype, "r", shape=self._shape)
            self._encode(self._image(rows))
            self._finished = True

    def discard(self) -> None:
        """Drop the rows; nothing is written."""
        self._rows.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and not self._finished:
            self.finish()
        else:
            self.discard()

    def _image(self, rows: NDArray[Any]) -> pyvips.Image:
        image = image_of(rows, self._alpha, self._size, self._pages)
        return to_eight_bits(image) if self._form.bits == 8 else image

    def _encode(self, image: pyvips.Image) -> None:
        height = image.height // self._pages
        image, keep = self._metadata.apply(image, self._form, height)
        image.set_progress(True)
        image.signal_connect("eval", lambda now, _: now.set_kill(self._cancelled()))
        options = {**self._save.vips_options(self._form), "keep": keep}
        if self._form.key == "tiff":
            options["bigtiff"] = image.width * image.height * image.bands > _CLASSIC_TIFF
        with self._place() as file:
            if self._pages > 1 and self._form.key == "png":
                durations = self._durations or (0,) * self._pages
                write_apng(file, self._png_frames(image, height, options), durations, self._loop)
            else:
                self._set_frames(image, height)
                target = pyvips.Target.new_to_file(os.fsencode(file))
                image.write_to_target(target, self._form.saver, **options)
            if self._cancelled():  # some encoders do not look
                raise FailedError(f"cannot write {self._name}: it was cancelled")
            finish = FINISHES.get(self._form.key)
            if finish is not None:
                finish(file, self._metadata)

    def _set_frames(self, image: pyvips.Image, height: int) -> None:
        if self._pages > 1:
            image.set_type(pyvips.GValue.gint_type, "page-height", height)
            image.set_type(pyvips.GValue.gint_type, "loop", self._loop)
            if self._durations is not None:
                image.set_type(pyvips.GValue.array_int_type, "delay", list(self._durations))

    def _png_frames(
        self, image: pyvips.Image, height: int, options: dict[str, Any]
    ) -> Iterator[bytes]:
        for top in range(0, image.height, height):
            frame = image.crop(0, top, image.width, height)
            frame.set_progress(True)
            frame.signal_connect("eval", lambda now, _: now.set_kill(self._cancelled()))
            yield frame.write_to_buffer(self._form.saver, **options)

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        """Yield a temporary path; move it to the output, or copy it to the stream, at the end."""
        if self._path is not None:
            with replacing(self._path) as temporary:
                yield temporary
        if self._stream is not None:
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / "picture"
                yield temporary
                with temporary.open("rb") as encoded:
                    shutil.copyfileobj(encoded, self._stream)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn errors of writing into one line."""
        try:
            yield
        except (OSError, ValueError, pyvips.Error) as error:
            raise FailedError(f"cannot write {self._name}: {one_line(error)}") from error


def grey_of(rows: NDArray[Any]) -> NDArray[Any]:
    """Mean of the channels of ``[h, w, 3]``: ``[h, w, 1]`` of the same type, rounded."""
    grey: NDArray[Any] = np.rint(rows.mean(axis=2, dtype=np.float32)).astype(rows.dtype)
    return grey[:, :, None]


def image_of(
    rows: NDArray[Any],
    alpha: pyvips.Image | None = None,
    size: tuple[int, int] | None = None,
    pages: int = 1,
) -> pyvips.Image:
    """Join rows and alpha to a picture, and resample it.

    Parameters
    ----------
    rows
        Contiguous uint8 or uint16 ``[H, W, 1]`` or ``[H, W, 3]``; pages one below the other.
    alpha
        1 band of the same size and depth; None: there is none.
    size
        Height and width to resample each page to; None: as it is.
    """
    height, width, bands = rows.shape
    image = pyvips.Image.new_from_memory(rows, width, height, bands, _KINDS[rows.dtype.itemsize])
    image = image.copy(interpretation=_INTERPRETATIONS[rows.dtype.itemsize, bands])
    if alpha is not None:
        image = image.bandjoin(alpha)
    if size is None:
        return image
    height //= pages
    frames = [resample(image.crop(0, page * height, width, height), *size) for page in range(pages)]
    return pyvips.Image.arrayjoin(frames, across=1) if pages > 1 else frames[0]
