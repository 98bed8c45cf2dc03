"""srq's model file: ``.safetensors`` with all that rebuilds the network in its header.

The metadata entry ``srq`` of the header is JSON: format version, network configuration, range and
colour order of input and output, quantization, and the card. Quantization names the method and the
bits of every site. Files that name no sites (of format 1, and early ones of format 2) have the
placement alone, from which the bits follow. ``codes.py`` describes the tensors of quantized layers.

Loading never runs code and trusts no file: the header is validated, a network is never built larger
than its tensors can fill, and names, shapes, dtypes and values are compared before any is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr_quant_cli import __version__
from sr_quant_cli.errors import FailedError, UsageError, first_line
from sr_quant_cli.methods import REGISTRY as METHODS
from sr_quant_cli.modelfiles.card import Card, SetScore
from sr_quant_cli.modelfiles.codes import CODES, INPUTS, pack_tensors, unpack_tensors
from sr_quant_cli.modelfiles.programs import ENTRY, PREFIX, ShippedProgram, entry_of
from sr_quant_cli.modelfiles.quantization import QuantizationHeader
from sr_quant_cli.networks import REGISTRY as NETWORKS
from sr_quant_cli.networks import build, config_class
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.limits import TooLargeError, at_most, check_tensors
from sr_quant_cli.passes.apply import apply_plan
from sr_quant_cli.plugins import Origin
from sr_quant_cli.quant.widths import MIN_BITS
from sr_quant_cli.strict import Strict, in_words
from sr_quant_cli.system.files import replacing

_ROOM = 2**22
"""Values that a network may have besides those of its file: tables that are computed."""


PluginKind = Literal["method", "network"]


class PluginHeader(Strict):
    """Plugin that a method or a network comes from: a package with its version, or a file."""

    package: str = ""
    version: str = ""
    file: str = ""


class Header(Strict):
    """The ``srq`` metadata entry of a model file."""

    format: Literal[1, 2] = 2
    version: str = __version__
    network: dict[str, Any]
    quantization: QuantizationHeader | None = None
    inputs: list[str] | None = None
    """paths of the activations' quantizers, a row of ``input_levels`` each; None: of format 1"""
    input: Literal["RGB, 0..1, NCHW"] = "RGB, 0..1, NCHW"
    output: Literal["RGB, 0..1, NCHW"] = "RGB, 0..1, NCHW"
    card: Card = Field(default_factory=Card)
    plugins: dict[PluginKind, PluginHeader] = Field(default_factory=dict)
    """plugins that the file needs; left out where there are none"""

    @model_serializer(mode="wrap")
    def _without_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if key != "plugins" or value}

    def origin(self, kind: PluginKind) -> Origin | None:
        """Plugin that the method or the network comes from; None: it is srq's own."""
        plugin = self.plugins.get(kind)
        return None if plugin is None else Origin(plugin.package, plugin.version, plugin.file)


def save_model(path: Path, network: Network, card: Card, *, packed: bool = True) -> None:
    """Write a model file, atomically: float32, and codes of the quantized weights.

    Parameters
    ----------
    packed
        False: keep the float weights behind the codes, so that training can go on.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    tensors = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    header = header_of(network, card)
    if packed:
        header = header.model_copy(update={"inputs": pack_tensors(tensors, network)})
    _write(path, tensors, header)


def header_of(network: Network, card: Card) -> Header:
    """Header of a network's model file."""
    quantization = network.quantization
    origins: dict[PluginKind, Origin | None] = {"network": NETWORKS.origin(network.config.name)}
    if quantization is not None:
        origins["method"] = METHODS.origin(quantization.method.name)
    return Header(
        plugins={
            kind: PluginHeader(**asdict(origin))
            for kind, origin in origins.items()
            if origin is not None
        },
        network=network.config.model_dump(),
        quantization=None if quantization is None else QuantizationHeader.of(quantization),
        card=card,
    )


def pack_model(source: Path, target: Path, changes: dict[str, str], *, half: bool) -> None:
    """Copy a model file for release, with entries of its card changed.

    Parameters
    ----------
    changes
        New values of ``name``, ``data`` or ``licence``.
    half
        Store the weights as float16: half the size, a relative rounding error below 2**-11.

    Raises
    ------
    UsageError
        ``source`` is no model file, or has weights that float16 does not hold.
    FailedError
        ``target`` cannot be written.
    """
    header, tensors = _read(source)
    program = _program_of(source)
    if half and header.quantization is not None:
        raise UsageError(f"{source} is quantized, its weights are codes already", field="half")
    if half:
        tensors = {
            key: value.half() if value.is_floating_point() else value
            for key, value in tensors.items()
        }
        with _misfits(source, "float16 weights"):
            check_tensors(tensors)
    card = header.card.model_copy(update=changes)
    _write(target, tensors, header.model_copy(update={"card": card}), program)


def ship_program(path: Path, shipped: ShippedProgram) -> None:
    """Put a program for srq's own kernels into a model file, in the place of an earlier one.

    Raises
    ------
    UsageError
        ``path`` is no srq model file.
    FailedError
        It cannot be written.
    """
    header, tensors = _read(path)
    text, arrays = entry_of(shipped, {key: value.numpy() for key, value in tensors.items()})
    added = {key: torch.from_numpy(array) for key, array in arrays.items()}
    _write(path, tensors, header, _Program(text, added))


