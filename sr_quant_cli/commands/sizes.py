"""Sizes that a user asks for, and the network scale that serves each picture."""

from collections.abc import Sequence

from sr_quant_cli.errors import UsageError
from sr_quant_cli.records import record

LARGEST = 16
"""largest factor of an enlargement"""

DEFAULT_FACTOR = 4.0

Size = tuple[int, int]
"""height and width in pixels"""


@record
class Enlargement:
    """Size of the result of one picture.

    Attributes
    ----------
    factor
        The larger one of the two ratios of sides.
    height, width
        Pixels of the result.
    """

    factor: float
    height: int
    width: int


@record
class SizeRequest:
    """Requested size of the results; without any, the scale of the network decides.

    Attributes
    ----------
    scale
        Factors of the width and of the height.
    width, height
        Pixels of the result; one of them keeps the proportions, both make exactly that size.
    fit
        Width and height of the box that the result fills without changing its proportions.
    max_side
        Pixels of the longer side.

    Raises
    ------
    UsageError
        The parts exclude each other, or a factor is out of range.
    """

    scale: tuple[float, float] | None = None
    width: int | None = None
    height: int | None = None
    fit: tuple[int, int] | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        sides = "width" if self.width is not None else "height"
        given = {
            "scale": self.scale,
            sides: self.width if self.width is not None else self.height,
            "fit": self.fit,
            "max_side": self.max_side,
        }
        names = [f"`{name}`" for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise UsageError(f"{' and '.join(names)}: give only one of them")
        if self.scale is not None and not (min(self.scale) >= 1 and 1 < max(self.scale) <= LARGEST):
            raise UsageError(
                f"must be more than 1, and at most {LARGEST}", field="scale", value=self.text
            )

    def __bool__(self) -> bool:
        return bool(self.text)

    @property
    def text(self) -> str:
        """The request as it is typed, such as 2.5 or 1920x1080."""
        if self.scale is not None:
            horizontal, vertical = (f"{factor:g}" for factor in self.scale)
            return horizontal if horizontal == vertical else f"{horizontal}x{vertical}"
        if self.fit is not None:
            return f"{self.fit[0]}x{self.fit[1]}"
        if self.width is not None and self.height is not None:
            return f"{self.width}x{self.height}"
        return str(self.width or self.height or self.max_side or "")

    @property
    def tag(self) -> str:
        """Suffix of the names of results; empty if the scale of the network decides.

        >>> SizeRequest(scale=(2.5, 2.5)).tag, SizeRequest(fit=(1920, 1080)).tag
        ('_x2.5', '_1920x1080')
        >>> SizeRequest(height=1080).tag, SizeRequest(max_side=4000).tag
        ('_h1080', '_max4000')
        """
        if not self:
            return ""
        if self.scale is not None:
            return f"_x{self.text}"
        if self.max_side is not None:
            return f"_max{self.max_side}"
        if self.fit is not None or (self.width and self.height):
            return f"_{self.text}"
        return f"_w{self.width}" if self.width else f"_h{self.height}"

    @property
    def whole_factor(self) -> int | None:
        """The factor if it is the same whole number in both directions."""
        if self.scale is None or self.scale[0] != self.scale[1] or self.scale[0] % 1:
            return None
        return int(self.scale[0])

    def of(self, height: int, width: int) -> Enlargement:
        """Size of the result of a ``height`` x ``width`` picture, which must be given.

        Raises
        ------
        UsageError
            The picture would not become larger, or too much larger.
        """
        high, wide = self._factors(height, width)
        result = (max(1, round(height * high)), max(1, round(width * wide)))
        factor = max(high, wide)
        if result == (height, width) or factor < 1:
            raise UsageError(
                f"the picture is {width}x{height} already: {self._named} would not enlarge it"
            )
        if factor > LARGEST:
            raise UsageError(
                f"the picture is {width}x{height}: {self._named} would enlarge it "
                f"{factor:.3g} times, and {LARGEST} is the most"
            )
        return Enlargement(factor, *result)

    @property
    def _named(self) -> str:
        parts = {"width": self.width, "height": self.height, "max_side": self.max_side}
        told = [f"`{name}` {value}" for name, value in parts.items() if value is not None]
        if self.scale is not None or self.fit is not None:
            told = [f"`{'fit' if self.scale is None else 'scale'}` {self.text}"]
        return " ".join(told)

    def _factors(self, height: int, width: int) -> tuple[float, float]:
        """Factors of height and width."""
        if self.scale is not None:
            return self.scale[1], self.scale[0]
        if self.width is not None and self.height is not None:
            return self.height / height, self.width / width
        if self.fit is not None:
            factor = min(self.fit[0] / width, self.fit[1] / height)
        elif self.max_side is not None:
            factor = self.max_side / max(height, width)
        elif self.width is not None:
            factor = self.width / width
        else:
            assert self.height is not None
            factor = self.height / height
        return factor, factor


def network_scale(factor: float, scales: Sequence[int]) -> int:
    """Choose the smallest scale that reaches a factor, or the largest one there is.

    >>> [network_scale(factor, [2, 3, 4]) for factor in (1.5, 2, 2.5, 4, 9)]
    [2, 2, 3, 4, 4]
    """
    return next((scale for scale in sorted(scales) if scale >= factor), max(scales))
