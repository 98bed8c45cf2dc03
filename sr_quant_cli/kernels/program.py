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
