"""One picture in, one picture out, in three stages that can overlap for several pictures."""

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pyvips
from numpy.typing import NDArray

from sr_quant_cli.errors import SrqError, UsageError
from sr_quant_cli.imaging.alpha import enlarge_alpha, opaque, spread_colour
from sr_quant_cli.imaging.decode import read_header
from sr_quant_cli.imaging.formats import SaveOptions, WritableFormat, writable_formats
from sr_quant_cli.imaging.io import Picture, open_picture
from sr_quant_cli.imaging.metadata import Metadata
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.imaging.writer import StreamWriter, grey_of, image_of
from sr_quant_cli.inference.tiles import OnTile, TileResult, ignore
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.records import record

_SEVERAL = (".gif", ".webp", ".tif", ".tiff")
"""Suffixes of pictures that may have several frames or pages, besides PNG."""

_SMALL = 2**22
"""Largest number of pixels that are decoded when a picture is opened."""


@record
class PictureOptions:
    """Options of one picture.

    Attributes
    ----------
    save
        Format of the output.
    strip
        Drop all metadata.
    frames
        Frames of an animation, or pages, that are enlarged.
    region
        Rectangle of the input that is enlarged; None: the whole picture.
    """

    save: SaveOptions = field(default_factory=SaveOptions)
    strip: bool = False
    frames: Literal["all", "first"] = "all"
    region: Region | None = None


@record
class OpenedPicture:
    """A picture that was opened and fits its output: the result of ``open_job``.

    Attributes
    ----------
    frames
        Frames to enlarge, equal in size and depth.
    form
        Format of the output.
    metadata
        Metadata of the output.
    height, width
        Size of what is enlarged, in LR pixels: the region, or the whole picture.
    losses
        Properties of the input that the output does not have, in words.
    """

    frames: tuple[Picture, ...]
    target: Path | BinaryIO
    form: WritableFormat
    options: PictureOptions
    metadata: Metadata
    losses: tuple[str, ...]

    @property
    def grey(self) -> bool:
        """True if all frames are grey."""
        return all(frame.grey for frame in self.frames)

    @property
    def picture(self) -> Picture:
        """The first frame."""
        return self.frames[0]

    @property
    def height(self) -> int:
        """Rows that are enlarged, in LR pixels."""
        return self.options.region.height if self.options.region else self.picture.height

    @property
    def width(self) -> int:
        """Columns that are enlarged, in LR pixels."""
        return self.options.region.width if self.options.region else self.picture.width

    def tile_count(self, upscaler: Upscaler) -> int:
        """Number of tiles that ``run`` computes."""
        size = (self.picture.height, self.picture.width)
        return len(self.frames) * upscaler.tile_count(*size, self.options.region)


@record
class EnlargedPicture:
    """An enlarged picture that is not encoded yet: the result of ``run``.

    Attributes
    ----------
    height, width
        Size of the output in pixels.
    tiles
        Tiles of all frames.
    """

    opened: OpenedPicture
    writer: StreamWriter
    height: int
    width: int
    tiles: tuple[TileResult, ...]

    def discard(self) -> None:
        """Drop the result; nothing is written."""
        self.writer.discard()


def open_job(
    source: Path | bytes,
    target: Path | BinaryIO,
    options: PictureOptions,
    name: str = "the input",
) -> OpenedPicture:
    """Open a picture, and refuse an output that cannot hold it.

    Parameters
    ----------
    source
        Path of a picture file, or its content.
    target
        Path of the output, or a binary stream.
    name
        Name of ``source`` in messages if it is content.

    Raises
    ------
    UsageError
        The input is not readable, or the output cannot hold the result.
    """
    picture = open_picture(source, name)
    path = target if isinstance(target, Path) else None
    form = options.save.format_for(path)
    if options.region is not None:
        options.region.check(picture.height, picture.width)
    losses = list(picture.losses)
    if picture.bits > form.bits:
        losses.append(f"16 bits a sample ({form} holds 8)")
        picture = picture.in_eight_bits()
    frames, dropped = _frames(picture, form, options)
    losses += dropped
    if picture.metadata.icc and (options.strip or "colour profile" not in form.metadata):
        frames = [frame.in_srgb() for frame in frames]
        losses.append("colour profile (converted to sRGB)")
    metadata, lost = frames[0].metadata.held_by(form)
    if options.strip:
        metadata, lost = Metadata(), []
    if len(frames) == 1 and picture.height * picture.width <= _SMALL:
        frames = [frames[0].in_memory()]
    return OpenedPicture(tuple(frames), target, form, options, metadata, (*losses, *lost))


