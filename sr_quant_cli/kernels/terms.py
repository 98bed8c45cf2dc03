"""Terms: what is known of the values of a graph, as far as steps of a program can make them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.kernels.program import Place

Floats = NDArray[np.float64]


class UnsupportedError(Exception):
    """The kernels do not run a graph; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Values:
    """``step * (code - zero) + shift[c]`` of channels of a picture, and an activation behind it.

    Attributes
    ----------
    slope
        Factor of negative values of all or of each channel; None: no activation.
    sole
        Nothing else of the graph reads the codes.
    """

    place: Place
    channels: int
    step: float
    shift: Floats | None = None
    slope: Floats | None = None
    sole: bool = False

    @property
    def plain(self) -> bool:
        """True if there is neither a shift nor an activation."""
        return self.shift is None and self.slope is None

    @property
    def whole(self) -> bool:
        """True if these are all channels of the picture."""
        return self.channels == self.place.codes.channels

    def part(self, first: int, channels: int) -> "Values":
        """Some of the channels."""

        def of(vector: Floats | None) -> Floats | None:
            several = vector is not None and vector.size > 1
            return vector[first : first + channels] if several else vector  # type: ignore[index]

        place = Place(self.place.codes, self.place.first + first)
        return Values(place, channels, self.step, of(self.shift), of(self.slope))

    def table(self) -> Floats:
        """Value of each code, ``[256]`` or ``[channels, 256]``."""
        values = self.step * (np.arange(256.0) - self.place.codes.zero)
        if self.shift is not None:
            values = values + self.shift[:, None]
        if self.slope is not None:
            slope = self.slope if self.slope.size == 1 else self.slope[:, None]
            values = np.where(values < 0, values * slope, values)
        return values


@dataclass(frozen=True, eq=False)
class Levels:
    """``weights[c] @ levels + bias[c]`` of the picture, which may be enlarged by interpolation.

    Attributes
    ----------
    weights
        ``[channels, 3]``
    bias
        ``[channels]``
    phases
        ``[factor, taps]`` of the interpolation; None: the picture has its own size.
    other
        What is added to it.
    other_weights
        ``[channels, channels of other]``
    """

    weights: Floats
    bias: Floats
    phases: Floats | None = None
    other: Values | None = None
    other_weights: Floats | None = None

    def times(self, factor: Floats) -> "Levels":
        """Each channel times its factor."""
        of = factor.reshape(-1, 1)
        other = None if self.other_weights is None else self.other_weights * of
        bias = self.bias * factor.ravel()
        return replace(self, weights=self.weights * of, bias=bias, other_weights=other)

    def plus(self, x: "Levels | Values") -> "Levels":
        """Sum with more levels of the same size, or with values; one channel is added to all."""
        if isinstance(x, Values):
            if not x.plain or enlargement_of(x) != enlargement_of(self):
                raise UnsupportedError("a sum of the picture and of values that are no codes")
            weights, none = np.eye(x.channels) * x.step, np.zeros((x.channels, 3))
            bias = np.full(x.channels, -x.step * x.place.codes.zero)
            x = Levels(none, bias, self.phases, x, weights)
        if not _same(self.phases, x.phases) or (self.other is not None and x.other is not None):
            raise UnsupportedError("a sum of pictures of several sizes")
        rows = np.broadcast_shapes(self.bias.shape, x.bias.shape)[0]
        added = self.other_weights if self.other is not None else x.other_weights
        return Levels(
            self.weights + x.weights,
            self.bias + x.bias,
            self.phases,
            self.other or x.other,
            None if added is None else np.broadcast_to(added, (rows, added.shape[1])),
        )


@dataclass(frozen=True, eq=False)
class Sums:
    """Output of a convolution, and of an activation behind it.

    Attributes
    ----------
    slope
        Factor of negative values of each output; None: no activation.
    """

    source: Place
    weights: NDArray[np.int8]
    scale: Floats
    bias: Floats
    slope: Floats | None = None


@dataclass(frozen=True, eq=False)
class Both:
    """``left + right + shift[c]``; at least 0 if ``relu``.

    Attributes
    ----------
    sole
        One thing alone reads the sum.
    """

    left: "Values | Parts"
    right: "Values | Parts"
    shift: Floats | None = None
    relu: bool = False
    sole: bool = False


@dataclass(frozen=True, eq=False)
class Parts:
    """Concatenation of channels."""

    parts: tuple["Term", ...]


Term = Levels | Values | Sums | Both | Parts


@dataclass(frozen=True, eq=False)
class Quantized:
    """Codes of a term. Steps are made when something reads them."""

    term: Term
    step: float
    zero: int
    low: int = 0
    high: int = 255


@dataclass(frozen=True, eq=False)
class Weights:
    """``step[c] * code`` of a constant."""

    codes: NDArray[np.int8]
    step: Floats


def channels_of(term: Term) -> int:
    """Number of channels of a term."""
    match term:
        case Levels():
            return len(term.bias)
        case Sums():
            return len(term.scale)
        case Values():
            return term.channels
        case Both():
            return channels_of(term.left)
        case Parts():
            return sum(map(channels_of, term.parts))


def enlargement_of(term: Term) -> int:
    """Rows and columns of a term for each one of the picture."""
    match term:
        case Levels():
            return 1 if term.phases is None else len(term.phases)
        case Sums():
            return term.source.codes.enlargement
        case Values():
            return term.place.codes.enlargement
        case Both():
            return enlargement_of(term.left)
        case Parts():
            return enlargement_of(term.parts[0])


def _same(a: Floats | None, b: Floats | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))
