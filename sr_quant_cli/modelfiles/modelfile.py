"""The one model file: ``.safetensors`` with all that rebuilds the network in its header.

The header's metadata entry ``srq`` is JSON: format version, network name and configuration, the
range and colour order of input and output, how it was quantized, and the card. A weight on a grid
is stored as packed codes (``weight_codes``) with first code, origin and step of its grid
(``weight_quantizer.levels``). ``input_levels`` has a row for the grid of each activation, whatever
parameters it came from; the header's ``inputs`` names them, in files of format 1 they are in the
order of the modules. Where a range depends on the input the row is NaN, and the quantizer's own
state is stored.

Loading never runs code, and takes a file for a stranger's: the header is validated, no network is
built that is larger than its tensors can fill, and names, shapes, kinds and values are compared
before any is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, field_serializer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr_quant_cli import __version__
from sr_quant_cli.errors import FailedError, UsageError, first_line
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import config_class as method_config_class
from sr_quant_cli.networks import build, config_class
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.limits import TooLargeError, at_most, check_tensors
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.frozen import FrozenInput, FrozenWeight
from sr_quant_cli.quant.grids import MAX_BITS, MIN_BITS, decode, encode
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.packing import pack, unpack
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.sites import Kind, Operands
from sr_quant_cli.strict import Strict, in_words
from sr_quant_cli.system.files import replacing

_CODES = "weight_codes"
_LEVELS = "levels"
_INPUTS = "input_levels"

_ROOM = 2**22
"""Values that a network may have beside those of its file: tables that are computed."""

Width = Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]
Count = Annotated[int, Field(ge=0)]


class SetScore(Strict):
    """PSNR (dB) and SSIM of a model on one benchmark set, with all that makes them comparable."""

    bench: str
    images: int
    scale: int
    protocol: str
    border: int
    lr: str
    psnr: float
    ssim: float


class TrainingRun(Strict):
    """One training run in a model's history."""

    task: str
    steps: Count
    seconds: float
    device: str
    precision: str
    data: str
    photographs: Count
    started_from: str | None = None
    validation_psnr: float | None = None
    recipe: dict[str, Any]


class Card(Strict):
    """What one should know of a model besides its weights."""

    name: str = ""
    source: str = ""
    """project whose checkpoint it was imported from"""
    data: str = ""
    licence: str = ""
    training: list[TrainingRun] = Field(default_factory=list)
    scores: list[SetScore] = Field(default_factory=list)


class QuantizationHeader(Strict):
    """How a network was quantized, as a model file says it."""

    method: dict[str, Any]
    w: Width
    a: Width
    placement: dict[Kind, Operands]

    @field_serializer("placement")
    def _what_is_not_float(self, placement: dict[Kind, Operands]) -> dict[Kind, dict[str, Any]]:
        float_ = asdict(Operands())
        return {
            kind: {key: value for key, value in asdict(operands).items() if value != float_[key]}
            for kind, operands in placement.items()
        }


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
        for name, _, quantizer in quantized_weights(network):
            _pack_weight(tensors, name, quantizer)
        header = header.model_copy(update={"inputs": _pack_inputs(tensors, network)})
    _write(path, tensors, header)


