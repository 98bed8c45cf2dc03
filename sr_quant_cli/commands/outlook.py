"""Sizes of results before a pixel is decoded, and the expected cost of a batch."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sr_quant_cli.commands.enlarge import PictureOptions
from sr_quant_cli.commands.jobs import UpscaleJob
from sr_quant_cli.commands.places import STREAM_NAME
from sr_quant_cli.commands.scaled_models import ScaledModels
from sr_quant_cli.commands.sizes import SizeRequest
from sr_quant_cli.errors import SrqError, UsageError
from sr_quant_cli.imaging.decode import read_header
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.modelfiles.named import Family
from sr_quant_cli.records import record

_LARGE = 100_000_000
_LONG = 10.0
"""Pixels of results and seconds from which a batch is announced."""

_SAMPLED = 500
"""Largest number of headers that are read for the estimate of a batch."""


@record
class Outlook:
    """Sizes of one picture and its result.

    Attributes
    ----------
    height, width
        Size of the picture in LR pixels.
    region
        Rectangle of the picture that is enlarged; None: the whole picture.
    frames
        Number of frames that are enlarged.
    bits
        Bits a sample that the network works with: 8 or 16.
    scale
        Scale of the network.
    family
        Family of the embedded models that it is from, unless another one was named.
    result_height, result_width
        Size of the result in pixels.
    """

    height: int
    width: int
    region: Region | None
    frames: int
    bits: int
    scale: int
    family: Family
    result_height: int
    result_width: int

    @property
    def pixels(self) -> int:
        """Pixels of all frames of the result."""
        return self.result_height * self.result_width * self.frames

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width to resample to; None: the network makes the result itself."""
        area = self.region or Region(0, 0, self.height, self.width)
        made = (area.height * self.scale, area.width * self.scale)
        size = (self.result_height, self.result_width)
        return None if size == made else size


def look_ahead(
    source: Path | bytes,
    models: ScaledModels,
    size: SizeRequest,
    picture: PictureOptions,
    max_pixels: int,
    target: Path | None = None,
) -> Outlook:
    """Decide the size of a result and the network for it, by the header of the picture.

    Parameters
    ----------
    target
        File of the result; None: a stream.

    Raises
    ------
    UsageError
        The picture is not readable, the region goes beyond it, it would not become larger, or
        the result would be too large.
    """
    header = read_header(source, STREAM_NAME)
    area = picture.region or Region(0, 0, header.height, header.width)
    area.check(header.height, header.width)
    family = models.family_for(header.jpeg_quality)
    if size:
        wanted = size.of(area.height, area.width)
        scale = models.scale_for(wanted.factor, family)
        result = (wanted.height, wanted.width)
    else:
        scale = models.scale_for(None, family)
        result = (area.height * scale, area.width * scale)
    frames = header.frames if picture.frames == "all" else 1
    bits = min(header.bits, picture.save.format_for(target).bits)
    outlook = Outlook(
        header.height, header.width, picture.region, frames, bits, scale, family, *result
    )
    if outlook.pixels > max_pixels:
        times = f" in {frames} frames" if frames > 1 else ""
        raise UsageError(
            f"the result would have {outlook.result_width}x{outlook.result_height} pixels{times}, "
            f"more than `max_pixels` {max_pixels:,} allows"
        )
    return outlook


@record
class BatchOutlook:
    """Expected cost of a batch.

    Attributes
    ----------
    pixels
        Pixels of all results.
    bytes
        Memory of the largest tile, its activations and finished rows; None: unknown.
    seconds
        Time of the networks; None: unknown.
    """

    pixels: float
    bytes: int | None
    seconds: float | None

    @property
    def is_large(self) -> bool:
        """True if the user should know before it begins."""
        return self.pixels > _LARGE or (self.seconds or 0) > _LONG

    def __str__(self) -> str:
        count = f"{self.pixels / 1e6:,.1f} mega" if self.pixels >= 1e5 else f"{self.pixels:,.0f} "
        parts = [f"{count}pixels of results"]
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)}")
        if self.bytes is not None:
            parts.append(f"about {self.bytes / 2**20:,.0f} MiB of memory for the network")
        return ", ".join(parts)


def look_at_batch(
    jobs: Sequence[UpscaleJob], look: Callable[[UpscaleJob], Outlook], models: ScaledModels
) -> BatchOutlook:
    """Estimate the cost of a batch from the headers of its pictures, or of a sample of many.

    Pictures that ``look`` refuses are left out.
    """
    sample = jobs[:: -(-len(jobs) // _SAMPLED) or 1]
    share = len(jobs) / len(sample)
    pixels, most, seconds = 0, 0, 0.0
    memory_known = time_known = True
    for job in sample:
        try:
            outlook = look(job)
        except SrqError:
            continue
        pixels += outlook.pixels
        cost = models.open(outlook.scale, outlook.bits, outlook.family).estimate(
            outlook.height, outlook.width, outlook.region, outlook.bits
        )
        most = max(most, cost.bytes or 0)
        seconds += (cost.seconds or 0.0) * outlook.frames
        memory_known &= cost.bytes is not None
        time_known &= cost.seconds is not None
    return BatchOutlook(
        pixels * share, most if memory_known else None, seconds * share if time_known else None
    )


def duration(seconds: float) -> str:
    """Put a time in words.

    >>> duration(0.3), duration(42.3), duration(200), duration(9000)
    ('1 s', '42 s', '3 min', '2.5 h')
    """
    seconds = max(seconds, 1)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
