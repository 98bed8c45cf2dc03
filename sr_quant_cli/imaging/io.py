"""Picture files, read where needed, and whole pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.colour import profile_space, to_eight_bits, to_levels, to_srgb
from sr_quant_cli.imaging.decode import Frames, Source, load
from sr_quant_cli.imaging.failures import readable
from sr_quant_cli.imaging.levels import Levels
from sr_quant_cli.imaging.metadata import Metadata, metadata_of
from sr_quant_cli.imaging.writer import StreamWriter, image_of
from sr_quant_cli.records import record


@record
class Picture:
    """A picture, or one frame of an animation: opened but not yet decoded.

    Attributes
    ----------
    name
        Name in messages.
    rgb
        sRGB, 3 bands, uchar or ushort; grey pictures are replicated.
    alpha
        Transparency, 1 band of the same depth, or None.
    grey
        True if the file holds one colour channel.
    metadata
        Metadata for the output.
    losses
        Properties of the file that do not survive in this form, in words for the user.
    frames
        Number of frames or pages of the file.
    durations
        Times of the frames in milliseconds; None: not an animation.
    loop
        Number of times that an animation is shown; 0: forever.
    """

    name: Path | str
    rgb: pyvips.Image
    alpha: pyvips.Image | None
    grey: bool
    metadata: Metadata
    losses: tuple[str, ...]
    frames: int
    durations: tuple[int, ...] | None
    loop: int
    open_frame: Callable[[int], "Picture"]

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.rgb.height)

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.rgb.width)

    @property
    def bits(self) -> int:
        """Bits a sample: 8 or 16."""
        return 16 if self.rgb.format == "ushort" else 8

    def frame(self, index: int) -> "Picture":
        """Open a frame, which has the name and counts of the whole file.

        Raises
        ------
        UsageError
            The file is damaged there.
        """
        return self.open_frame(index)

    def in_eight_bits(self) -> "Picture":
        """Round 16-bit levels to 8 bits."""
        alpha = None if self.alpha is None else to_eight_bits(self.alpha)
        return replace(
            self,
            rgb=to_eight_bits(self.rgb),
            alpha=alpha,
            open_frame=lambda index: self.open_frame(index).in_eight_bits(),
        )

    def in_srgb(self) -> "Picture":
        """Convert colours from the embedded profile to sRGB, and drop the profile."""
        if self.metadata.icc is None:
            return self
        colour = to_srgb(self.rgb[0] if self.grey else self.rgb, self.metadata.icc)
        return replace(
            self,
            rgb=colour.bandjoin([colour, colour]) if self.grey else colour,
            metadata=replace(self.metadata, icc=None),
            open_frame=lambda index: self.open_frame(index).in_srgb(),
        )

    def in_memory(self) -> "Picture":
        """Decode all pixels of this frame.

        Raises
        ------
        UsageError
            The file is damaged.
        """
        with readable(self.name):
            alpha = None if self.alpha is None else self.alpha.copy_memory()
            return replace(self, rgb=self.rgb.copy_memory(), alpha=alpha)

    def read(self, top: int, bottom: int, left: int, right: int) -> Levels:
        """Decode a rectangle: uint8 or uint16 ``[bottom - top, right - left, 3]``.

        Raises
        ------
        UsageError
            The file is damaged there.
        """
        with readable(self.name):
            region = self.rgb.crop(left, top, right - left, bottom - top)
            return np.asarray(region.numpy())

    def alpha_range(self) -> tuple[int, int]:
        """The lowest and the highest alpha; the highest level where there is none.

        Raises
        ------
        UsageError
            The file is damaged.
        """
        if self.alpha is None:
            return (2**self.bits - 1,) * 2
        with readable(self.name):
            stats = self.alpha.stats()
            lowest, highest = (int(stats.getpoint(column, 0)[0]) for column in range(2))
        return lowest, highest


def open_picture(source: Source, name: str = "the input") -> Picture:
    """Open a picture, upright (EXIF orientation applied), as sRGB levels of 8 or 16 bits.

    Parameters
    ----------
    source
        Path of a file, or its content.
    name
        Name in messages for content.

    Raises
    ------
    UsageError
        The file is missing, damaged, no picture, or has samples that mean no levels.
    """
    called = source if isinstance(source, Path) else name
    with readable(called):
        if isinstance(source, Path) and not source.is_file():
            raise UsageError(f"no such picture: {source}")
        frames = load(source)

        def open_frame(index: int) -> Picture:
            with readable(called):
                return _picture(called, frames, index, open_frame)

        return open_frame(0)


def _picture(
    name: Path | str, frames: Frames, index: int, open_frame: Callable[[int], Picture]
) -> Picture:
    image = frames.open(index).autorot()
    levels, losses = to_levels(image)
    grey = levels.interpretation in ("b-w", "grey16")
    metadata, damaged = metadata_of(image, frames.comments, frames.exif, frames.iptc)
    if metadata.icc is not None:
        described = profile_space(metadata.icc)
        if described != ("GRAY" if grey else "RGB"):
            if described is None:
                damaged.append("colour profile (damaged)")
            metadata = replace(metadata, icc=None)
    alpha = levels[levels.bands - 1] if levels.hasalpha() else None
    colour = levels[0] if grey else levels[0:3]
    return Picture(
        name=name,
        rgb=colour.bandjoin([colour, colour]) if grey else colour,
        alpha=alpha,
        grey=grey,
        metadata=metadata,
        losses=(*losses, *damaged, *frames.losses),
        frames=frames.count,
        durations=frames.durations,
        loop=frames.loop,
        open_frame=open_frame,
    )


def picture_of(levels: NDArray[np.uint8 | np.uint16], name: str = "the image") -> Picture:
    """Make a picture of levels in memory, which must stay unchanged.

    Parameters
    ----------
    levels
        uint8 or uint16 ``[H, W, C]``: grey, grey and alpha, RGB, or RGB and alpha.
    name
        Name in messages.
    """
    bands = levels.shape[2]
    colours = 3 if bands > 2 else 1
    colour = image_of(np.ascontiguousarray(levels[:, :, :colours]))
    alpha = None
    if bands > colours:
        alpha = image_of(np.ascontiguousarray(levels[:, :, colours:]))
    return Picture(
        name=name,
        rgb=colour.bandjoin([colour, colour]) if colours == 1 else colour,
        alpha=alpha,
        grey=colours == 1,
        metadata=Metadata(),
        losses=(),
        frames=1,
        durations=None,
        loop=0,
        open_frame=lambda _: picture_of(levels, name),
    )


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode a whole picture: uint8 ``[H, W, 3]``, sRGB 0..255; grey is replicated.

    Raises
    ------
    UsageError
        The file is missing, damaged or no picture.
    """
    picture = open_picture(path).in_eight_bits()
    return picture.read(0, picture.height, 0, picture.width).astype(np.uint8, copy=False)


def write_rgb(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write uint8 or uint16 ``[H, W, 3]`` to ``path`` atomically, in the format of its suffix."""
    height, width, _ = pixels.shape
    with StreamWriter(path, height, width, bits=8 * pixels.itemsize) as writer:
        writer.write(pixels)


def decodes(path: Path) -> bool:
    """True if a file is a picture without damage, in all its frames."""
    try:
        with readable(path):
            frames = load(path)
            for index in range(frames.count):
                frames.open(index).avg()
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
        with readable(picture.name):
            return _thumbnail(picture.in_eight_bits().rgb, longest)
    return _thumbnail(pyvips.Image.new_from_array(picture), longest)


def _thumbnail(image: pyvips.Image, longest: int) -> NDArray[np.uint8]:
    # Three equal bands of grey, and tiny arrays, are not taken for colours otherwise.
    coloured = image.copy(interpretation="srgb")
    shrunk = coloured.thumbnail_image(longest, height=longest, size="down")
    return np.asarray(shrunk.numpy(), dtype=np.uint8)
