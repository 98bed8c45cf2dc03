"""Codes of quantized weights, and grids of activations, in the tensors of a model file.

A weight is stored as packed codes (``weight_codes``) with the first code, origin and step of its
grid (``weight_quantizer.levels``). ``input_levels`` has a row for the grid of each activation,
whatever parameters it came from. Where a range depends on the input, the row is NaN and the state
of the quantizer is stored.
"""

import torch
from torch import Tensor

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.frozen import FrozenInput, FrozenWeight
from sr_quant_cli.quant.grids import decode, encode
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.packing import pack, unpack
from sr_quant_cli.quant.quantizers import Quantizer
from sr_quant_cli.quant.widths import MAX_BITS

CODES = "weight_codes"
INPUTS = "input_levels"
_LEVELS = "levels"


def pack_tensors(tensors: dict[str, Tensor], network: Network) -> list[str]:
    """Replace weights and ranges in a network's state by codes and grids.

    Returns
    -------
    Paths of the activations' quantizers, in the order of the rows of ``input_levels``.
    """
    for name, _, quantizer in _weights(network):
        _pack_weight(tensors, name, quantizer)
    return _pack_inputs(tensors, network)


def unpack_tensors(tensors: dict[str, Tensor], network: Network, inputs: list[str] | None) -> None:
    """Undo ``pack_tensors``: restore the weights' levels, and freeze the network's quantizers.

    Parameters
    ----------
    inputs
        Paths of the rows of ``input_levels``; None: they are in the order of the modules.

    Raises
    ------
    ValueError
        A tensor is missing, or does not fit this network.
    """
    # Frozen inputs come first: frozen gates have no weights of their own.
    _unpack_inputs(tensors, network, inputs)
    for name, layer, quantizer in _weights(network):
        layer.weight_quantizer = _unpack_weight(tensors, name, layer, quantizer.bits)


def _weights(network: Network) -> list[tuple[str, QuantConv2d | QuantLinear, Quantizer]]:
    """Paths, layers and quantizers of a network's quantized weights."""
    return [
        (name, module, module.weight_quantizer)
        for name, module in network.named_modules()
        if isinstance(module, QuantConv2d | QuantLinear)
        and isinstance(module.weight_quantizer, Quantizer)
    ]


def _input_quantizers(network: Network) -> list[tuple[str, Quantizer]]:
    """Paths and quantizers of a network's activations."""
    of_weights = {id(quantizer) for _, _, quantizer in _weights(network)}
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, Quantizer) and id(module) not in of_weights
    ]


def _pack_weight(tensors: dict[str, Tensor], name: str, quantizer: Quantizer) -> None:
    """Replace a weight and its quantizer's state by codes and their grid."""
    weight = tensors.pop(f"{name}.weight").float()
    with torch.no_grad():
        grid = quantizer.grid(weight)
    tensors[f"{name}.{CODES}"] = pack(encode(weight, grid), grid.first, grid.bits)
    _replace_state(tensors, f"{name}.weight_quantizer", FrozenWeight.of(grid, weight))


def _unpack_weight(
    tensors: dict[str, Tensor], name: str, layer: QuantConv2d | QuantLinear, bits: int
) -> FrozenWeight:
    """Undo ``_pack_weight``: restore the weight's levels, and return their quantizer."""
    levels = _take(tensors, f"{name}.weight_quantizer.{_LEVELS}", torch.float32)
    channels = len(layer.weight)
    if levels.shape not in {(1 + o + s,) for o in (1, channels) for s in (1, channels)}:
        raise ValueError(f"{name}: levels of shape {list(levels.shape)} for {channels} channels")
    steps = levels[-channels if len(levels) > 3 else -1 :]
    _check_grid(name, levels[0], steps)
    frozen = FrozenWeight(bits, levels, layer.weight)
    grid = frozen.grid(levels)
    codes = _take(tensors, f"{name}.{CODES}", torch.uint8)
    tensors[f"{name}.weight"] = decode(unpack(codes, layer.weight.shape, grid.first, bits), grid)
    tensors[f"{name}.weight_quantizer.{_LEVELS}"] = levels
    return frozen


def _pack_inputs(tensors: dict[str, Tensor], network: Network) -> list[str]:
    """Replace the states of the activations' quantizers by one table of grids.

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
        tensors[INPUTS] = torch.stack(list(rows.values()))
    return list(rows)


def _unpack_inputs(tensors: dict[str, Tensor], network: Network, paths: list[str] | None) -> None:
    """Undo ``_pack_inputs``."""
    quantizers = dict(_input_quantizers(network))
    paths = list(quantizers) if paths is None else paths
    if sorted(paths) != sorted(quantizers):
        raise ValueError(f"{len(paths)} ranges of activations are not those of the network's sites")
    rows = _take(tensors, INPUTS, torch.float32) if paths else torch.empty(0, FrozenInput.SIZE)
    if rows.shape != (len(paths), FrozenInput.SIZE):
        shape = list(rows.shape)
        raise ValueError(f"{INPUTS} of shape {shape} for {len(paths)} activations")
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


def _replace_state(tensors: dict[str, Tensor], name: str, frozen: Quantizer) -> None:
    for key in [key for key in tensors if key.startswith(f"{name}.")]:
        del tensors[key]
    for key, value in frozen.state_dict().items():
        tensors[f"{name}.{key}"] = value.detach().cpu()
