"""Programs as plain values and arrays: round trips, and hostile ones, which no kernel may see."""

import json
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest

from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.kernels.checks import bytes_per_pixel, check_program
from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.from_graph import compile_graph
from sr_quant_cli.kernels.program import Step
from sr_quant_cli.kernels.program_file import from_plain, to_plain
from tests.helpers import picture
from tests.kernels.programs import every_step
from tests.kernels.test_graphs import NETWORKS, graph


def read_again(program):
    plain, arrays = to_plain(program)
    return from_plain(json.loads(json.dumps(plain)), arrays)


def equal(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(
            equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)
        )
    return type(a) is type(b) and a == b


def test_every_step_comes_back():
    program = every_step()
    assert {type(step) for step in program.steps} == set(get_args(Step))
    assert equal(read_again(program), program)
    other = replace(program, steps=(*program.steps[:-1], replace(program.steps[-1], low=3)))
    assert not equal(other, program)


@pytest.mark.parametrize("name", NETWORKS)
def test_programs_of_networks_come_back(name):
    program = compile_graph(graph(name))
    again = read_again(program)
    assert to_plain(again)[0] == to_plain(program)[0]
    arrays = to_plain(program)[1]
    assert all(np.array_equal(array, arrays[key]) for key, array in to_plain(again)[1].items())
    if not kernels.missing():
        lr = picture(13, 18, seed=1)
        assert np.array_equal(Executor(again, 1)(lr), Executor(program, 1)(lr))


def test_codes_of_one_size_share_memory():
    # lr, wide, beside, sum, and two with 4 pixels for each; the others lie where those were.
    assert bytes_per_pixel(every_step()) == 16 + 32 + 16 + 16 + 2 * 4 * 16


