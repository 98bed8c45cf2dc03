"""Programs that several test modules use; this module imports neither torch nor other runtimes."""

import numpy as np

from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.program import (
    Add,
    AddByTable,
    Again,
    Codes,
    Convolution,
    Mix,
    Place,
    Program,
    Recode,
    Shuffle,
    Skip,
)


def every_step():
    """A program with each kind of step, each field, and a concatenation."""
    rng = np.random.default_rng(0)
    lr = Codes("lr", 3, 1, 7, 0, 255)
    wide, beside = Codes("wide", 32, 1, 128, 0, 255), Codes("beside", 16, 1, 3, 0, 63)
    summed, both = Codes("sum", 16, 1, 0, 0, 255), Codes("both", 16, 1, 0, 0, 255)
    before, sr = Codes("before", 12, 1, 0, 0, 255), Codes("sr", 3, 2, 0, 0, 255)
    tabled, enlarged = Codes("tabled", 16, 1, 0, 0, 255), Codes("enlarged", 3, 2, 0, 0, 255)
    table = rng.integers(0, 256, (16, 256), np.uint8)
    slope = rng.random(16, np.float32)

    def convolution(source, target, outputs, size, **further):
        weights = rng.integers(-9, 10, (outputs, source.codes.channels, size, size), np.int8)
        scale, bias = rng.random((2, outputs), np.float32) / 50
        return Convolution(source, target, weights, scale, bias, low=0, high=255, **further)

    again = Again(Place(beside), 0.3, rng.random(16, np.float32), 0, 63)
    skip = Skip(Place(beside), 0.5, 0.25, 1.0, 3, 200)
    steps = (
        convolution(Place(lr), Place(wide), 16, 3, slope=None, zero=128.0, again=again),
        Recode(Place(beside), Place(wide, 16), 16, table),
        convolution(Place(wide), Place(summed), 16, 1, slope=slope, zero=5.0, skip=skip),
        Add(Place(wide), Place(both), Place(beside), 16, 0.5, 0.25, 1.0, 0, 255),
        convolution(Place(both), Place(before), 12, 5, slope=None, zero=0.0),
        Shuffle(Place(before), Place(sr), 3, 2),
        AddByTable(
            Place(wide, 16),
            Place(tabled),
            Place(both),
            16,
            rng.random((16, 256), np.float32) * 99,
            rng.random(256, np.float32) * 99,
            2,
            250,
        ),
        Mix(
            Place(lr),
            Place(enlarged),
            Place(sr),
            rng.random((2, 5), np.float32) / 5,
            rng.random((3, 3), np.float32) / 5,
            rng.random((3, 3), np.float32) / 5,
            rng.random(3, np.float32),
            0,
            255,
        ),
    )
    tables = rng.integers(0, 256, (3, 256), np.uint8)
    return Program(2, 1, tables, lr, steps, enlarged)


def few_bits():
    """A program whose convolutions run by each of Winograd's algorithms, and directly."""
    rng = np.random.default_rng(1)
    lr, wide = Codes("lr", 3, 1, 7, 0, 255), Codes("wide", 20, 1, 128, 0, 255)
    three, two = Codes("three", 20, 1, 2, 0, 7), Codes("two", 40, 1, 1, 0, 3)
    summed, four = Codes("sum", 20, 1, 90, 0, 255), Codes("four", 20, 1, 0, 0, 15)
    before, sr = Codes("before", 12, 1, 0, 0, 255), Codes("sr", 3, 2, 0, 0, 255)

    def convolution(source, target, largest, high, **further):
        outputs, inputs = target.channels, source.channels
        weights = rng.integers(-largest, largest + 1, (outputs, inputs, 3, 3), np.int8)
        # Sums of the whole range of codes fill that of the target.
        scale = high / (largest * source.high * 3 * inputs**0.5) * rng.uniform(0.5, 1, outputs)
        bias = rng.uniform(0.3, 0.7, outputs) * high
        vectors = scale.astype(np.float32), bias.astype(np.float32)
        further = {"slope": None, "zero": 0.0} | further
        return Convolution(
            Place(source), Place(target), weights, *vectors, low=0, high=high, **further
        )

    slope = rng.random(20, np.float32)
    steps = (
        convolution(lr, wide, 100, 255, again=Again(Place(three), 0.028, slope, 0, 7)),
        convolution(three, two, 2, 3),
        convolution(
            two,
            summed,
            1,
            255,
            slope=slope,
            zero=20.0,
            skip=Skip(Place(wide), 0.5, 0.4, 7.0, 3, 250),
            again=Again(Place(four), 0.06, slope, 0, 15),
        ),
        convolution(four, before, 7, 255),
        Shuffle(Place(before), Place(sr), 3, 2),
    )
    return Program(2, 1, rng.integers(0, 256, (3, 256), np.uint8), lr, steps, sr)


def check_parts(program):
    """Parts of a picture are the same whether they are made alone or with all of it."""
    lr = np.random.default_rng(4).integers(0, 256, (41, 52, 3), np.uint8)
    scale = program.scale
    for threads in (1, 2):
        enlarge = Executor(program, threads)
        whole = enlarge(lr)
        assert whole.shape == (41 * scale, 52 * scale, 3)
        for top, bottom, left, right in ((0, 20, 31, 52), (17, 24, 20, 33), (40, 41, 0, 52)):
            part = enlarge(lr, slice(top, bottom), slice(left, right))
            wanted = whole[scale * top : scale * bottom, scale * left : scale * right]
            assert np.array_equal(part, wanted)
