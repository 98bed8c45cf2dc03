"""One picture in, one picture out, in three stages that can overlap for several pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

import pyvips

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.alpha import enlarge_alpha, opaque, spread_colour
from sr_quant_cli.imaging.formats import SaveOptions, WritableFormat, check_writable
from sr_quant_cli.imaging.io import Picture, open_picture
from sr_quant_cli.imaging.metadata import Metadata
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.imaging.writer import StreamWriter
from sr_quant_cli.inference.tiles import OnTile, TileResult, ignore
from sr_quant_cli.inference.upscaler import Upscaler


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class OpenedPicture:
    """A picture that was opened and fits its output: the result of ``open_job``.

    Attributes
    ----------
    frames
        Frames to enlarge, equal in size, depth and kind.
    form
        Format of the output.
    height, width
        Size of what is enlarged, in LR pixels: the region, or the whole picture.
    losses
        Properties of the input that the output does not have, in words.
    """

    frames: tuple[Picture, ...]
    target: Path | BinaryIO
    form: WritableFormat
    options: PictureOptions
    losses: tuple[str, ...]

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
        return len(self.frames) * upscaler.tile_count(self.picture.height, self.picture.width)


@dataclass(frozen=True)
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
    form = options.save.format_for(target if isinstance(target, Path) else None)
    if options.region is not None:
        options.region.check(picture.height, picture.width)
    losses = list(picture.losses)
    if picture.bits > form.bits:
        losses.append(f"16 bits a sample ({form} holds 8)")
        picture = picture.in_eight_bits()
    frames = [picture]
    if options.frames == "all" and picture.frames > 1:
        frames += [picture.frame(index) for index in range(1, picture.frames)]
    return OpenedPicture(tuple(frames), target, form, options, tuple(losses))


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
    frames, alpha = _transparency(opened, scale)
    metadata = Metadata() if opened.options.strip else picture.metadata
    target = opened.target
    check_writable(
        target if isinstance(target, Path) else None,
        *(size or (height, width)),
        alpha=alpha is not None,
        save=opened.options.save,
    )
    writer = StreamWriter(
        target,
        height,
        width,
        bits=picture.bits,
        grey=picture.grey,
        alpha=alpha,
        metadata=metadata,
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

    writer.__enter__()
    try:
        for frame in frames:
            for band in upscaler.bands(frame.read, frame.height, frame.width, note):
                writer.write(band)
    except BaseException:
        writer.discard()
        raise
    return EnlargedPicture(opened, writer, *(size or (height, width)), tuple(tiles))


def write(enlarged: EnlargedPicture) -> None:
    """Encode an enlarged picture; the output appears when it is complete.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    enlarged.writer.finish()


def _transparency(
    opened: OpenedPicture, scale: int
) -> tuple[Sequence[Picture], pyvips.Image | None]:
    """Remove hidden colours, which would leave halos, and enlarge alpha.

    Alpha channels that hide nothing are dropped if the output cannot hold them.
    """
    if all(frame.alpha is None for frame in opened.frames):
        return opened.frames, None
    frames, alphas, hides = [], [], False
    for frame in opened.frames:
        lowest, highest = frame.alpha_range()
        most = 2**frame.bits - 1
        if frame.alpha is None or lowest == most:
            alphas.append(opaque(frame.height * scale, frame.width * scale, frame.bits))
        else:
            hides = True
            alphas.append(enlarge_alpha(frame.alpha, scale))
            if lowest == 0 < highest:
                frame = replace(frame, rgb=spread_colour(frame.rgb, frame.alpha))
        frames.append(frame)
    if not hides and not opened.form.alpha:
        return frames, None
    if hides and not opened.form.alpha:
        raise UsageError(f"{opened.form} holds no transparency; use .png")
    return frames, pyvips.Image.arrayjoin(alphas, across=1) if len(alphas) > 1 else alphas[0]
