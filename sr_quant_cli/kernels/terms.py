"""Terms: what is known of the values of a graph, as far as steps of a program can make them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.kernels.program import Codes

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Levels:
    """``scale * level + bias[c]`` of the picture, or of levels around it as yet."""

    scale: float = 1.0
    bias: Floats | None = None
    surround: int = 0


@dataclass(frozen=True, eq=False)
class Values:
    """``step * (code - zero) + shift[c]`` of a picture, and an activation behind it.

    Attributes
    ----------
    slope
        Factor of negative values of all or of each channel; None: no activation.
    sole
        Nothing else of the graph reads the codes.
    """

    codes: Codes
    step: float
    shift: Floats | None = None
    slope: Floats | None = None
    sole: bool = False


@dataclass(frozen=True, eq=False)
class Sums:
    """Output of a convolution, and of an activation behind it.

    Attributes
    ----------
    slope
        Factor of negative values of each output; None: no activation.
    """

    source: Codes
    weights: NDArray[np.int8]
    scale: Floats
    bias: Floats
    slope: Floats | None = None


@dataclass(frozen=True, eq=False)
class Both:
    """Sum of two pictures; at least 0 if ``relu``.

    Attributes
    ----------
    sole
        One thing alone reads the sum.
    """

    left: Values
    right: Values
    relu: bool = False
    sole: bool = False


@dataclass(frozen=True, eq=False)
class Parts:
    """Concatenation of channels."""

    parts: tuple["Term", ...]


Term = Levels | Values | Sums | Both | Parts


@dataclass(frozen=True, eq=False)
class Quantized:
    """Codes of a term, or a picture of codes. Steps are made when something reads them."""

    term: Term | None
    step: float
    zero: int
    low: int = 0
    high: int = 255
    codes: Codes | None = None


@dataclass(frozen=True, eq=False)
class Weights:
    """``step[c] * code`` of a constant."""

    codes: NDArray[np.int8]
    step: Floats


def channels_of(term: Term) -> int:
    """Number of channels of a term."""
    match term:
        case Levels():
            return 3
        case Sums():
            return len(term.scale)
        case Values():
            return term.codes.channels
        case Both():
            return term.left.codes.channels
        case Parts():
            return sum(map(channels_of, term.parts))


def enlargement_of(term: Term) -> int:
    """Rows and columns of a term for each one of the picture."""
    match term:
        case Levels():
            return 1
        case Sums():
            return term.source.enlargement
        case Values():
            return term.codes.enlargement
        case Both():
            return term.left.codes.enlargement
        case Parts():
            return enlargement_of(term.parts[0])
