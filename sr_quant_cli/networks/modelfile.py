"""The one model file: ``.safetensors`` with all that rebuilds the network in its header.

The header's metadata entry ``srq`` is JSON: format version, network name and configuration, the
range and colour order of input and output, how it was quantized, and the card. Loading never runs
code. A weight on a grid is stored as packed codes (``weight_codes``) with first code, origin and
step of its grid (``weight_quantizer.levels``). ``input_levels`` are the grids of the activations,
in the order of the modules, whatever parameters they came from; of those whose range depends on the
input the row is NaN, and their own state is stored.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sr_quant_cli import __version__
from sr_quant_cli.errors import UsageError
from sr_quant_cli.files import replacing
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import config_class as method_config_class
from sr_quant_cli.networks import build, config_class
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.sites import Kind, Operands
from sr_quant_cli.quant.apply import Bits, quantize_network
from sr_quant_cli.quant.grids import decode, encode
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.packing import pack, unpack
from sr_quant_cli.quant.quantizers import FrozenInput, FrozenWeight, Quantizer

_CODES = "weight_codes"
_LEVELS = "levels"
_INPUTS = "input_levels"


class SetScore(BaseModel):
    """PSNR (dB) and SSIM of a model on one benchmark set, with all that makes them comparable."""

    model_config = ConfigDict(extra="forbid")

    bench: str
    images: int
    scale: int
    protocol: str
    border: int
    lr: str
    psnr: float
    ssim: float


class TrainingRun(BaseModel):
    """One training run in a model's history."""

    model_config = ConfigDict(extra="forbid")

    task: str
    steps: int
    seconds: float
    device: str
    precision: str
    data: str
    photographs: int
    started_from: str | None = None
    validation_psnr: float | None = None
    recipe: dict[str, Any]


class Card(BaseModel):
    """What one should know of a model besides its weights."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    data: str = ""
    licence: str = ""
    training: list[TrainingRun] = Field(default_factory=list)
    scores: list[SetScore] = Field(default_factory=list)


class QuantizationHeader(BaseModel):
    """How a network was quantized, as a model file says it."""

    model_config = ConfigDict(extra="forbid")

    method: dict[str, Any]
    w: int
    a: int
    placement: dict[Kind, Operands]

    @field_serializer("placement")
    def _what_is_not_float(self, placement: dict[Kind, Operands]) -> dict[Kind, dict[str, Any]]:
        float_ = asdict(Operands())
        return {
            kind: {key: value for key, value in asdict(operands).items() if value != float_[key]}
            for kind, operands in placement.items()
        }


class Header(BaseModel):
    """The ``srq`` metadata entry of a model file."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    version: str = __version__
    network: dict[str, Any]
    quantization: QuantizationHeader | None = None
    input: str = "RGB, 0..1, NCHW"
    output: str = "RGB, 0..1, NCHW"
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
    if packed:
        for name, _, quantizer in quantized_weights(network):
            _pack_weight(tensors, name, quantizer)
        _pack_inputs(tensors, network)
    _write(path, tensors, header_of(network, card))


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
        ``source`` is no model file.
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
        if text is None:
            raise UsageError(f"{path} is no srq model: its header has no 'srq' entry")
        return Header.model_validate(json.loads(text))
    except (SafetensorError, OSError, ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"{path} is no readable srq model file: {first}") from error


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
    try:
        config = config_class(str(header.network.get("name"))).model_validate(header.network)
        network = build(config)
        if header.quantization is not None:
            _quantize(network, header.quantization)
            if any(key.endswith(f".{_CODES}") for key in tensors):
                # Of what is frozen no gate is left, which would have weights of its own.
                _unpack_inputs(tensors, network)
                for name, layer, quantizer in quantized_weights(network):
                    layer.weight_quantizer = _unpack_weight(tensors, name, layer, quantizer.bits)
        network.load_state_dict({key: _float(value) for key, value in tensors.items()})
    except (RuntimeError, ValueError, KeyError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit its network: {detail}") from error
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
    levels = tensors[f"{name}.weight_quantizer.{_LEVELS}"]
    frozen = FrozenWeight(bits, levels, layer.weight)
    grid = frozen.grid(levels)
    codes = unpack(tensors.pop(f"{name}.{_CODES}"), layer.weight.shape, grid.first, bits)
    tensors[f"{name}.weight"] = decode(codes, grid)
    return frozen


def _pack_inputs(tensors: dict[str, Tensor], network: Network) -> None:
    """Put the grids of activations, in one table, in the place of their quantizers' states."""
    rows = []
    for name, quantizer in _input_quantizers(network):
        with torch.no_grad():
            grid = quantizer.static_grid()
        if grid is None or grid.step.ndim or quantizer.shift_before() is not None:
            rows.append(torch.full((FrozenInput.SIZE,), torch.nan))
            continue
        _replace_state(tensors, name, FrozenInput.of(grid))
        rows.append(tensors.pop(f"{name}.{_LEVELS}"))
    if rows:
        tensors[_INPUTS] = torch.stack(rows)


def _unpack_inputs(tensors: dict[str, Tensor], network: Network) -> None:
    """Undo ``_pack_inputs``."""
    quantizers = _input_quantizers(network)
    rows = tensors.pop(_INPUTS) if quantizers else ()
    for row, (name, quantizer) in zip(rows, quantizers, strict=True):
        if not row.isnan().any():
            network.set_submodule(name, FrozenInput(quantizer.bits, row))
            tensors[f"{name}.{_LEVELS}"] = row


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
        return header, load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no readable srq model file: {error}") from error


def _write(path: Path, tensors: dict[str, Tensor], header: Header) -> None:
    whole = {key: value.contiguous() for key, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata={"srq": header.model_dump_json()})
