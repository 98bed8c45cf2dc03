"""Programs on pictures: memory, threads, and calls of the compiled library."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_float, c_int32, c_ssize_t, c_uint8, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.kernels.library import Conv, Output, kernels, library
from sr_quant_cli.kernels.packing import (
    CHANNELS,
    WINOGRAD_SCALE,
    Packed,
    aligned,
    pack,
    padded,
)
from sr_quant_cli.kernels.program import (
    Add,
    Codes,
    Convolution,
    Place,
    Program,
    Recode,
    Shuffle,
    Step,
)

_SLACK = 16
"""Pixels behind the last row that kernels may read, as they take several pixels at a time."""

Band = Callable[[int, int, int], None]
"""A step on the rows ``first`` to ``last``, by the thread of a number: (number, first, last)."""


@dataclass(frozen=True)
class _Picture:
    """Memory of a picture of codes, with a border of ``pad`` pixels."""

    bytes: NDArray[np.uint8]
    height: int
    width: int
    channels: int
    pad: int

    @property
    def row(self) -> int:
        """Bytes from one row to the next."""
        return (self.width + 2 * self.pad) * self.channels

    def at(self, channel: int = 0) -> int:
        """Address of a channel of the first pixel inside the border."""
        return int(self.bytes.ctypes.data) + self.pad * (self.row + self.channels) + channel

    def pixels(self) -> NDArray[np.uint8]:
        """View without border, ``[height, width, channels]``."""
        rows = self.bytes[: (self.height + 2 * self.pad) * self.row]
        whole = rows.reshape(self.height + 2 * self.pad, -1, self.channels)
        return whole[self.pad : self.pad + self.height, self.pad : self.pad + self.width]


class Executor:
    """A program that is ready to run on pictures of any size, one at a time.

    Parameters
    ----------
    threads
        Threads that share the rows of each step.

    Raises
    ------
    UsageError
        The kernels are not there, or not those that were asked for.
    """

    def __init__(self, program: Program, threads: int) -> None:
        isas = kernels()
        self.program, self.isa = program, isas[0].name
        self._packed: dict[Convolution, Packed] = {
            step: pack(step.weights, step.source.codes, isas)
            for step in program.steps
            if isinstance(step, Convolution)
        }
        self._pad = 1 + max((packed.radius for packed in self._packed.values()), default=0)
        inputs = max((packed.inputs for packed in self._packed.values()), default=CHANNELS)
        self._library = library()
        self._scratch = [aligned(self._library.srq_scratch(inputs)) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._unused_after = _unused_after(program)
        self._spare: list[NDArray[np.uint8]] = []
        self._pictures: dict[str, _Picture] = {}

    def winograd_layers(self) -> int:
        """Count the convolutions that run by Winograd's algorithm."""
        return sum(packed.winograd for packed in self._packed.values())

    def __call__(self, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarge uint8 ``[h, w, 3]`` to uint8 ``[sh, sw, 3]``.

        Raises
        ------
        MemoryError
            There is not enough memory for the picture.
        """
        program = self.program
        for axis in (0, 1):
            lr = lr.take(mirrored(lr.shape[axis], program.surround), axis)
        size = lr.shape[:2]
        try:
            first = self._open(program.input, size)
            for colour in range(3):
                first.pixels()[..., colour] = program.tables[colour][lr[..., colour]]
            first.pixels()[..., 3:] = program.input.zero
            self._enclose(program.input, 0, first.height)
            for step, unused in zip(program.steps, self._unused_after, strict=True):
                for place in step.targets:
                    self._open(place.codes, size)
                self._run(step)
                for name in unused:
                    self._spare.append(self._pictures.pop(name).bytes)
            result = self._pictures[program.output.name].pixels()
            crop = program.scale * program.surround
            inside = result[crop : len(result) - crop, crop : result.shape[1] - crop, :3]
            return np.ascontiguousarray(inside)
        finally:
            self._spare += [picture.bytes for picture in self._pictures.values()]
            self._pictures.clear()

    def _open(self, codes: Codes, size: tuple[int, int]) -> _Picture:
        """Find the memory of a picture, or take some; ``size`` is that of the input."""
        if codes.name in self._pictures:
            return self._pictures[codes.name]
        channels = padded(codes.channels)
        height, width = (codes.enlargement * length for length in size)
        length = ((height + 2 * self._pad) * (width + 2 * self._pad) + _SLACK) * channels
        fitting = [spare for spare in self._spare if len(spare) == length]
        if fitting:
            memory = fitting[0]
            self._spare = [spare for spare in self._spare if spare is not memory]
        else:
            memory = aligned(length)
            self._spare = self._spare[-4:]  # of pictures of another size there may be many
        picture = _Picture(memory, height, width, channels, self._pad)
        self._pictures[codes.name] = picture
        return picture

    def _run(self, step: Step) -> None:
        """Run a step, its rows shared by the threads."""
        height = self._pictures[step.source.codes.name].height
        call = self._call(step)

        def band(number: int, first: int, last: int) -> None:
            call(number, first, last)
            for place in step.targets:
                factor = place.codes.enlargement // step.source.codes.enlargement
                self._enclose(place.codes, first * factor, last * factor)

        share = 2 * -(-height // (2 * len(self._scratch)))
        starts = range(0, height, share)
        bands = [(number, first, min(first + share, height)) for number, first in enumerate(starts)]
        if self._pool is None:
            band(*bands[0])
        else:
            list(self._pool.map(lambda arguments: band(*arguments), bands))

    def _enclose(self, codes: Codes, first: int, last: int) -> None:
        """Fill the border beside rows with the code of zero, and above and below the picture."""
        picture = self._pictures[codes.name]
        self._library.srq_border(
            c_void_p(picture.at()),
            c_ssize_t(picture.row),
            picture.channels,
            picture.pad,
            c_uint8(codes.zero),
            picture.height,
            picture.width,
            first,
            last,
        )

    def _memory(self, place: Place) -> tuple[c_void_p, c_ssize_t, c_int32]:
        """Address, bytes of a row and bytes of a pixel."""
        picture = self._pictures[place.codes.name]
        return c_void_p(picture.at(place.first)), c_ssize_t(picture.row), c_int32(picture.channels)

    def _call(self, step: Step) -> Band:
        """Prepare the call of the library for a step."""
        if isinstance(step, Convolution):
            return self._convolve(step)
        further: list[Any]
        match step:
            case Recode():
                function = self._library.srq_recode
                further = [_address(step.table), 256 if step.table.ndim > 1 else 0]
            case Add():
                function = self._library.srq_add
                numbers = step.scale, step.right_scale, step.constant, step.low, step.high
                further = [c_float(number) for number in numbers]
            case Shuffle():
                function = self._library.srq_shuffle
                further = [step.factor]
        places = [x for place in (*step.sources, *step.targets) for x in self._memory(place)]
        width = self._pictures[step.source.codes.name].width
        arguments = [*places, step.channels, *further, width]
        return lambda _, first, last: function(*arguments, first, last)

    def _convolve(self, step: Convolution) -> Band:
        packed = self._packed[step]
        codes, row, pixel = self._memory(step.source)
        reach = range(-packed.radius, packed.radius + 1)
        offsets = np.array([y * row.value + x * pixel.value for y in reach for x in reach], np.intp)
        conv = Conv(
            packed.winograd,
            len(packed.weights),
            packed.inputs,
            packed.outputs,
            pixel,
            _address(offsets),
            _address(packed.shifts),
            _address(packed.weights),
            _address(packed.start),
        )
        scale = step.scale / np.float32(WINOGRAD_SCALE if packed.winograd else 1)
        vectors = [_vector(scale, packed), _vector(step.bias, packed)]
        out = Output(
            scale=_address(vectors[0]),
            bias=_address(vectors[1]),
            zero=step.zero,
            low=step.low,
            high=step.high,
        )
        if step.slope is not None:
            vectors.append(_vector(step.slope, packed))
            out.slope = _address(vectors[-1])
        if step.skip is not None:
            out.skip, out.skip_stride, out.skip_step = self._memory(step.skip.place)
            out.own, out.other, out.constant = step.skip.own, step.skip.other, step.skip.constant
            out.skip_low, out.skip_high = step.skip.low, step.skip.high
        out.codes, out.stride, out.step = self._memory(step.target)
        if step.again is not None:
            again = step.again
            vectors.append(_vector(again.bias, packed))
            out.again, out.again_stride, out.again_step = self._memory(again.place)
            out.again_scale, out.again_bias = again.scale, _address(vectors[-1])
            out.again_low, out.again_high = again.low, again.high
        width = self._pictures[step.source.codes.name].width

        def call(number: int, first: int, last: int) -> None:
            scratch = _address(self._scratch[number])
            packed.isa.run(conv, out, codes, row, width, first, last, scratch)

        call.__dict__["kept"] = (offsets, vectors)  # the structures hold addresses alone
        return call


def mirrored(length: int, width: int) -> NDArray[np.intp]:
    """Positions of ``length`` pixels with ``width`` mirrored ones at both ends.

    >>> mirrored(4, 2).tolist()
    [1, 0, 0, 1, 2, 3, 3, 2]
    """
    position = np.abs(np.arange(-width, length + width) + 0.5).astype(np.intp)
    mirror: NDArray[np.intp] = np.minimum(position, 2 * length - 1 - position).clip(min=0)
    return mirror


def _unused_after(program: Program) -> list[list[str]]:
    """Names of the pictures that no step reads or writes after each step."""
    last = {
        place.codes.name: index
        for index, step in enumerate(program.steps)
        for place in (*step.sources, *step.targets)
    }
    last[program.output.name] = len(program.steps)
    return [
        [name for name, use in last.items() if use == index] for index in range(len(program.steps))
    ]


def _vector(values: NDArray[Any], packed: Packed) -> NDArray[np.float32]:
    """Values of the outputs, with zeros for those that pad them."""
    vector = np.zeros(packed.outputs, np.float32)
    vector[: len(values)] = values
    return vector


def _address(array: NDArray[Any]) -> c_void_p:
    return c_void_p(array.ctypes.data)
