"""Model files whose header, codes, program or bytes are not to be trusted."""

import json
import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.corpus import DAMAGES, damaged, joined, split
from tests.hostile.processes import sizes, survive

COMMANDS = ("info", "upscale", "models show", "pack")
ALL = ["info", *(pytest.param(each, marks=pytest.mark.hostile) for each in COMMANDS[1:])]


@pytest.fixture(scope="module")
def contents(models):
    return {name: path.read_bytes() for name, path in models.items()}


def use(place, content, command, **changes):
    """Give a model file to a command."""
    model = place.put("m.safetensors", content)
    words = [*command.split(), model]
    match command:
        case "upscale":
            words = ["upscale", place.small, "-o", place.made / "o.png", "--model", model]
        case "pack":
            words += ["-o", place.made / "packed.safetensors"]
        case "info --layers":
            words += ["--data", "sample"]
    return place.attack(*words, **changes)


@pytest.mark.parametrize("command", ALL)
def test_the_files_themselves_are_read(place, contents, command):
    for content in contents.values():
        assert use(place, content, command).code == 0
        place.clear()


@sizes(part=10, whole=3 * 11 * 4 * 2)
def test_damaged_model_files(place, contents, size):
    def case(name, damage, command, seed):
        use(place, damaged(contents[name], damage, f"{name} {seed}"), command)

    every = [
        (name, damage, command, seed)
        for seed in range(2)
        for name in sorted(contents)
        for damage in DAMAGES
        for command in COMMANDS
    ]
    survive(place, case, size.sample(every))


@sizes(part=6, whole=150)
def test_headers_with_changed_letters(place, contents, size):
    """The text of the header stays JSON more often than not."""

    def case(name, seed):
        draw = Random(f"{name} {seed}")
        content = bytearray(contents[name])
        (length,) = struct.unpack_from("<Q", content)
        for _ in range(draw.randint(1, 3)):
            content[8 + draw.randrange(length)] = draw.choice(b'0123456789-.e{}[],:"\\ntfalse')
        use(place, bytes(content), draw.choice(COMMANDS))

    every = [(name, seed) for seed in range(50) for name in sorted(contents)]
    survive(place, case, size.sample(every))


NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, -(2**31), 2**63, 2**64, 10**30, 1e308, -1e308, 0.5, 1e-320]),
    st.floats(),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
"""Values of JSON, extreme numbers among them."""


def _paths(value, path=()):
    """Paths of all values within a value of JSON."""
    yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _paths(item, (*path, key))


def _put(value, path, new):
    """A copy of a value of JSON with another value at a path; ``DROP`` removes it."""
    if not path:
        return new
    copy = value.copy()
    if new is DROP and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = _put(value[path[0]], path[1:], new)
    return copy


DROP = object()


@st.composite
def changed(draw, value):
    """A value of JSON, with one to three values replaced or removed."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(_paths(value))[1:] or [()]))
        value = _put(value, path, draw(VALUES | st.just(DROP) if path else VALUES))
        if not isinstance(value, dict | list):
            break
    return value


@pytest.mark.parametrize("entry", ["srq", "srq_program", "tensors"])
@sizes(part=2, whole=70)
def test_changed_entries_of_the_header(place, contents, entry, size):
    """The JSON of model, program and tensors, with values of other kinds and sizes."""
    header, tensors = split(contents["program"])
    whole = header if entry == "tensors" else json.loads(header["__metadata__"][entry])

    @size.examples
    @given(changed(whole), st.sampled_from(COMMANDS))
    def attack(value, command):
        written = value
        if entry != "tensors":
            metadata = header["__metadata__"] | {entry: json.dumps(value)}
            written = header | {"__metadata__": metadata}
        use(place, joined(written, tensors), command)
        place.clear()

    attack()


CRAFTED = {
    "no length": b"",
    "length alone": struct.pack("<Q", 8),
    "endless": struct.pack("<Q", 2**63) + b"{}",
    "longer than the file": struct.pack("<Q", 2**30) + b"{}",
    "no JSON": joined(b"\xff\xfe", b""),
    "deep": joined(b"[" * 200_000, b""),
    "deep table": joined(b'{"a":' * 200_000, b""),
    "long number": joined(b'{"a": ' + b"9" * 100_000 + b"}", b""),
    "same keys": joined(b"{" + b'"a":{},' * 50_000 + b'"b":{}}', b""),
    "huge tensor": joined(
        {"t": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, b""
    ),
    "overflow": joined(
        {"t": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}, b""
    ),
    "negative": joined({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, b""),
    "overlapping": joined(
        {k: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for k in "ab"}, bytes(4)
    ),
    "escapes": joined({"__metadata__": {"srq": '{"\x1b]0;x\x07": 1}', "\x1b[2J": "a"}}, b""),
    "many tensors": joined(
        {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(50_000)}, b""
    ),
}


@pytest.mark.parametrize("command", ALL)
def test_crafted_headers(place, command):
    def case(name):
        # The card of a file that is not srq's is only its name.
        expected = (0, 2) if command == "models show" else (2,)
        assert use(place, CRAFTED[name], command, cpu=20).code in expected

    survive(place, case, [(name,) for name in CRAFTED])