def record_scores(path: Path, scores: list[SetScore]) -> None:
    """Put scores into the card of a model file, replacing those of the same set and protocol.

    Raises
    ------
    UsageError
        ``path`` is no srq model file.
    FailedError
        It cannot be written.
    """
    header, tensors = _read(path)
    program = _program_of(path)
    replaced = {(score.bench, score.protocol) for score in scores}
    kept = [s for s in header.card.scores if (s.bench, s.protocol) not in replaced]
    card = header.card.model_copy(update={"scores": [*kept, *scores]})
    _write(path, tensors, header.model_copy(update={"card": card}), program)


def read_header(path: Path) -> Header:
    """Read the header alone.

    Raises
    ------
    UsageError
        The file is missing, damaged, or not srq's.
    """
    if not path.is_file():
        raise UsageError(f"no such model file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("srq")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable srq model file: {first_line(error)}") from error
    if text is None:
        raise UsageError(f"{path} is no srq model: its header has no 'srq' entry")
    with _misfits(path, "header"):
        return Header.model_validate_json(text)


def is_packed(path: Path) -> bool:
    """Tell if a model file holds packed codes in the place of float weights.

    Raises
    ------
    UsageError
        The file is missing, damaged, or not srq's.
    """
    read_header(path)
    with safe_open(path, framework="pt") as file:
        return any(key.endswith(f".{CODES}") for key in file.keys())  # noqa: SIM118 - no mapping


def load_model(path: Path) -> tuple[Network, Header]:
    """Rebuild a network in float32, in evaluation mode, on the CPU.

    Quantized weights are decoded to their levels: the outputs are those of the network that was
    saved, bit for bit.

    Raises
    ------
    UsageError
        The file is missing, damaged, not srq's, or its tensors do not fit its configuration.
    """
    header, tensors = _read(path)
    with _misfits(path, "network"):
        name, origin = str(header.network.get("name")), header.origin("network")
        config = config_class(name, origin).model_validate(header.network)
        try:
            with at_most(2 * _room(tensors) + _ROOM, 4 * len(tensors) + 1000):
                network = build(config)
        except TooLargeError as error:
            raise ValueError("far larger than the tensors of the file") from error
    if header.quantization is not None:
        with _misfits(path, "quantization"):
            apply_plan(network, *header.quantization.resolve(network, header.origin("method")))
            if any(key.endswith(f".{CODES}") for key in tensors):
                unpack_tensors(tensors, network, header.inputs)
    with _misfits(path, "tensors"):
        _check_fit(network, tensors)
    network.load_state_dict({key: _float(value) for key, value in tensors.items()})
    return network.eval(), header


def _check_fit(network: Network, tensors: dict[str, Tensor]) -> None:
    """Compare names, shapes and kinds of numbers with those of a network."""
    here = network.state_dict()
    kind = network.config.name
    for name in here.keys() - tensors.keys():
        raise ValueError(f"{name} is missing, which this {kind} has")
    for name, tensor in tensors.items():
        if name not in here:
            raise ValueError(f"{name} is no tensor of this {kind}")
        if tensor.shape != here[name].shape:
            there, own = list(tensor.shape), list(here[name].shape)
            raise ValueError(f"{name} is {there}, in this {kind} {own}")
        if tensor.dtype != here[name].dtype and not (
            tensor.is_floating_point() and here[name].is_floating_point()
        ):
            raise ValueError(f"{name} is {tensor.dtype}, in this {kind} {here[name].dtype}")
        if name.endswith(".batches") and not tensor:
            raise ValueError(f"the range of {name.removesuffix('.batches')} was not calibrated")


@contextmanager
def _misfits(path: Path, part: str) -> Iterator[None]:
    """Refuse a file, with the part of it that is wrong."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:200]
        raise UsageError(f"{path}, {part}: {place or 'JSON'}: {in_words(first)}") from error
    except (UsageError, ValueError) as error:
        raise UsageError(f"{path}, {part}: {first_line(error)}") from error


def _room(tensors: dict[str, Tensor]) -> int:
    """Most values that a network of these tensors can have: a byte holds four codes of 2 bits."""
    return sum(
        value.numel() * (8 // MIN_BITS if key.endswith(f".{CODES}") else 1)
        for key, value in tensors.items()
    )


def _float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


@dataclass(frozen=True)
class _Program:
    """A program for srq's own kernels, as it is in a file: its entry and its tensors."""

    entry: str
    tensors: dict[str, Tensor]


def _program_of(path: Path) -> _Program | None:
    """Program of a model file, unread; None: it has none."""
    with safe_open(path, framework="pt") as file:
        entry = (file.metadata() or {}).get(ENTRY)
        names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    return None if entry is None else _Program(entry, tensors)


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Read the header and the tensors of the network."""
    header = read_header(path)
    try:
        tensors = load_file(path)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(PREFIX)}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable srq model file: {first_line(error)}") from error
    with _misfits(path, "tensors"):
        # Rows of NaN stand for ranges that are stored elsewhere.
        check_tensors({key: value for key, value in tensors.items() if key != INPUTS})
    return header, tensors


def _write(
    path: Path, tensors: dict[str, Tensor], header: Header, program: _Program | None = None
) -> None:
    whole = {key: value.contiguous() for key, value in tensors.items()}
    metadata = {"srq": header.model_dump_json()}
    if program is not None:
        whole |= program.tensors
        metadata[ENTRY] = program.entry
    with replacing(path) as temporary:
        try:
            save_file(whole, temporary, metadata=metadata)
        except SafetensorError as error:
            raise FailedError(f"cannot write {path}: {first_line(error)}") from error
