"""Programs in files: plain values for JSON, and arrays by name.

Both directions follow the types of the fields in ``program.py``. A step or a field that is added
there needs nothing here; a change of what a field means needs another ``FORMAT``.
"""

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sr_quant_cli.kernels.checks import check_program
from sr_quant_cli.kernels.program import Codes, Program
from sr_quant_cli.system.files import replacing

FORMAT = 1
"""Version of what the values mean."""

_LONGEST_NAME = 80

Arrays = Mapping[str, NDArray[Any]]


def to_plain(program: Program) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Plain values of a program for JSON, and its arrays by their names.

    >>> from sr_quant_cli.kernels.program import Place, Recode
    >>> lr, sr = Codes("lr", 3, 1, 0, 0, 255), Codes("sr", 3, 1, 0, 0, 255)
    >>> same = Recode(Place(lr), Place(sr), 3, np.arange(256, dtype=np.uint8))
    >>> plain, arrays = to_plain(Program(1, 0, np.zeros((3, 256), np.uint8), lr, (same,), sr))
    >>> plain["steps"][0]["source"], plain["steps"][0]["table"], list(arrays)
    ({'codes': 'lr', 'first': 0}, 'steps.0.table', ['tables', 'steps.0.table'])
    """
    writer = _Writer()
    values = writer.plain(program, Program, "")
    return {**values, "codes": writer.codes}, writer.arrays


def from_plain(values: Any, arrays: Arrays) -> Program:
    """Undo ``to_plain`` with values from a file, all of which are checked.

    Raises
    ------
    ValueError
        With the place in the program, and what is wrong there.
    """
    if not isinstance(values, dict) or not isinstance(values.get("codes"), dict):
        raise ValueError("must be a table with codes")
    codes = {
        name: _Reader(arrays, {}).record(value, Codes, f"codes.{name[:_LONGEST_NAME]}")
        for name, value in values["codes"].items()
    }
    if any(name != made.name or len(name) > _LONGEST_NAME for name, made in codes.items()):
        raise ValueError("codes: must have their own names")
    rest = {name: value for name, value in values.items() if name != "codes"}
    program: Program = _Reader(arrays, codes).record(rest, Program, "")
    check_program(program)
    return program


def save_program(path: Path, program: Program) -> None:
    """Write a program to a file of its own, atomically, with a hash that reveals damage.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    plain, arrays = to_plain(program)
    text = json.dumps(plain)
    metadata = {"format": str(FORMAT), "program": text, "sha256": hash_of(arrays, text)}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata)


def load_program(path: Path) -> Program | None:
    """Read a program from its file; None: it is missing, damaged, or of another format."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["program"]
        if (metadata["format"], metadata["sha256"]) != (str(FORMAT), hash_of(arrays, text)):
            return None
        return from_plain(json.loads(text), arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def hash_of(arrays: Arrays, text: str = "") -> str:
    """Hash of named arrays and a text."""
    digest = sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class _Writer:
    """Collects the arrays and codes of a program."""

    def __init__(self) -> None:
        self.codes: dict[str, Any] = {}
        self.arrays: dict[str, NDArray[Any]] = {}

    def plain(self, value: Any, hint: Any, path: str) -> Any:
        """Plain value of a field."""
        if isinstance(value, np.ndarray):
            self.arrays[path] = value
            return path
        if isinstance(value, tuple):
            inner = get_args(hint)[0]
            return [self.plain(x, inner, f"{path}.{index}") for index, x in enumerate(value)]
        if not is_dataclass(value):
            return value.item() if isinstance(value, np.generic) else value
        made = {
            name: self.plain(getattr(value, name), inner, f"{path}.{name}".lstrip("."))
            for name, inner in _hints(value.__class__).items()
        }
        if isinstance(value, Codes):
            self.codes[value.name] = made
            return value.name if path else made
        return {"kind": type(value).__name__, **made} if len(_records(hint)) > 1 else made


class _Reader:
    """Makes values of the types that the fields state, or raises ``ValueError``."""

    def __init__(self, arrays: Arrays, codes: Mapping[str, Codes]) -> None:
        self._arrays, self._codes = arrays, codes

    def record(self, value: Any, cls: type, path: str) -> Any:
        """Make a dataclass of a table with all its fields and no other."""
        hints = _hints(cls)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise ValueError(f"{path or 'program'}: must be a table of {', '.join(hints)}")
        return cls(
            **{
                name: self._value(value[name], hint, f"{path}.{name}".lstrip("."))
                for name, hint in hints.items()
            }
        )

    def _value(self, value: Any, hint: Any, path: str) -> Any:
        options = _options(hint)
        if value is None and types.NoneType in options:
            return None
        records = _records(hint)
        if len(records) > 1:
            kinds = {cls.__name__: cls for cls in records}
            kind = value.get("kind") if isinstance(value, dict) else None
            if not isinstance(kind, str) or kind not in kinds:
                raise ValueError(f"{path}: its kind must be one of {', '.join(kinds)}")
            rest = {name: inner for name, inner in value.items() if name != "kind"}
            return self.record(rest, kinds[kind], path)
        hint = next(option for option in options if option is not types.NoneType)
        if hint is Codes and self._codes:
            if not isinstance(value, str) or value not in self._codes:
                raise ValueError(f"{path}: must be the name of codes")
            return self._codes[value]
        if records:
            return self.record(value, hint, path)
        origin = get_origin(hint)
        if origin is tuple:
            if not isinstance(value, list):
                raise ValueError(f"{path}: must be a list")
            inner = get_args(hint)[0]
            return tuple(
                self._value(item, inner, f"{path}.{index}") for index, item in enumerate(value)
            )
        if origin is np.ndarray:
            return self._array(value, np.dtype(get_args(get_args(hint)[1])[0]), path)
        if hint is float and type(value) is int:
            value = float(value)
        if type(value) is not hint:
            raise ValueError(f"{path}: must be {_WORDS[hint]}")
        return value

    def _array(self, name: Any, dtype: np.dtype[Any], path: str) -> NDArray[Any]:
        array = self._arrays.get(name) if isinstance(name, str) else None
        if array is None:
            raise ValueError(f"{path}: must be the name of an array")
        if array.dtype != dtype:
            raise ValueError(f"{path}: is {array.dtype}, must be {dtype}")
        return np.ascontiguousarray(array)


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of the fields of a dataclass."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


@cache
def _options(hint: Any) -> tuple[Any, ...]:
    """Types of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


@cache
def _records(hint: Any) -> list[type]:
    """Dataclasses among the types of a union."""
    return [
        option for option in _options(hint) if isinstance(option, type) and is_dataclass(option)
    ]