def header_of(network: Network, card: Card) -> Header:
    """What the header of a network's model file says."""
    how, quantization = network.quantization, None
    if how is not None:
        quantization = QuantizationHeader(
            method=how.method.model_dump(), w=how.bits.w, a=how.bits.a, placement=how.placement
        )
    return Header(network=network.config.model_dump(), quantization=quantization, card=card)


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
    if half and header.quantization is not None:
        raise UsageError(f"--half: {source} is quantized, its weights are codes already")
    if half:
        tensors = {
            key: value.half() if value.is_floating_point() else value
            for key, value in tensors.items()
        }
        with _misfits(source, "float16 weights"):
            check_tensors(tensors)
    card = header.card.model_copy(update=changes)
    _write(target, tensors, header.model_copy(update={"card": card}))


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
    replaced = {(score.bench, score.protocol) for score in scores}
    kept = [s for s in header.card.scores if (s.bench, s.protocol) not in replaced]
    card = header.card.model_copy(update={"scores": [*kept, *scores]})
    _write(path, tensors, header.model_copy(update={"card": card}))


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
    """Tell whether a model file holds packed codes in the place of float weights.

    Raises
    ------
    UsageError
        The file is missing, damaged, or not srq's.
    """
    read_header(path)
    with safe_open(path, framework="pt") as file:
        return any(key.endswith(f".{_CODES}") for key in file.keys())  # noqa: SIM118 - no mapping


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
        config = config_class(str(header.network.get("name"))).model_validate(header.network)
        try:
            with at_most(2 * _room(tensors) + _ROOM, 4 * len(tensors) + 1000):
                network = build(config)
        except TooLargeError as error:
            raise ValueError("far larger than the tensors of the file") from error
    if header.quantization is not None:
        with _misfits(path, "quantization"):
            _quantize(network, header.quantization)
            if any(key.endswith(f".{_CODES}") for key in tensors):
                # Of what is frozen no gate is left, which would have weights of its own.
                _unpack_inputs(tensors, network, header.inputs)
                for name, layer, quantizer in quantized_weights(network):
                    layer.weight_quantizer = _unpack_weight(tensors, name, layer, quantizer.bits)
    with _misfits(path, "tensors"):
        _check_fit(network, tensors)
    network.load_state_dict({key: _float(value) for key, value in tensors.items()})
    return network.eval(), header


def quantized_weights(
    network: Network,
) -> list[tuple[str, QuantConv2d | QuantLinear, Quantizer]]:
    """Paths, layers and quantizers of a network's quantized weights."""
    return [
        (name, module, module.weight_quantizer)
        for name, module in network.named_modules()
        if isinstance(module, QuantConv2d | QuantLinear)
        and isinstance(module.weight_quantizer, Quantizer)
    ]


def _input_quantizers(network: Network) -> list[tuple[str, Quantizer]]:
    """Paths and quantizers of a network's activations."""
    of_weights = {id(quantizer) for _, _, quantizer in quantized_weights(network)}
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, Quantizer) and id(module) not in of_weights
    ]


def _pack_weight(tensors: dict[str, Tensor], name: str, quantizer: Quantizer) -> None:
    """Put codes and their grid in the place of a weight and its quantizer's state."""
    weight = tensors.pop(f"{name}.weight").float()
    with torch.no_grad():
        grid = quantizer.grid(weight)
    tensors[f"{name}.{_CODES}"] = pack(encode(weight, grid), grid.first, grid.bits)
    _replace_state(tensors, f"{name}.weight_quantizer", FrozenWeight.of(grid, weight))


def _unpack_weight(
    tensors: dict[str, Tensor], name: str, layer: QuantConv2d | QuantLinear, bits: int
) -> FrozenWeight:
    """Undo ``_pack_weight``: put the weight's levels back, and make what knows their grid."""
    levels = _take(tensors, f"{name}.weight_quantizer.{_LEVELS}", torch.float32)
    channels = len(layer.weight)
    if levels.shape not in {(1 + o + s,) for o in (1, channels) for s in (1, channels)}:
        raise ValueError(f"{name}: levels of shape {list(levels.shape)} for {channels} channels")
    steps = levels[-channels if len(levels) > 3 else -1 :]
    _check_grid(name, levels[0], steps)
    frozen = FrozenWeight(bits, levels, layer.weight)
    grid = frozen.grid(levels)
    codes = _take(tensors, f"{name}.{_CODES}", torch.uint8)
    tensors[f"{name}.weight"] = decode(unpack(codes, layer.weight.shape, grid.first, bits), grid)
    tensors[f"{name}.weight_quantizer.{_LEVELS}"] = levels
    return frozen