def at(plain, path, value):
    """Change the value at a path such as ``steps.0.low``; ``...`` removes it."""
    *before, last = path.split(".")
    for key in before:
        plain = plain[int(key)] if isinstance(plain, list) else plain[key]
    if value is ...:
        del plain[last]
    else:
        plain[int(last) if isinstance(plain, list) else last] = value


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("scale", 0, "scale 0: must be 1 to 16"),
        ("scale", 3, "output: must have 3 channels, and 3 times"),
        ("surround", -1, "surround -1"),
        ("surround", 10**9, "surround 1000000000"),
        ("surround", True, "surround: must be a whole number"),
        ("input", "sr", "input: must have 3 channels, and the size"),
        ("output", "lr", "output: is the input"),
        ("output", "beside", "output: must have 3 channels"),
        ("output", "none", "output: must be the name of codes"),
        ("steps", [], "0 steps"),
        ("steps", {}, "steps: must be a list"),
        ("steps", [[[]]], "steps.0: its kind must be one of Convolution, "),
        ("steps.0.kind", "Exec", "steps.0: its kind must be one of"),
        ("steps.0.kind", ["Add"], "steps.0: its kind must be one of"),
        ("steps.0.more", 1, "steps.0: must be a table of source, "),
        ("steps.0.zero", ..., "steps.0: must be a table of source, "),
        ("steps.0.zero", float("nan"), r"steps.0 \(Convolution\): zero: must be finite"),
        ("steps.0.zero", float("inf"), r"steps.0 \(Convolution\): zero: must be finite"),
        ("steps.0.zero", "0", "steps.0.zero: must be a number"),
        ("steps.0.low", -1, r"low -1: must be 0 to 255"),
        ("steps.0.high", 256, r"high 256: must be 0 to 255"),
        ("steps.0.low", 0.5, r"steps.0.low: must be a whole number"),
        ("steps.0.source.codes", "wide", r"reads and writes 'wide' at once"),
        ("steps.0.source.codes", "both", r"nothing before it makes 'both'"),
        ("steps.1.target.first", 0, r"nothing before it makes all channels of 'wide'"),
        ("steps.0.source.first", 16, r"3 channels from 16 on: 'lr' has 3"),
        ("steps.0.source.first", -16, r"3 channels from -16 on"),
        ("steps.0.target.first", 32, r"16 channels from 32 on: 'wide' has 32"),
        ("steps.0.target.first", 8, r"channel 8 is no multiple of 16"),
        ("steps.0.target.codes", "lr", r"reads and writes 'lr' at once"),
        ("steps.0.target.codes", "sr", r"16 channels from 0 on: 'sr' has 3"),
        ("steps.0.weights", "steps.1.table", r"steps.0.weights: is uint8, must be int8"),
        ("steps.0.weights", "elsewhere", r"steps.0.weights: must be the name of an array"),
        ("steps.0.weights", 3, r"steps.0.weights: must be the name of an array"),
        ("steps.0.weights", "steps.4.weights", r"scale: shape \[16\], must be \[12\]"),
        ("steps.0.scale", "steps.4.scale", r"scale: shape \[12\], must be \[16\]"),
        ("steps.0.again.bias", "steps.4.bias", r"again.bias: shape \[12\]"),
        ("steps.0.again.place.codes", "before", r"16 channels from 0 on: 'before' has 12"),
        ("steps.0.again.high", 300, r"again.high 300: must be 0 to 255"),
        ("steps.1.table", "tables", r"table: shape \[3, 256\]"),
        ("steps.1.channels", 17, r"table: shape \[16, 256\]"),
        ("steps.2.skip.place.codes", "sr", r"nothing before it makes 'sr'"),
        ("steps.2.skip.place.first", 16, r"16 channels from 16 on: 'beside' has 16"),
        ("steps.2.skip.own", 1e30, r"skip.own: must be finite, and at most 1e\+12"),
        ("steps.2.slope", "steps.4.scale", r"slope: shape \[12\]"),
        ("steps.3.channels", 17, r"17 channels from 0 on"),
        ("steps.3.channels", -1, r"-1 channels"),
        ("steps.3.right.first", 1, r"16 channels from 1 on"),
        ("steps.5.factor", 0, r"factor 0: must be 1 to 16"),
        ("steps.5.factor", 3, r"27 channels from 0 on: 'before' has 12"),
        ("steps.5.channels", 4, r"16 channels from 0 on: 'before' has 12"),
        ("steps.5.channels", 2, r"must read all 12 channels"),
        ("steps.6.channels", 17, r"table: shape \[16, 256\]"),
        ("steps.6.table", "steps.1.table", r"steps.6.table: is uint8, must be float32"),
        ("steps.6.right_table", "steps.7.phases", r"right_table: shape \[2, 5\]"),
        ("steps.6.right.first", 8, r"16 channels from 8 on: 'both' has 16"),
        ("steps.6.source.first", 17, r"16 channels from 17 on: 'wide' has 32"),
        ("steps.7.phases", "steps.6.table", r"factor 3?16|256 taps"),
        ("steps.7.phases", "steps.0.scale", r"phases and weights: must be matrices"),
        ("steps.7.phases", "steps.7.weights", r"has another size|different sizes"),
        ("steps.7.weights", "steps.7.phases", r"5 channels are enlarged"),
        ("steps.7.right_weights", "steps.7.phases", r"right_weights: shape \[2, 5\]"),
        ("steps.7.constant", "steps.0.bias", r"constant: shape \[16\], must be \[3\]"),
        ("steps.7.right", None, r"right: must be there if right_weights has channels"),
        ("steps.7.right.codes", "tabled", r"its sources have different sizes"),
        ("steps.7.right.first", 1, r"3 channels from 1 on: 'sr' has 3"),
        ("codes.sr.enlargement", 1, r"'sr' has another size than it makes"),
        ("codes.sr.enlargement", 17, r"enlargement 17: must be 1 to 16"),
        ("codes.wide.channels", 2**30, r"channels 1073741824: must be 1 to 16384"),
        ("codes.wide.low", -3, r"wide: low, high and zero must be codes"),
        ("codes.wide.zero", 256, r"wide: low, high and zero must be codes"),
        ("codes.wide.name", "sr", r"codes: must have their own names"),
        ("codes.wide", None, r"codes.wide: must be a table of name, "),
        ("codes", [], r"must be a table with codes"),
        ("tables", "steps.1.table", r"tables: shape \[16, 256\]"),
    ],
)  # fmt: skip
def test_hostile_programs_are_refused(path, value, problem):
    plain, arrays = to_plain(every_step())
    at(plain, path, value)
    with pytest.raises(ValueError, match=problem):
        from_plain(plain, arrays)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((16, 3, 3), "weights: shape"),
        ((16, 3, 3, 5), "a window of 3x5"),
        ((16, 3, 2, 2), "a window of 2x2"),
        ((16, 3, 17, 17), "a window of 17x17"),
        ((16, 19, 3, 3), "19 channels from 0 on: 'lr' has 3"),
        ((17, 3, 3, 3), r"scale: shape \[16\], must be \[17\]"),
        ((16, 0, 3, 3), "0 channels"),
    ],
)
def test_weights_of_other_shapes_are_refused(shape, problem):
    plain, arrays = to_plain(every_step())
    arrays["steps.0.weights"] = np.zeros(shape, np.int8)
    with pytest.raises(ValueError, match=problem):
        from_plain(plain, arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_vectors_must_be_finite(value):
    plain, arrays = to_plain(every_step())
    arrays["steps.0.scale"][3] = value
    with pytest.raises(ValueError, match=r"steps.0 \(Convolution\): scale: must be finite"):
        from_plain(plain, arrays)


@pytest.mark.parametrize("plain", [None, [], 3, {}, {"codes": {}}, {"codes": {"x": 3}}])
def test_other_values_are_refused(plain):
    with pytest.raises(ValueError, match="must be a table"):
        from_plain(plain, {})


def test_a_name_must_not_be_empty():
    plain, arrays = to_plain(every_step())
    named = json.loads(json.dumps(plain).replace('"wide"', '""'))
    with pytest.raises(ValueError, match="the name of codes is empty"):
        from_plain(named, arrays)


def test_too_many_weights_are_refused(monkeypatch):
    monkeypatch.setattr("sr_quant_cli.kernels.checks.MAX_WEIGHTS", 1000)
    with pytest.raises(ValueError, match="weights: must be at most 1,000"):
        read_again(every_step())


def test_too_many_steps_are_refused():
    program = every_step()
    with pytest.raises(ValueError, match="10001 steps"):
        check_program(replace(program, steps=program.steps[:1] * 10_001))
