"""A network as a list of steps on codes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.records import record, unique_record

FloatArray = NDArray[np.float32]


@record
class Codes:
    """A picture of codes.

    Attributes
    ----------
    name
        Unique name.
    enlargement
        Its rows and columns for each one of the input.
    zero
        Code of the value 0, which is around the picture, too.
    low, high
        Smallest and largest code.
    """

    name: str
    channels: int
    enlargement: int
    zero: int
    low: int
    high: int


@record
class Place:
    """Channels of a picture of codes, from ``first`` on."""

    codes: Codes
    first: int = 0


@record
class Again:
    """Codes that a convolution stores a second time, in another range."""

    place: Place
    scale: float
    bias: FloatArray
    """``[outputs]``"""
    low: int
    high: int


@record
class Skip:
    """A picture that is added to the output of a convolution, which is rounded to codes before.

    The code that is stored is ``own * code + other * skip + constant``, in ``low .. high``.
    """

    place: Place
    own: float
    other: float
    constant: float
    low: int
    high: int


@unique_record
class _Step:
    """Base of all steps; they read and write pictures of codes."""

    source: Place
    target: Place

    @property
    def sources(self) -> tuple[Place, ...]:
        """What the step reads."""
        return (self.source,)

    @property
    def targets(self) -> tuple[Place, ...]:
        """What the step writes."""
        return (self.target,)


@unique_record
class Convolution(_Step):
    """Codes of an output from the sums of a window: see ``kernels.h``.

    ``low`` and ``high`` are those of the output, or of what is rounded before the addition of
    ``skip``.
    """

    weights: NDArray[np.int8]
    """``[outputs, inputs, k, k]``"""
    scale: FloatArray
    bias: FloatArray
    slope: FloatArray | None
    zero: float
    low: int
    high: int
    skip: Skip | None = None
    again: Again | None = None

    @property
    def sources(self) -> tuple[Place, ...]:
        """The input, and what is added."""
        return (self.source,) if self.skip is None else (self.source, self.skip.place)

    @property
    def targets(self) -> tuple[Place, ...]:
        """The output, and the one in another range."""
        return (self.target,) if self.again is None else (self.target, self.again.place)


@unique_record
class Recode(_Step):
    """Other codes for the same values, or for values behind an activation, by a table."""

    channels: int
    table: NDArray[np.uint8]
    """``[256]``, or ``[channels, 256]``: code of each code"""


@unique_record
class _Sum(_Step):
    """Base of sums of two pictures."""

    right: Place
    channels: int

    @property
    def sources(self) -> tuple[Place, ...]:
        """Both terms."""
        return self.source, self.right


@unique_record
class Add(_Sum):
    """``scale * code + right_scale * right code + constant``."""

    scale: float
    right_scale: float
    constant: float
    low: int
    high: int


@unique_record
class AddByTable(_Sum):
    """``table[code] + right_table[right code]``, rounded to codes: sums of any functions."""

    table: FloatArray
    """``[256]``, or ``[channels, 256]``: in steps of the target, its zero point added"""
    right_table: FloatArray
    """``[256]``, or ``[channels, 256]``"""
    low: int
    high: int


@unique_record
class Mix(_Step):
    """Sums of channels of a picture that is enlarged by interpolation, and of a second picture.

    A code is ``weights[c] @ enlarged codes + right_weights[c] @ right codes + constant[c]``,
    rounded. Beyond the sides of the picture its last pixels are repeated.
    """

    right: Place | None
    """of the larger size"""
    phases: FloatArray
    """``[factor, taps]``: weights of the pixels around one, for each of its enlarged pixels"""
    weights: FloatArray
    """``[outputs, inputs]``"""
    right_weights: FloatArray
    """``[outputs, right channels]``; 0 channels: there is no second picture"""
    constant: FloatArray
    """``[outputs]``"""
    low: int
    high: int

    @property
    def sources(self) -> tuple[Place, ...]:
        """The pictures that are read."""
        return (self.source,) if self.right is None else (self.source, self.right)


@unique_record
class Shuffle(_Step):
    """PixelShuffle of codes."""

    channels: int
    """of the target"""
    factor: int


Step = Convolution | Recode | Add | AddByTable | Mix | Shuffle


def last_uses(steps: Sequence[Step]) -> dict[str, int]:
    """Index of the last step that reads or writes each picture, by its name."""
    return {
        place.codes.name: index
        for index, step in enumerate(steps)
        for place in (*step.sources, *step.targets)
    }


@record
class Range:
    """Rows, or columns, of a picture."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of rows or columns."""
        return self.stop - self.start

    def moved(self, by: int) -> "Range":
        """The range ``by`` pixels later."""
        return Range(self.start + by, self.stop + by)


def needed_ranges(steps: Sequence[Step], length: int, keep: Range) -> list[Range]:
    """Rows that each step must compute, in rows of its source; or columns.

    Parameters
    ----------
    length
        Rows of the picture that goes in.
    keep
        Rows of it whose enlargement is wanted from the last step.
    """
    needed: dict[str, Range] = {}

    def need(codes: Codes, start: int, stop: int) -> None:
        before = needed.get(codes.name, Range(start, stop))
        start, stop = max(min(start, before.start), 0), max(stop, before.stop)
        needed[codes.name] = Range(start, min(stop, length * codes.enlargement))

    end = steps[-1].target.codes
    need(end, keep.start * end.enlargement, keep.stop * end.enlargement)
    ranges: list[Range] = []
    for step in reversed(steps):
        enlargement = step.source.codes.enlargement
        factor = step.target.codes.enlargement // enlargement
        made = [needed[place.codes.name] for place in step.targets if place.codes.name in needed]
        start = min((part.start for part in made), default=0) // factor
        stop = -(-max((part.stop for part in made), default=0) // factor)
        reach = 0
        match step:
            case Convolution():
                reach = step.weights.shape[2] // 2
            case Mix():  # repeats the last pixels of what it reads: those of the picture
                start, stop = 0, enlargement * length
        ranges.append(Range(start, stop))
        for place in step.sources:
            times = place.codes.enlargement // enlargement
            grown = reach if place is step.source else 0
            need(place.codes, times * start - grown, times * stop + grown)
    return ranges[::-1]


@unique_record
class Program:
    """Steps from a picture to a larger one.

    Attributes
    ----------
    tables
        Codes of the 256 levels of each colour.
    surround
        Pixels that are mirrored around the picture before, and cut off the result.
    output
        Its codes are the levels of the result, 3 channels.
    """

    scale: int
    surround: int
    tables: NDArray[np.uint8]
    """``[3, 256]``"""
    input: Codes
    steps: tuple[Step, ...]
    output: Codes