def _pack_inputs(tensors: dict[str, Tensor], network: Network) -> list[str]:
    """Put the grids of activations, in one table, in the place of their quantizers' states.

    Returns
    -------
    Paths of the quantizers, in the order of the rows.
    """
    rows = {}
    for name, quantizer in _input_quantizers(network):
        with torch.no_grad():
            grid = quantizer.static_grid()
        if grid is None or grid.step.ndim or quantizer.shift_before() is not None:
            rows[name] = torch.full((FrozenInput.SIZE,), torch.nan)
            continue
        _replace_state(tensors, name, FrozenInput.of(grid))
        rows[name] = tensors.pop(f"{name}.{_LEVELS}")
    if rows:
        tensors[_INPUTS] = torch.stack(list(rows.values()))
    return list(rows)


def _unpack_inputs(tensors: dict[str, Tensor], network: Network, paths: list[str] | None) -> None:
    """Undo ``_pack_inputs``."""
    quantizers = dict(_input_quantizers(network))
    paths = list(quantizers) if paths is None else paths
    if sorted(paths) != sorted(quantizers):
        raise ValueError(f"{len(paths)} ranges of activations are not those of the network's sites")
    rows = _take(tensors, _INPUTS, torch.float32) if paths else torch.empty(0, FrozenInput.SIZE)
    if rows.shape != (len(paths), FrozenInput.SIZE):
        shape = list(rows.shape)
        raise ValueError(f"{_INPUTS} of shape {shape} for {len(paths)} activations")
    for row, name in zip(rows, paths, strict=True):
        if row.isnan().all():
            continue
        first, lower, upper, _, step = row
        _check_grid(name, first, step)
        if not (row.isfinite().all() and lower < upper):
            raise ValueError(f"{name}: {row.tolist()} is no range")
        network.set_submodule(name, FrozenInput(quantizers[name].bits, row))
        tensors[f"{name}.{_LEVELS}"] = row


def _check_grid(name: str, first: Tensor, steps: Tensor) -> None:
    if first not in torch.arange(-(2**MAX_BITS), 2**MAX_BITS):
        raise ValueError(f"{name}: {first:g} is no first code of a grid")
    if not (steps > 0).all():
        raise ValueError(f"{name}: its grid has a step of {steps.min():g}, steps are above 0")


def _take(tensors: dict[str, Tensor], name: str, dtype: torch.dtype) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    if tensors[name].dtype != dtype:
        raise ValueError(f"{name} is {tensors[name].dtype}, must be {dtype}")
    return tensors.pop(name)


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
            raise ValueError(f"the range of {name.removesuffix('.batches')} was never found")


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
    """Values that a network of these tensors has at most; a byte of codes holds four of 2 bits."""
    return sum(
        value.numel() * (8 // MIN_BITS if key.endswith(f".{_CODES}") else 1)
        for key, value in tensors.items()
    )


def _replace_state(tensors: dict[str, Tensor], name: str, frozen: Quantizer) -> None:
    for key in [key for key in tensors if key.startswith(f"{name}.")]:
        del tensors[key]
    for key, value in frozen.state_dict().items():
        tensors[f"{name}.{key}"] = value.detach().cpu()


def _quantize(network: Network, how: QuantizationHeader) -> None:
    config = method_config_class(str(how.method.get("name"))).model_validate(how.method)
    quantize_network(network, build_method(config), how.placement, Bits(how.w, how.a))


def _float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    header = read_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable srq model file: {first_line(error)}") from error
    with _misfits(path, "tensors"):
        # Rows of NaN stand for ranges that are elsewhere.
        check_tensors({key: value for key, value in tensors.items() if key != _INPUTS})
    return header, tensors


def _write(path: Path, tensors: dict[str, Tensor], header: Header) -> None:
    whole = {key: value.contiguous() for key, value in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(whole, temporary, metadata={"srq": header.model_dump_json()})
        except SafetensorError as error:
            raise FailedError(f"cannot write {path}: {first_line(error)}") from error
