"""Steps that make the codes of terms, in the order in which something reads them."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from sr_quant_cli.kernels.packing import CHANNELS
from sr_quant_cli.kernels.program import (
    Add,
    AddByTable,
    Again,
    Codes,
    Convolution,
    Mix,
    Place,
    Recode,
    Shuffle,
    Skip,
    Step,
)
from sr_quant_cli.kernels.terms import (
    Both,
    Floats,
    Levels,
    Parts,
    Quantized,
    Sums,
    Term,
    UnsupportedError,
    Values,
    channels_of,
    enlargement_of,
)


class Maker:
    """Makes the steps of a program.

    Attributes
    ----------
    levels
        The picture itself: its codes are its levels.
    """

    def __init__(self) -> None:
        self.levels = Codes("levels", 3, 1, 0, 0, 255)
        self.steps: list[Step] = []
        self._places: dict[Any, Place] = {}
        """codes that were made of a term, by the term and its quantization"""
        self._shared: set[str] = set()
        """names of codes that several places of the graph quantize"""
        self._count = 0

    def place(self, quantized: Quantized) -> Place:
        """Make the codes of a quantized term, once."""
        return self._place(quantized.term, quantized)

    def shuffle(self, values: Values, factor: int) -> Values:
        """PixelShuffle of values that have neither a shift nor slopes of their own."""
        before = self._own(values.place, values.channels).codes
        channels = before.channels // factor**2
        after = Place(self._new(channels, before.enlargement * factor, before))
        self.steps.append(Shuffle(Place(before), after, channels, factor))
        return Values(after, channels, values.step, slope=values.slope)

    def at_least(self, place: Place, least: Any) -> Place:
        """Codes of which each channel is at least a code of its own."""
        codes = place.codes
        target = Place(self._new(len(least), codes.enlargement, codes))
        table = np.maximum(np.arange(256), least[:, None]).astype(np.uint8)
        self.steps.append(Recode(place, target, len(least), table))
        return target

    def _place(self, term: Term, to: Quantized, target: Place | None = None) -> Place:
        """Make the codes of a term, at ``target`` if given; or copy them from where they are."""
        key = (term, to.step, to.zero, to.low, to.high)
        made = self._places.get(key)
        if made is not None:
            self._shared.add(made.codes.name)
            if target is not None:
                self._copy(made, target, channels_of(term))
            return target or made
        if isinstance(term, Values):
            place = self._recode(term, to, target)
        else:
            place = target or Place(self._new(channels_of(term), enlargement_of(term), to))
            match term:
                case Levels():
                    self._mix(term, to, place)
                case Sums():
                    self._convolve(term, to, place)
                case Both():
                    self._add(term, to, place)
                case Parts():
                    self._concatenate(term, to, place)
        self._places[key] = place
        return place

    def _mix(self, term: Levels, to: Quantized, target: Place) -> None:
        weights, constant = term.weights / to.step, term.bias / to.step + to.zero
        if term.phases is None and term.other is None and len(weights) == 3:
            scales = weights.diagonal()
            if np.array_equal(weights, np.diag(scales)):
                codes = np.rint(scales[:, None] * np.arange(256) + constant[:, None])
                table = codes.clip(to.low, to.high).astype(np.uint8)
                self.steps.append(Recode(Place(self.levels), target, 3, table))
                return
        right, right_weights = None, np.zeros((len(weights), 0))
        if term.other is not None and term.other_weights is not None:
            right, right_weights = term.other.place, term.other_weights / to.step
        phases = np.ones((1, 1)) if term.phases is None else term.phases
        self.steps.append(
            Mix(
                Place(self.levels),
                target,
                right,
                _floats(phases),
                _floats(weights),
                _floats(right_weights),
                _floats(constant),
                to.low,
                to.high,
            )
        )

    def _convolve(self, term: Sums, to: Quantized, target: Place) -> None:
        low, zero = to.low, float(to.zero)
        slope = None if term.slope is None else np.broadcast_to(term.slope, len(term.scale))
        scale, bias = term.scale / to.step, term.bias / to.step
        if slope is not None and not slope.any():
            slope, low = None, max(low, to.zero)
        if slope is None:
            bias, zero = bias + zero, 0.0
        source = term.source
        if source.first % CHANNELS:
            source = self._own(source, term.weights.shape[1])
        self.steps.append(
            Convolution(
                source,
                target,
                term.weights,
                _floats(scale),
                _floats(bias),
                None if slope is None else _floats(slope),
                zero,
                low,
                to.high,
            )
        )

    def _add(self, term: Both, to: Quantized, target: Place) -> None:
        left, right = term.left, term.right
        low = max(to.low, to.zero) if term.relu else to.low
        if (
            isinstance(left, Parts)
            or isinstance(right, Parts)
            or term.shift is not None
            or not (left.plain and right.plain)
        ):
            self._add_by_table(term, replace(to, low=low), target)
            return
        zeros = left.place.codes.zero, right.place.codes.zero
        scales = left.step / to.step, right.step / to.step
        constant = to.zero - scales[0] * zeros[0] - scales[1] * zeros[1]
        places = left.place, right.place
        if term.sole:
            for own, other in ((1, 0), (0, 1)):
                maker = self._maker_to_end(right if own else left, places[other])
                if maker is not None:
                    index, step = maker
                    skip = Skip(places[other], scales[own], scales[other], constant, low, to.high)
                    self.steps[index] = replace(step, target=target, skip=skip)
                    return
        self.steps.append(
            Add(places[0], target, places[1], left.channels, *scales, constant, low, to.high)
        )

    def _add_by_table(self, term: Both, to: Quantized, target: Place) -> None:
        """Add parts of both terms that lie side by side, each with tables of its own."""
        sides = [_values_of(side) for side in (term.left, term.right)]
        starts = {0} | {end for parts in sides for end in np.cumsum([x.channels for x in parts])}
        for first, end in pairwise(sorted(int(start) for start in starts)):
            left, right = (_part(parts, first, end - first) for parts in sides)
            table, right_table = left.table() / to.step + to.zero, right.table() / to.step
            if term.shift is not None:
                table = table + term.shift[first:end, None] / to.step
            self.steps.append(
                AddByTable(
                    left.place,
                    Place(target.codes, target.first + first),
                    right.place,
                    end - first,
                    _floats(table),
                    _floats(right_table),
                    to.low,
                    to.high,
                )
            )

    def _maker_to_end(self, values: Values, other: Place) -> tuple[int, Convolution] | None:
        """Find the convolution that can add ``other`` to its output, which nothing else reads."""
        codes = values.place.codes
        index, before = self._maker(codes), self._maker(other.codes)
        if index is None or not (values.sole and values.whole) or codes.name in self._shared:
            return None
        step = self.steps[index]
        if not isinstance(step, Convolution) or step.skip or step.again or other.first % CHANNELS:
            return None
        if step.target != Place(codes) or len(step.weights) < codes.channels:
            return None
        if before is not None and before > index:
            return None
        self._places = {
            key: place for key, place in self._places.items() if place.codes is not codes
        }
        return index, step

    def _concatenate(self, term: Parts, to: Quantized, target: Place) -> None:
        first = target.first
        for part in term.parts:
            channels, place = channels_of(part), Place(target.codes, first)
            if enlargement_of(part) != target.codes.enlargement:
                raise UnsupportedError("a concatenation of pictures of several sizes")
            # Convolutions write whole blocks of channels.
            last = first + channels == target.codes.channels
            if first % CHANNELS == 0 and (channels % CHANNELS == 0 or last):
                self._place(part, to, place)
            else:
                self._copy(self._place(part, to), place, channels)
            first += channels

    def _recode(self, term: Values, to: Quantized, target: Place | None) -> Place:
        codes, channels = term.place.codes, term.channels
        same = term.plain and term.step == to.step and codes.zero == to.zero
        if target is None and same and codes.low >= to.low and codes.high <= to.high:
            return term.place
        target = target or Place(self._new(channels, codes.enlargement, to))
        index = self._maker(codes)
        step = None if index is None else self.steps[index]
        if (
            term.plain
            and term.whole
            and isinstance(step, Convolution)
            and step.again is None
            and step.target == Place(codes)
            and len(step.weights) == channels
        ):
            assert index is not None
            scale = term.step / to.step
            bias = np.full(channels, to.zero - scale * codes.zero, np.float32)
            again = Again(target, scale, bias, to.low, to.high)
            self.steps[index] = replace(step, again=again)
        else:
            table = np.rint(term.table() / to.step) + to.zero
            table = table.clip(to.low, to.high).astype(np.uint8)
            self.steps.append(Recode(term.place, target, channels, table))
        return target

    def _own(self, place: Place, channels: int) -> Place:
        """Channels as a picture of their own."""
        if place.codes.channels == channels:
            return place
        key = (place, channels)
        if key not in self._places:
            own = Place(self._new(channels, place.codes.enlargement, place.codes))
            self._copy(place, own, channels)
            self._places[key] = own
        return self._places[key]

    def _copy(self, source: Place, target: Place, channels: int) -> None:
        self.steps.append(Recode(source, target, channels, np.arange(256, dtype=np.uint8)))

    def _new(self, channels: int, enlargement: int, like: Quantized | Codes) -> Codes:
        self._count += 1
        name = f"codes{self._count}"
        return Codes(name, channels, enlargement, like.zero, like.low, like.high)

    def _maker(self, codes: Codes) -> int | None:
        """Index of the last step that writes a picture; None for the first picture."""
        made = [i for i, step in enumerate(self.steps) if codes in [p.codes for p in step.targets]]
        return made[-1] if made else None


def _values_of(term: Values | Parts) -> list[Values]:
    parts = term.parts if isinstance(term, Parts) else (term,)
    values = [part for part in parts if isinstance(part, Values)]
    if len(values) < len(parts):
        raise UnsupportedError("a sum of numbers that are no codes")
    return values


def _part(values: list[Values], first: int, channels: int) -> Values:
    """Channels that lie within one of several values side by side."""
    for part in values:
        if first < part.channels:
            return part.part(first, channels)
        first -= part.channels
    raise UnsupportedError("a sum of pictures with different channels")


def _floats(values: Floats) -> Any:
    return np.ascontiguousarray(values, np.float32)