def run(
    opened: OpenedPicture,
    upscaler: Upscaler,
    *,
    size: tuple[int, int] | None = None,
    on_tile: OnTile = ignore,
    cancelled: Callable[[], bool] = lambda: False,
) -> EnlargedPicture:
    """Enlarge an opened picture by a network.

    Parameters
    ----------
    size
        Height and width of the output in pixels; None: by the scale of the network.
    on_tile
        Called for every finished tile.
    cancelled
        Asked while the output is encoded; True abandons it.

    Raises
    ------
    UsageError
        The input is damaged, or the output is too large for its format.
    FailedError
        The output of the network is not a picture, or there is no room for it.
    """
    picture, scale = opened.picture, upscaler.scale
    height, width = opened.height * scale, opened.width * scale
    frames, alpha = _transparency(opened.frames, opened.form, opened.options.region, scale)
    writer = StreamWriter(
        opened.target,
        height,
        width,
        bits=picture.bits,
        grey=opened.grey,
        alpha=alpha,
        metadata=opened.metadata,
        save=opened.options.save,
        size=None if size == (height, width) else size,
        pages=len(frames),
        durations=picture.durations,
        loop=picture.loop,
        cancelled=cancelled,
    )
    tiles: list[TileResult] = []

    def note(tile: TileResult) -> None:
        tiles.append(tile)
        on_tile(tile)

    region = opened.options.region
    writer.open()
    try:
        for frame in frames:
            for band in upscaler.bands(frame.read, frame.height, frame.width, note, region):
                writer.write(band)
    except BaseException:
        writer.discard()
        raise
    return EnlargedPicture(opened, writer, *(size or (height, width)), tuple(tiles))


def enlarge(
    picture: Picture,
    upscaler: Upscaler,
    *,
    size: tuple[int, int] | None = None,
    on_tile: OnTile = ignore,
) -> NDArray[np.uint8 | np.uint16]:
    """Enlarge a picture in memory, to the pixels that ``run`` and ``write`` make of a file.

    Parameters
    ----------
    size, on_tile
        As for ``run``.

    Returns
    -------
    uint8 or uint16 ``[H, W, C]`` with the channels of the picture: grey or RGB, and alpha.

    Raises
    ------
    UsageError
        The model does not take such a picture.
    FailedError
        The output of the network is not a picture, or the memory is too small.
    """
    (frame,), alpha = _transparency((picture,), writable_formats()["png"], None, upscaler.scale)
    rows = np.concatenate(list(upscaler.bands(frame.read, frame.height, frame.width, on_tile)))
    if picture.grey:
        rows = grey_of(rows)
    if alpha is None and size is None:
        return rows
    image = image_of(np.ascontiguousarray(rows), alpha, size)
    return np.asarray(image.numpy()).reshape(image.height, image.width, image.bands)


def write(enlarged: EnlargedPicture) -> None:
    """Encode an enlarged picture; the output appears when it is complete.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    enlarged.writer.finish()


def default_suffix(source: Path) -> str:
    """Suffix of an output with all frames or pages of a picture file: its own, else ``.png``."""
    if source.suffix.lower() not in _SEVERAL:
        return ".png"
    try:
        header = read_header(source)
    except SrqError:  # told when the picture is opened
        return ".png"
    return header.suffix if header.frames > 1 else ".png"


def _frames(
    picture: Picture, form: WritableFormat, options: PictureOptions
) -> tuple[list[Picture], list[str]]:
    """Open the frames to enlarge, and list what is lost of them."""
    count = picture.frames
    kind = "pages" if picture.durations is None else "frames"
    if count == 1:
        return [picture], []
    if options.frames == "first":
        return [picture], [f"{kind} 2 to {count}"]
    losses = []
    if picture.durations is not None and not form.animation and form.pages:
        losses.append("times of the frames")
    elif not (form.pages if picture.durations is None else form.animation):
        fitting = ", ".join(
            other.suffix
            for other in writable_formats().values()
            if other.pages or (other.animation and picture.durations is not None)
        )
        raise UsageError(
            f"{picture.name} has {count} {kind}, which {form} does not hold: "
            f"write {fitting}, or enlarge only one with `frames` first"
        )
    frames = [picture, *(picture.frame(index) for index in range(1, count))]
    sizes = {f"{frame.width}x{frame.height}": None for frame in frames}
    if len(sizes) > 1:
        raise UsageError(
            f"{picture.name}: its pages differ in size ({', '.join([*sizes][:3])}): "
            "enlarge only one with `frames` first"
        )
    if len({frame.bits for frame in frames}) > 1:
        losses.append("16 bits a sample of some pages (reduced to 8)")
        frames = [frame.in_eight_bits() for frame in frames]
    if len({frame.metadata.icc for frame in frames}) > 1:
        losses.append("colour profiles that differ (converted to sRGB)")
        frames = [frame.in_srgb() for frame in frames]
    return frames, losses


def _transparency(
    pictures: Sequence[Picture], form: WritableFormat, region: Region | None, scale: int
) -> tuple[Sequence[Picture], pyvips.Image | None]:
    """Remove hidden colours, which would leave halos, and enlarge alpha.

    Alpha channels that hide nothing are dropped if the output cannot hold them.
    """
    if all(frame.alpha is None for frame in pictures):
        return pictures, None
    frames, alphas, hides = [], [], False
    for frame in pictures:
        lowest, highest = frame.alpha_range()
        if frame.alpha is None or lowest == 2**frame.bits - 1:
            alpha = opaque(frame.height * scale, frame.width * scale, frame.bits)
        else:
            hides = True
            alpha = enlarge_alpha(frame.alpha, scale)
            if lowest == 0 < highest:
                frame = replace(frame, rgb=spread_colour(frame.rgb, frame.alpha))
        frames.append(frame)
        if region is not None:
            place = (region.left, region.top, region.width, region.height)
            alpha = alpha.crop(*(scale * part for part in place))
        alphas.append(alpha)
    if not hides and not form.alpha:
        return frames, None
    return frames, pyvips.Image.arrayjoin(alphas, across=1) if len(alphas) > 1 else alphas[0]
