"""Limits that a program must keep, so that no kernel reads or writes beyond its pictures.

Programs come from files, and the library trusts what it is called with.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.kernels.library import MAX_INPUTS, MAX_TAPS
from sr_quant_cli.kernels.packing import CHANNELS, padded
from sr_quant_cli.kernels.program import (
    Add,
    AddByTable,
    Codes,
    Convolution,
    Mix,
    Place,
    Program,
    Recode,
    Shuffle,
    Step,
    last_uses,
)

MAX_CHANNELS = 2**14
MAX_ENLARGEMENT = 16
MAX_SURROUND = 256
MAX_WINDOW = 15
MAX_STEPS = 10_000
MAX_WEIGHTS = 2**28
"""weights of all steps together, so that a small file cannot fill the memory"""

_LARGEST = 1e12
"""largest scale, bias or constant: its product with a sum of 32 bits is finite in float32"""


def check_program(program: Program) -> None:
    """Refuse a program that the kernels could not run safely, or that reads what nothing makes.

    Raises
    ------
    ValueError
        With the place in the program, and what is wrong there.
    """
    if not 1 <= program.scale <= MAX_ENLARGEMENT:
        raise ValueError(f"scale {program.scale}: must be 1 to {MAX_ENLARGEMENT}")
    if not 0 <= program.surround <= MAX_SURROUND:
        raise ValueError(f"surround {program.surround}: must be 0 to {MAX_SURROUND}")
    _shaped("tables", program.tables, (3, 256))
    _check_codes("input", program.input)
    if (program.input.channels, program.input.enlargement) != (3, 1):
        raise ValueError("input: must have 3 channels, and the size of the picture")
    if not 1 <= len(program.steps) <= MAX_STEPS:
        raise ValueError(f"{len(program.steps)} steps: must be 1 to {MAX_STEPS}")
    weights = sum(s.weights.size for s in program.steps if isinstance(s, Convolution))
    if weights > MAX_WEIGHTS:
        raise ValueError(f"{weights:,} weights: must be at most {MAX_WEIGHTS:,}")
    output = program.output
    made = _Made(program.input)
    for index, step in enumerate(program.steps):
        try:
            _check_step(step, made)
        except ValueError as error:
            raise ValueError(f"steps.{index} ({type(step).__name__}): {error}") from error
    if output.name == program.input.name:
        raise ValueError("output: is the input")
    made.check(Place(output), output.channels)
    if (output.channels, output.enlargement) != (3, program.scale):
        raise ValueError(f"output: must have 3 channels, and {program.scale} times the size")


def bytes_per_pixel(program: Program) -> int:
    """Memory of all codes for each pixel of the input; those of one size may share it."""
    last = last_uses(program.steps)
    total, sizes, free = 0, {program.input.name: _size(program.input)}, Counter[int]()
    for index, step in enumerate(program.steps):
        for place in step.targets:
            if place.codes.name not in sizes:
                size = sizes[place.codes.name] = _size(place.codes)
                total += 0 if free[size] else size
                free[size] -= 1 if free[size] else 0
        free.update(size for name, size in sizes.items() if last.get(name) == index)
    return total + _size(program.input)


def _size(codes: Codes) -> int:
    return padded(codes.channels) * codes.enlargement**2


class _Made:
    """Codes that steps have made so far, and their channels that have been written."""

    def __init__(self, given: Codes) -> None:
        self._codes = {given.name: given}
        self._written = {given.name: np.ones(given.channels, bool)}

    def check(self, place: Place, channels: int) -> None:
        """Refuse channels that nothing has made."""
        name = place.codes.name
        if self._codes.get(name) != place.codes:
            raise ValueError(f"nothing before it makes {name!r}")
        _check_room(place, channels)
        if not self._written[name][place.first : place.first + channels].all():
            raise ValueError(f"nothing before it makes all channels of {name!r}")

    def add(self, place: Place, channels: int) -> None:
        """Note that channels are written."""
        name = place.codes.name
        _check_codes(name, place.codes)
        if self._codes.setdefault(name, place.codes) != place.codes:
            raise ValueError(f"{name!r} has several forms")
        _check_room(place, channels)
        written = self._written.setdefault(name, np.zeros(place.codes.channels, bool))
        written[place.first : place.first + channels] = True


def _check_step(step: Step, made: _Made) -> None:
    """Check a step, and add what it makes to the codes that later ones may read."""
    for place in step.targets:
        if place.codes in [source.codes for source in step.sources]:
            raise ValueError(f"reads and writes {place.codes.name!r} at once")
    for name, value in _numbers(step):
        largest = np.abs(value).max(initial=0) if isinstance(value, np.ndarray) else abs(value)
        if not largest <= _LARGEST:
            raise ValueError(f"{name}: must be finite, and at most {_LARGEST:g}")
        if name.rpartition(".")[2] in ("low", "high") and not 0 <= value <= 255:
            raise ValueError(f"{name} {value}: must be 0 to 255")
    factor, enlargement = 1, step.source.codes.enlargement
    match step:
        case Convolution():
            outputs, inputs = _check_convolution(step)
            made.check(step.source, inputs)
            if step.skip is not None:
                made.check(step.skip.place, outputs)
        case Recode():
            outputs = step.channels
            _check_table("table", step.table, outputs)
            made.check(step.source, outputs)
        case Add() | AddByTable():
            outputs = step.channels
            if isinstance(step, AddByTable):
                _check_table("table", step.table, outputs)
                _check_table("right_table", step.right_table, outputs)
            made.check(step.source, outputs)
            made.check(step.right, outputs)
        case Mix():
            outputs, factor = _check_mix(step, made)
        case Shuffle():
            outputs, factor = step.channels, step.factor
            if not 1 <= factor <= MAX_ENLARGEMENT:
                raise ValueError(f"factor {factor}: must be 1 to {MAX_ENLARGEMENT}")
            made.check(step.source, outputs * factor**2)
            if outputs * factor**2 != step.source.codes.channels:
                raise ValueError(f"must read all {step.source.codes.channels} channels")
        case _:
            raise ValueError("there is no such step")
    for place in step.targets:
        made.add(place, outputs)
    for place in step.sources:
        larger = isinstance(step, Mix) and place is step.right
        if place.codes.enlargement != (enlargement * factor if larger else enlargement):
            raise ValueError("its sources have different sizes")
    for place in step.targets:
        if place.codes.enlargement != enlargement * factor:
            raise ValueError(f"{place.codes.name!r} has another size than it makes")


def _check_convolution(step: Convolution) -> tuple[int, int]:
    """Check weights, vectors and places; return the numbers of outputs and inputs."""
    if step.weights.ndim != 4:
        raise ValueError(f"weights: shape {list(step.weights.shape)}")
    outputs, inputs, height, width = step.weights.shape
    if height != width or height % 2 == 0 or height > MAX_WINDOW:
        raise ValueError(f"a window of {height}x{width}: must be odd, and at most {MAX_WINDOW}")
    vectors = {"scale": step.scale, "bias": step.bias}
    if step.slope is not None:
        vectors["slope"] = step.slope
    if step.again is not None:
        vectors["again.bias"] = step.again.bias
    for name, vector in vectors.items():
        _shaped(name, vector, (outputs,))
    for place in (*step.sources, *step.targets):
        if place.first % CHANNELS:  # kernels read and write whole blocks of channels
            raise ValueError(f"channel {place.first} is no multiple of {CHANNELS}")
    return outputs, inputs


def _check_mix(step: Mix, made: _Made) -> tuple[int, int]:
    """Check phases, weights and places; return the number of outputs and the factor."""
    if step.phases.ndim != 2 or step.weights.ndim != 2 or step.right_weights.ndim != 2:
        raise ValueError("phases and weights: must be matrices")
    factor, taps = step.phases.shape
    outputs, inputs = step.weights.shape
    others = step.right_weights.shape[1]
    if not 1 <= factor <= MAX_ENLARGEMENT:
        raise ValueError(f"factor {factor}: must be 1 to {MAX_ENLARGEMENT}")
    if taps > MAX_TAPS or taps % 2 == 0:
        raise ValueError(f"{taps} taps: must be odd, and at most {MAX_TAPS}")
    if inputs > MAX_INPUTS:
        raise ValueError(f"{inputs} channels are enlarged: must be at most {MAX_INPUTS}")
    _shaped("right_weights", step.right_weights, (outputs, others))
    _shaped("constant", step.constant, (outputs,))
    made.check(step.source, inputs)
    if (step.right is None) != (others == 0):
        raise ValueError("right: must be there if right_weights has channels, and only then")
    if step.right is not None:
        made.check(step.right, others)
    return outputs, factor


def _check_table(name: str, table: NDArray[Any], channels: int) -> None:
    if table.shape not in ((256,), (channels, 256)):
        raise ValueError(f"{name}: shape {list(table.shape)}")


def _check_room(place: Place, channels: int) -> None:
    name, there = place.codes.name, place.codes.channels
    if not (channels >= 1 and 0 <= place.first <= there - channels):
        raise ValueError(f"{channels} channels from {place.first} on: {name!r} has {there}")


def _check_codes(name: str, codes: Codes) -> None:
    if not name:
        raise ValueError("the name of codes is empty")
    limits = {"channels": MAX_CHANNELS, "enlargement": MAX_ENLARGEMENT}
    for field, most in limits.items():
        if not 1 <= getattr(codes, field) <= most:
            raise ValueError(f"{name}: {field} {getattr(codes, field)}: must be 1 to {most}")
    if not 0 <= codes.low <= codes.high <= 255 or not 0 <= codes.zero <= 255:
        raise ValueError(f"{name}: low, high and zero must be codes, 0 to 255")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers and vectors of a step with their names, but those of places."""
    for field in fields(value):
        inner = getattr(value, field.name)
        path = f"{name}.{field.name}".lstrip(".")
        if isinstance(inner, int | float) or getattr(inner, "dtype", None) == np.float32:
            yield path, inner
        elif is_dataclass(inner) and not isinstance(inner, Place):
            yield from _numbers(inner, path)


def _shaped(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: shape {list(array.shape)}, must be {list(shape)}")
