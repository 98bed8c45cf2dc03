"""Programs for srq's own kernels in model files; reading one takes neither torch nor pydantic.

The metadata entry ``srq_program`` beside ``srq`` is JSON: the format, traits of the network, the
steps, and a hash of the tensors that the program was made of. Vectors of the program are tensors
whose names begin with ``program.``. Weights are not stored again where the file has them already,
as packed codes of a layer: then ``packed`` says which tensor, how many bits a code has, the lowest
code, and the shape.

A file without the entry, with another format, or with tensors that were changed since has no
program. An entry that is damaged is an error.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sr_quant_cli.errors import UsageError, first_line
from sr_quant_cli.kernels.checks import MAX_WEIGHTS
from sr_quant_cli.kernels.program import Program
from sr_quant_cli.kernels.program_file import FORMAT, from_plain, hash_of, to_plain
from sr_quant_cli.modelfiles.named import header_text
from sr_quant_cli.quant.bitstream import from_stream, size_of
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.system.terminal import printable

ENTRY = "srq_program"
PREFIX = "program."

_CODES = ".weight_codes"
_LEVELS = ".weight_quantizer.levels"

Tensors = Mapping[str, NDArray[Any]]


@record
class ShippedProgram:
    """A program in a model file, with all that running it takes.

    Attributes
    ----------
    input_bits
        Bits of the input of the first layer.
    """

    program: Program
    traits: ModelTraits
    input_bits: int


@record
class _Packed:
    """Codes of a layer in a model file that are weights of a program, too."""

    tensor: str
    bits: int
    first: int
    """the lowest code"""
    shape: tuple[int, ...]

    def read(self, tensors: Tensors) -> NDArray[np.int8]:
        """Unpack the weights.

        Raises
        ------
        ValueError
            The codes are not there, or not as many.
        """
        packed, count = tensors.get(self.tensor), math.prod(self.shape)
        if packed is None or packed.dtype != np.uint8:
            raise ValueError(f"there are no codes {self.tensor[:80]!r}")
        if packed.shape != (size_of(count, self.bits),):
            raise ValueError(f"{self.tensor} has another length than {count} codes")
        codes = from_stream(packed, count, self.bits) + np.uint8(self.first % 256)
        return codes.view(np.int8).reshape(self.shape)


def entry_of(shipped: ShippedProgram, tensors: Tensors) -> tuple[str, dict[str, NDArray[Any]]]:
    """Metadata entry of a program, and the tensors to add to those of a model file."""
    plain, arrays = to_plain(shipped.program)
    packed = {
        name: found
        for name, array in arrays.items()
        if array.dtype == np.int8 and (found := _find_codes(array, tensors)) is not None
    }
    traits = asdict(shipped.traits)
    del traits["name"]  # that of the card
    values = {
        "format": FORMAT,
        "tensors": _hash(tensors),
        "traits": traits,
        "input_bits": shipped.input_bits,
        "packed": {name: asdict(codes) for name, codes in packed.items()},
        "program": plain,
    }
    added = {PREFIX + name: array for name, array in arrays.items() if name not in packed}
    return json.dumps(values), added


def read_program(path: Path) -> ShippedProgram | None:
    """Read the program of a model file; None: it has none that this version of srq can use.

    Raises
    ------
    UsageError
        The file is missing or damaged, or its program is.
    """
    try:
        header = json.loads(header_text(path).decode())
        metadata = header["__metadata__"]
        values = json.loads(metadata[ENTRY]) if ENTRY in metadata else {}
        known = values.get("format") == FORMAT
        card = json.loads(metadata["srq"])["card"]
        name = printable(str(card.get("name") or path.stem))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # what reads the whole header says what is wrong
    if not known:
        return None
    try:
        with safe_open(path, framework="np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no readable srq model file: {first_line(error)}") from error
    if values.get("tensors") != _hash(tensors):
        return None
    try:
        return _shipped(values, tensors, name)
    except ValueError as error:
        raise UsageError(f"{path}, program: {first_line(error)}") from error


def _shipped(values: Mapping[str, Any], tensors: Tensors, name: str) -> ShippedProgram:
    bits, packed, traits = (values.get(key) for key in ("input_bits", "packed", "traits"))
    if type(bits) is not int or not 1 <= bits <= 32:
        raise ValueError(f"input_bits {bits}: must be 1 to 32")
    if not isinstance(packed, dict) or not isinstance(traits, dict):
        raise ValueError("packed and traits must be tables")
    arrays = {key.removeprefix(PREFIX): array for key, array in tensors.items() if _added(key)}
    codes = {key: _packed(key, value) for key, value in packed.items()}
    if sum(math.prod(each.shape) for each in codes.values()) > MAX_WEIGHTS:
        raise ValueError(f"packed: must be at most {MAX_WEIGHTS:,} weights")
    arrays |= {key: each.read(tensors) for key, each in codes.items()}
    program = from_plain(values.get("program"), arrays)
    shipped = ShippedProgram(program, ModelTraits.of({**traits, "name": name}), bits)
    if shipped.traits.scale != program.scale:
        raise ValueError(f"scale {program.scale}: that of the network is {shipped.traits.scale}")
    return shipped


def _packed(key: str, values: Any) -> _Packed:
    try:
        made = _Packed(**{**values, "shape": tuple(values["shape"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"packed.{key[:80]}: a value is missing or unknown") from error
    numbers = (made.bits, made.first, *made.shape)
    if type(made.tensor) is not str or any(type(number) is not int for number in numbers):
        raise ValueError(f"packed.{key[:80]}: a value has another type")
    highest = made.first + 2**made.bits - 1 if 1 <= made.bits <= 8 else 256
    # Grids of 8 bits have a code that symmetric ones do not use, and may end at 128.
    if not -128 <= made.first <= highest <= 128 or min(made.shape, default=0) < 1:
        raise ValueError(f"packed.{key[:80]}: must be codes of 8 bits, signed")
    return made


def _find_codes(weights: NDArray[np.int8], tensors: Tensors) -> _Packed | None:
    """Find the layer whose codes are the weights of a program."""
    for name, packed in tensors.items():
        levels = tensors.get(name.removesuffix(_CODES) + _LEVELS)
        if not name.endswith(_CODES) or levels is None:
            continue
        for bits in range(2, 9):
            found = _Packed(name, bits, int(levels[0]), weights.shape)
            fits = packed.shape == (size_of(weights.size, bits),)
            if fits and np.array_equal(found.read(tensors), weights):
                return found
    return None


def _added(name: str) -> bool:
    return name.startswith(PREFIX)


def _hash(tensors: Tensors) -> str:
    """Hash of the tensors that belong to the network."""
    return hash_of({name: array for name, array in tensors.items() if not _added(name)})
