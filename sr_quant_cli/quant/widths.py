"""Widths of codes: a number of bits, or of levels that need not fill their bits.

Kernels can be faster if codes do not fill their bits: 29 levels are the codes -14..14, or 0..28,
which are stored in 5 bits. Recipes, options and files write them as ``29L``.
"""

import re
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator

MIN_BITS, MAX_BITS = 2, 8
MIN_LEVELS, MAX_LEVELS = 3, 256
"""A symmetric grid has three levels or more."""

_EITHER = f"{MIN_BITS} to {MAX_BITS} (bits)"
WIDTHS = f"{_EITHER}, or {MIN_LEVELS}L to {MAX_LEVELS}L (levels)"
"""Allowed widths of activations, in words."""
WEIGHT_WIDTHS = f"{_EITHER}, or an odd number from {MIN_LEVELS}L to {MAX_LEVELS - 1}L (levels)"
"""Allowed widths of weights, whose grids are symmetric around zero."""


class NarrowBits(int):
    """Bit width of codes with a number of levels: the smallest one that holds them.

    It is an integer, the number of bits. ``level_count`` gives the number of levels, here and of
    plain integers.

    Raises
    ------
    ValueError
        ``levels`` is not between 3 and 256.

    Examples
    --------
    >>> width = NarrowBits(29)
    >>> int(width), level_count(width), str(width)
    (5, 29, '29L')
    >>> width == 5, NarrowBits(32) == 5
    (False, True)
    """

    levels: int

    def __new__(cls, levels: int) -> "NarrowBits":
        """Make the width of a number of levels."""
        if not MIN_LEVELS <= levels <= MAX_LEVELS:
            raise ValueError(f"{levels} levels: must be {MIN_LEVELS} to {MAX_LEVELS}")
        width = super().__new__(cls, (levels - 1).bit_length())
        width.levels = levels
        return width

    def __getnewargs__(self) -> tuple[int]:
        """Arguments that copy it."""
        return (self.levels,)

    def __eq__(self, other: object) -> bool:
        """Tell if another width has as many levels."""
        if isinstance(other, NarrowBits):
            return self.levels == other.levels
        return int(self) == other and self.levels == 2 ** int(self)

    def __ne__(self, other: object) -> bool:
        """Tell if another width has another number of levels."""
        return not self == other

    def __hash__(self) -> int:
        """Hash of the bits."""
        return hash(int(self))

    def __str__(self) -> str:
        """Write it as recipes do."""
        return f"{self.levels}L"

    __repr__ = __str__


def level_count(bits: int) -> int:
    """Number of levels of a width.

    >>> level_count(5), level_count(NarrowBits(29))
    (32, 29)
    """
    return bits.levels if isinstance(bits, NarrowBits) else int(2**bits)


def check_bits(bits: int) -> int:
    """Return ``bits``.

    Raises
    ------
    ValueError
        ``bits`` is not between 2 and 8.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits: must be {MIN_BITS} to {MAX_BITS}")
    return bits


def check_width(value: object) -> int:
    """Read a width: a number of bits, or of levels as ``29L``.

    Raises
    ------
    ValueError
        It is neither.
    """
    if isinstance(value, NarrowBits):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and MIN_BITS <= value <= MAX_BITS:
        return value
    levels = re.fullmatch(r"([0-9]{1,3})L", value) if isinstance(value, str) else None
    if levels and MIN_LEVELS <= int(levels[1]) <= MAX_LEVELS:
        return NarrowBits(int(levels[1]))
    raise ValueError(f"must be {WIDTHS}")


def check_weight_width(value: object) -> int:
    """Read the width of a weight.

    Raises
    ------
    ValueError
        It is no width, or an even number of levels.
    """
    try:
        width = check_width(value)
    except ValueError:
        width = None
    if width is None or (isinstance(width, NarrowBits) and width.levels % 2 == 0):
        raise ValueError(f"must be {WEIGHT_WIDTHS}")
    return width


def plain(value: object) -> object:
    """Value as TOML and JSON hold it: levels are text.

    >>> plain(NarrowBits(29)), plain(6), plain("low")
    ('29L', 6, 'low')
    """
    return str(value) if isinstance(value, NarrowBits) else value


def describe(bits: int) -> str:
    """Describe a width, for tables.

    >>> describe(6), describe(NarrowBits(29))
    ('6 bits', '29 levels (5 bits)')
    """
    if isinstance(bits, NarrowBits):
        return f"{bits.levels} levels ({bits:d} bits)"
    return f"{bits} bits"


Width = Annotated[int, PlainValidator(check_width), PlainSerializer(plain)]
WeightWidth = Annotated[int, PlainValidator(check_weight_width), PlainSerializer(plain)]
