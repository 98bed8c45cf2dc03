"""Programs on pictures: memory, threads, and calls of the compiled library."""

import ctypes
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import c_void_p
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.kernels import library as c
from sr_quant_cli.kernels.packing import (
    CHANNELS,
    LINE,
    Packed,
    aligned,
    pack,
    padded,
)
from sr_quant_cli.kernels.program import (
    Add,
    AddByTable,
    Codes,
    Convolution,
    Mix,
    Place,
    Program,
    Range,
    Recode,
    Shuffle,
    Step,
    last_uses,
    needed_ranges,
)
from sr_quant_cli.records import record

_SLACK = 16
"""Pixels behind the last row that kernels may read, as they take several pixels at a time."""
_RESULT = ""
"""Name of the picture that is given, and of the one that is made; they are not in our memory."""
_PLANS = 9
"""Sizes that are remembered: tiles inside a picture, at its sides and at its corners."""


@record
class _Picture:
    """A picture of codes in memory, with a border of ``pad`` pixels."""

    address: int
    height: int
    width: int
    channels: int
    pad: int

    @property
    def row(self) -> int:
        """Bytes from one row to the next."""
        return (self.width + 2 * self.pad) * self.channels

    @property
    def bytes(self) -> int:
        """Bytes of the picture with its border and what kernels may read behind it, in lines."""
        length = (self.height + 2 * self.pad) * self.row + _SLACK * self.channels
        return -(-length // LINE) * LINE

    def at(self, row: int, column: int, channel: int = 0) -> c.CPlace:
        """Find a channel of a pixel."""
        before = (self.pad + row) * self.row + (self.pad + column) * self.channels
        return c.CPlace(self.address + before + channel, self.row, self.channels)


@dataclass
class _Plan:
    """The steps for pictures of one size, as the library reads them.

    Attributes
    ----------
    top, left
        First row and column of the input that are read.
    kept
        What the steps point at.
    """

    steps: "ctypes.Array[c.CStep]"
    top: int
    left: int
    kept: list[Any] = field(default_factory=list)


class Executor:
    """A program that is ready to run on pictures of any size.

    Parameters
    ----------
    threads
        Threads that share the rows of each step.
    isas
        Kernels to choose from; None: those of the instruction set to use.

    Raises
    ------
    UsageError
        The kernels are not there, or not those that were asked for.
    """

    def __init__(self, program: Program, threads: int, isas: Sequence[c.Isa] | None = None) -> None:
        isas = isas or c.kernels()
        self.program, self.isa = program, isas[0].name
        self._steps, self._together = _prepared(program)
        self._packed: dict[Step, Packed] = {
            step: pack(step.weights, step.source.codes, isas)
            for step in self._steps
            if isinstance(step, Convolution)
        }
        self._pad = max((packed.reach for packed in self._packed.values()), default=0)
        inputs = max((packed.inputs for packed in self._packed.values()), default=CHANNELS)
        self._library = c.library()
        self._scratch = [aligned(self._library.srq_scratch(inputs)) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._arena = aligned(0)
        self._plans: dict[tuple[tuple[int, int], tuple[Range, Range]], _Plan] = {}
        self._lock = Lock()

    @property
    def threads(self) -> int:
        """Threads that share the rows of each step."""
        return len(self._scratch)

    def tiles(self) -> list[int]:
        """Side of the tiles of Winograd's algorithm of each convolution; 0: it runs directly."""
        return [packed.tile for packed in self._packed.values()]

    def winograd_layers(self) -> int:
        """Count the convolutions that run by Winograd's algorithm."""
        return sum(tile > 0 for tile in self.tiles())

    def __call__(
        self, lr: NDArray[np.uint8], rows: slice = slice(None), columns: slice = slice(None)
    ) -> NDArray[np.uint8]:
        """Enlarge uint8 ``lr[rows, columns]``, ``[h, w, 3]``, to uint8 ``[sh, sw, 3]``.

        The pixels of ``lr`` around it count, but each step computes only what the result needs.

        Raises
        ------
        MemoryError
            There is not enough memory for the picture.
        """
        program = self.program
        keep = [
            Range(*along.indices(length)[:2]).moved(program.surround)
            for along, length in zip((rows, columns), lr.shape[:2], strict=True)
        ]
        for axis in (0, 1) if program.surround else ():
            lr = lr.take(mirrored(lr.shape[axis], program.surround), axis)
        lr = np.ascontiguousarray(lr)
        with self._lock:
            plan = self._plan((lr.shape[0], lr.shape[1]), (keep[0], keep[1]))
            size = (program.scale * along.length for along in keep)
            result = np.empty((*size, 3), np.uint8)
            first = lr[plan.top :, plan.left :]
            plan.steps[0].in_ = c.CPlace(first.ctypes.data, lr.strides[0], 3)
            plan.steps[len(plan.steps) - 1].out = c.CPlace(result.ctypes.data, result.strides[0], 3)
            self._execute(plan)
        return result

    def _execute(self, plan: _Plan) -> None:
        """Run the steps in all threads, this one being the first."""
        barrier = c.Barrier()
        count = len(self._scratch)

        def band(thread: int) -> None:
            self._library.srq_execute(
                plan.steps,
                len(plan.steps),
                thread,
                count,
                ctypes.byref(barrier),
                _address(self._scratch[thread]),
            )

        if self._pool is None:
            band(0)
            return
        others: list[Future[None]] = []
        try:
            others += (self._pool.submit(band, thread) for thread in range(1, count))
            band(0)
        except BaseException:
            self._library.srq_stop(ctypes.byref(barrier))
            raise
        finally:
            for other in others:
                other.result()

    def _plan(self, lengths: tuple[int, int], keep: tuple[Range, Range]) -> _Plan:
        """Lay out the pictures in memory and prepare the steps."""
        if plan := self._plans.get((lengths, keep)):
            return plan
        pictures, size = self._layout(*lengths)
        if size > len(self._arena):
            self._plans.clear()
            self._arena = aligned(0)  # so that both are not there at the same time
            self._arena = aligned(size)
        elif len(self._plans) >= _PLANS:
            self._plans.clear()
        first = int(self._arena.ctypes.data)
        there = {
            name: replace(picture, address=first + picture.address)
            for name, picture in pictures.items()
        }
        tall, wide = (
            needed_ranges(self._steps, length, along)
            for length, along in zip(lengths, keep, strict=True)
        )
        plan = _Plan((c.CStep * len(self._steps))(), tall[0].start, wide[0].start)
        for step, raw, rows, columns in zip(self._steps, plan.steps, tall, wide, strict=True):
            self._fill(raw, step, there, (rows, columns), plan.kept)
        self._plans[lengths, keep] = plan
        return plan

    def _layout(self, height: int, width: int) -> tuple[dict[str, _Picture], int]:
        """Give each picture a place that no other one needs at the same time; bytes of all."""
        last = last_uses(self._steps)
        pictures: dict[str, _Picture] = {}
        free: list[tuple[int, int]] = []
        size = 0
        for index, step in enumerate(self._steps):
            for codes in (place.codes for place in step.targets):
                if codes.name in pictures or codes.name == _RESULT:
                    continue
                new = _Picture(
                    size,
                    codes.enlargement * height,
                    codes.enlargement * width,
                    padded(codes.channels),
                    self._pad,
                )
                fitting = [(space, at) for space, at in free if space == new.bytes]
                if fitting:
                    free.remove(fitting[0])
                    new = replace(new, address=fitting[0][1])
                else:
                    size += new.bytes
                pictures[codes.name] = new
            for name, picture in pictures.items():
                if last[name] == index:
                    free.append((picture.bytes, picture.address))
        return pictures, size

    def _fill(
        self,
        raw: c.CStep,
        step: Step,
        pictures: dict[str, _Picture],
        ranges: tuple[Range, Range],
        kept: list[Any],
    ) -> None:
        """Write a step on a part of its input as the library reads it."""
        enlargement = step.source.codes.enlargement

        def at(place: Place) -> c.CPlace:
            if place.codes.name not in pictures:  # those of the caller
                return c.CPlace()
            factor = place.codes.enlargement // enlargement
            row, column = (along.start * factor for along in ranges)
            return pictures[place.codes.name].at(row, column, place.first)

        raw.height, raw.width = (along.length for along in ranges)
        raw.in_, raw.out = at(step.source), at(step.target)
        for border, place in zip(raw.borders, step.targets, strict=False):
            if picture := pictures.get(place.codes.name):
                border.picture, border.pad = at(Place(place.codes)), picture.pad
                border.zero = place.codes.zero
                border.factor = place.codes.enlargement // enlargement
                border.height = border.factor * raw.height
                border.width = border.factor * raw.width
        match step:
            case Convolution():
                raw.kind = c.CONVOLUTION
                self._fill_convolution(raw, step, at, kept)
            case Recode():
                raw.kind, raw.channels = c.RECODE, step.channels
                raw.table = _address(step.table)
                raw.table_step = _table_step(step.table)
            case Add():
                raw.kind, raw.channels, raw.other = c.ADD, step.channels, at(step.right)
                raw.scale, raw.other_scale = step.scale, step.right_scale
                raw.constant, raw.low, raw.high = step.constant, step.low, step.high
            case AddByTable():
                raw.kind, raw.channels, raw.other = c.ADD_BY_TABLE, step.channels, at(step.right)
                raw.values, raw.other_values = _address(step.table), _address(step.right_table)
                raw.values_step = _table_step(step.table)
                raw.other_values_step = _table_step(step.right_table)
                raw.low, raw.high = step.low, step.high
            case Mix():
                self._fill_mix(raw, step, at, kept)
            case Shuffle():
                raw.kind, raw.channels, raw.factor = c.SHUFFLE, step.channels, step.factor
                raw.pixel_step, raw.channel_step = 1, step.factor**2
                if step in self._together:
                    raw.pixel_step, raw.channel_step = step.channels, 1

    def _fill_mix(
        self, raw: c.CStep, step: Mix, at: Callable[[Place], c.CPlace], kept: list[Any]
    ) -> None:
        raw.kind, raw.low, raw.high = c.MIX, step.low, step.high
        if step.right is not None:
            raw.other = at(step.right)
        mix = c.CMix(
            step.weights.shape[1],
            step.right_weights.shape[1],
            len(step.weights),
            *step.phases.shape,
            _address(step.phases),
            _address(step.weights),
            _address(step.right_weights),
            _address(step.constant),
        )
        raw.mix = ctypes.pointer(mix)
        kept.append(mix)

    def _fill_convolution(
        self,
        raw: c.CStep,
        step: Convolution,
        at: Callable[[Place], c.CPlace],
        kept: list[Any],
    ) -> None:
        packed = self._packed[step]
        reach = range(-packed.radius, packed.radius + 1)
        offsets = [y * raw.in_.row + x * raw.in_.step for y in reach for x in reach]
        window = np.array(offsets, np.intp)
        conv = c.Conv(
            packed.tile,
            len(packed.weights),
            packed.inputs,
            packed.outputs,
            raw.in_.step,
            _address(window),
            _address(packed.shifts),
            _address(packed.weights),
            _address(packed.start),
        )

        def vector(values: NDArray[Any]) -> c_void_p:
            """Values of the outputs, with zeros for those that pad them."""
            padded = np.zeros(packed.outputs, np.float32)
            padded[: len(values)] = values
            kept.append(padded)
            return _address(padded)

        out = c.Output(
            scale=vector(step.scale / np.float32(packed.scale)),
            bias=vector(step.bias),
            zero=step.zero,
            low=step.low,
            high=step.high,
        )
        out.codes, out.stride, out.step = _parts(raw.out)
        if step.slope is not None:
            out.slope = vector(step.slope)
        if step.skip is not None:
            out.skip, out.skip_stride, out.skip_step = _parts(at(step.skip.place))
            out.own, out.other, out.constant = step.skip.own, step.skip.other, step.skip.constant
            out.skip_low, out.skip_high = step.skip.low, step.skip.high
        if step.again is not None:
            again = step.again
            out.again, out.again_stride, out.again_step = _parts(at(again.place))
            out.again_scale, out.again_bias = again.scale, vector(again.bias)
            out.again_low, out.again_high = again.low, again.high
        raw.run = ctypes.cast(packed.isa.run, c_void_p)
        raw.conv, raw.output = ctypes.pointer(conv), ctypes.pointer(out)
        kept += [window, conv, out]


def _prepared(program: Program) -> tuple[list[Step], frozenset[Step]]:
    """Add reading of the input and writing of the output to the steps.

    The channels of a convolution that a PixelShuffle alone reads are put in the order of the
    pixels, ``(i * factor + j) * channels + c``.

    Returns
    -------
    The steps, and the PixelShuffles whose input is in that order.
    """
    levels = Codes(_RESULT, 3, 1, 0, 0, 255)
    steps: list[Step] = [Recode(Place(levels), Place(program.input), 3, program.tables)]
    readers = Counter(place.codes.name for step in program.steps for place in step.sources)
    together: list[Step] = []
    for step in program.steps:
        before = steps[-1]
        if (
            isinstance(step, Shuffle)
            and isinstance(before, Convolution)
            and before.target == step.source == Place(before.target.codes)
            and before.skip is None
            and before.again is None
            and readers[step.source.codes.name] == 1
            and len(before.weights) == step.source.codes.channels
        ):
            order = np.arange(len(before.weights)).reshape(step.channels, -1).T.ravel()
            steps[-1] = replace(
                before,
                weights=before.weights[order],
                scale=before.scale[order],
                bias=before.bias[order],
                slope=None if before.slope is None else before.slope[order],
            )
            together.append(step)
        steps.append(step)
    result = Place(replace(program.output, name=_RESULT))
    end = steps[-1]
    if isinstance(end, Shuffle) and end.target == Place(program.output):
        steps[-1] = replace(end, target=result)
        together = [steps[-1] if step is end else step for step in together]
    else:
        same = np.arange(256, dtype=np.uint8)
        steps.append(Recode(Place(program.output), result, 3, same))
    return steps, frozenset(together)


def mirrored(length: int, width: int) -> NDArray[np.intp]:
    """Positions of ``length`` pixels with ``width`` mirrored ones at both ends.

    >>> mirrored(4, 2).tolist()
    [1, 0, 0, 1, 2, 3, 3, 2]
    """
    position = np.abs(np.arange(-width, length + width) + 0.5).astype(np.intp)
    mirror: NDArray[np.intp] = np.minimum(position, 2 * length - 1 - position).clip(min=0)
    return mirror


def _table_step(table: NDArray[Any]) -> int:
    """Values from the table of one channel to that of the next; 0: all have the same."""
    return 256 if table.ndim > 1 else 0


def _parts(place: c.CPlace) -> tuple[Any, Any, Any]:
    return place.codes, place.row, place.step


def _address(array: NDArray[Any]) -> c_void_p:
    return c_void_p(array.ctypes.data)
