"""Traits from a file are checked before they are used."""

import json
from dataclasses import asdict

import onnx
import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.lowering.graph import describe, traits_of
from sr_quant_cli.runtimes.base import ModelTraits
from tests.helpers import nearest_onnx

SOUND = asdict(ModelTraits("tiny", 2, 5, 400))


def test_traits_are_read_as_they_were_written():
    assert ModelTraits.of(SOUND) == ModelTraits("tiny", 2, 5, 400)
    assert ModelTraits.of({"name": "t", "scale": 16, "receptive_radius": 0, "bytes_per_pixel": 1})


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("scale", [0, 1, -2, "2", None, 2.0, 1e9, 17, True, [2]]),
        ("receptive_radius", [-5, "1", 1e300, 10**6]),
        ("bytes_per_pixel", [0, -100, "x", 2**60]),
        ("least", ["a", 0]),
        ("alignment", [0, None]),
        ("dynamic", [1, "yes"]),
        ("name", [3, None, "\x1b]0;title\x07", "two\nlines"]),
    ],
)
def test_traits_that_cannot_be_are_named(key, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{key} = "):
            ModelTraits.of({**SOUND, key: value})


@pytest.mark.parametrize("values", [None, 3, [], {}, {**SOUND, "more": 1}, {"scale": 2}])
def test_what_are_no_traits_is_an_error(values):
    with pytest.raises(ValueError, match=r"must be a table|missing or unknown"):
        ModelTraits.of(values)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            json.dumps({"facts": {**SOUND, "scale": 0}}),
            "scale = 0: must be an integer from 2 to 16",
        ),
        (json.dumps({"facts": [2]}), "must be a table"),
        ("[" * 100_000, "no metadata of this srq"),
        ("nonsense", "no metadata of this srq"),
        ("[]", "no metadata of this srq"),
    ],
)
def test_metadata_of_a_graph_that_lie_are_refused(tmp_path, entry, message):
    path = nearest_onnx(tmp_path / "n.onnx")
    assert traits_of(path) is None
    model = onnx.load(path)
    describe(model, ModelTraits.of(SOUND))
    onnx.save(model, path)
    assert traits_of(path) == ModelTraits.of(SOUND)
    onnx.helper.set_model_props(model, {"srq": entry})
    onnx.save(model, path)
    with pytest.raises(UsageError, match=message) as told:
        traits_of(path)
    assert str(told.value).startswith(f"{path}: ")
    assert "\n" not in str(told.value)
