"""Checkpoints of other projects: which network a file holds, and how it becomes one of srq's.

A file belongs to the layout that knows every one of its keys. Loading is strict in
both directions: a key that the layout does not know, a tensor that the network lacks or the file
does, another shape, unequal copies of one tensor or another mean than the network has are errors.
What a file does not say is assumed, and told.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import ValidationError

from sr_quant_cli.errors import UsageError, first_line
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.known_layouts import LAYOUTS, REFUSED
from sr_quant_cli.modelfiles.layouts import Layout, Tensors
from sr_quant_cli.modelfiles.reading import UnknownCheckpointError, read_tensors
from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.layers import RANGE
from sr_quant_cli.networks.rdn import RDNConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits, MethodConfig
from sr_quant_cli.strict import in_words

ONNX_EXPORT = (
    "torch.onnx.export(model.eval(), torch.rand(1, 3, 48, 48), 'model.onnx', input_names=['x'], "
    "dynamic_axes={'x': {2: 'h', 3: 'w'}})"
)
"""What makes a graph of a network that srq has no layout for; ``model`` takes RGB 0..1."""

_BITS = ".bits"
_WEIGHT_BITS = ".weight_quantizer.bits"
_ON_255 = (EDSRConfig, RDNConfig, SRResNetConfig)
"""Networks that work on 0..255, whose projects have an option for another range."""


@dataclass(frozen=True)
class UserHints:
    """What a user says that a file may not.

    Parameters
    ----------
    scale
        Of those that the file holds; None: the only one, else 4.
    method
        That quantized the network.
    w, a
        Bits of weights and activations.
    res_scale
        Factor on the residual branches of an EDSR; None: as published.
    range
        Largest value of the pictures that it was trained on; None: the file's, else 255.
    """

    scale: int | None = None
    method: str | None = None
    w: int | None = None
    a: int | None = None
    res_scale: float | None = None
    range: Literal[1, 255] | None = None


class Imported(NamedTuple):
    """A network in evaluation mode, and what its checkpoint was taken for."""

    network: Network
    source: str
    assumed: tuple[str, ...] = ()
    """what neither the file nor the user says, each with the option that does"""


def import_checkpoint(path: Path, hints: UserHints | None = None) -> Imported:
    """Read a checkpoint of another project.

    Raises
    ------
    UnknownCheckpointError
        The file cannot be read without running code, or is of no known layout.
    UsageError
        It does not fit its network, or does not say what ``hints`` do not say either.
    """
    hints = hints or UserHints()
    tensors = read_tensors(path)
    layout = _layout_of(path, tensors)
    known = None if layout.tells_scale else hints.scale or _scale_in_name(path)
    if not layout.tells_scale and known is None:
        raise UsageError(
            f"{path}: the tensors of {layout.source} are the same for every scale; name it with "
            "`scale`"
        )
    found = {
        each.network.scale: each
        for part in _parts(layout, tensors)
        for each in [_build(path, layout, part, known, hints)]
    }
    scale = hints.scale or (4 if len(found) > 1 else next(iter(found)))
    if scale not in found:
        held = " and ".join(f"x{scale}" for scale in sorted(found))
        raise UsageError(f"{path} enlarges by {held}, not by {scale} (`scale`)")
    return found[scale]


def _layout_of(path: Path, tensors: Tensors) -> Layout:
    for pattern, what in REFUSED.items():
        for key in tensors:
            if re.fullmatch(pattern, key):
                raise UsageError(f"{path}: {key} belongs to {what}, which srq does not have")

    def strangers(layout: Layout) -> list[str]:
        return [key for key in tensors if not (layout.rename(key) or layout.check(key))]

    layout = min(LAYOUTS, key=lambda layout: len(strangers(layout)))
    unknown = strangers(layout)
    if 2 * len(unknown) >= len(tensors):
        known = ", ".join(layout.source for layout in LAYOUTS)
        first = ", ".join(name[:80] for name in sorted(tensors)[:3])
        raise UnknownCheckpointError(
            f"{path}: its tensors ({first}, ...) are of no known layout; known are {known}. "
            f"Export the network to ONNX, and name that file: {ONNX_EXPORT}"
        )
    if unknown:
        more = f", nor {len(unknown) - 1} others of it" if unknown[1:] else ""
        raise UsageError(f"{path}: {layout.source}, the nearest, has no {unknown[0][:200]}{more}")
    return layout


def _parts(layout: Layout, tensors: Tensors) -> list[Tensors]:
    """The tensors of a file, for each scale that it holds."""

    def branch(key: str) -> str | None:
        match = re.match(layout.branches, key) if layout.branches else None
        return match and match[1]

    branches = {branch(key) for key in tensors} - {None}
    return [
        {key: tensor for key, tensor in tensors.items() if branch(key) in (None, chosen)}
        for chosen in branches or {None}
    ]


def _scale_in_name(path: Path) -> int | None:
    """The scale in a file's name, as in ``idn_x3.pth``, if there is one and no more."""
    found = set(re.findall(r"(?<![a-z0-9])x([234])(?![0-9])", path.stem.lower()))
    return int(found.pop()) if len(found) == 1 else None


def _build(
    path: Path, layout: Layout, tensors: Tensors, scale: int | None, hints: UserHints
) -> Imported:
    assumed: list[str] = []
    try:
        ours = _renamed(layout, tensors)
        _check_colours(ours)
        config = _with_res_scale(path, layout, layout.config(ours, scale), hints, assumed)
        _check_ignored(layout, tensors, config)
        _to_range(path, layout, tensors, ours, config, hints, assumed)
        network = build(config)
        said = {key: ours.pop(key) for key in list(ours) if key.endswith(_BITS)}
        _quantize(path, layout, network, said, hints)
        _load(layout, network, ours)
    except ValidationError as error:
        detail = "; ".join(f"{e['loc'][-1]}: {in_words(e)}" for e in error.errors() if e["loc"])
        raise UsageError(f"{path} is no network of {layout.source}: {detail}") from error
    except KeyError as error:
        raise UsageError(f"{path} lacks {error.args[0]} of {layout.source}") from error
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{path}, of {layout.source}: {first_line(error)}") from error
    except (TypeError, IndexError, ArithmeticError, AssertionError) as error:
        what = "its tensors have not the shapes that those of this network have"
        raise UsageError(f"{path}, of {layout.source}: {what}") from error
    return Imported(network.eval(), layout.source, tuple(assumed))


def _check_colours(ours: Tensors) -> None:
    """Refuse networks of grey or other pictures than RGB, which would not fit shape by shape."""
    head = ours.get("head.weight")
    if head is not None and head.ndim == 4 and head.shape[1] != 3:
        raise ValueError(f"takes pictures of {head.shape[1]} channels; srq's take RGB")


def _with_res_scale(
    path: Path, layout: Layout, config: NetworkConfig, hints: UserHints, assumed: list[str]
) -> NetworkConfig:
    """The configuration with the residual factor that the user says."""
    if not isinstance(config, EDSRConfig):
        if hints.res_scale is not None:
            raise UsageError(f"{path} ({layout.source}) has no residual factor", field="res_scale")
        return config
    if hints.res_scale is None:
        assumed.append(f"res_scale {config.res_scale:g} (`res_scale`)")
        return config
    return type(config).model_validate(config.model_dump() | {"res_scale": hints.res_scale})


def _to_range(
    path: Path,
    layout: Layout,
    tensors: Tensors,
    ours: Tensors,
    config: NetworkConfig,
    hints: UserHints,
    assumed: list[str],
) -> None:
    """Make weights for pictures 0..1 those of a network that works on 0..255."""
    mean = tensors.get("sub_mean.bias")
    # Of SRResNets the mean is there, and not used.
    says = isinstance(config, EDSRConfig) and mean is not None
    if not isinstance(config, _ON_255) or says:
        if hints.range is not None:
            raise UsageError(f"{path} ({layout.source}) leaves no choice", field="range")
        trained_on_1 = says and mean is not None and bool(mean.abs().max() < 1)
    else:
        if hints.range is None:
            assumed.append("range 255 (`range`)")
        trained_on_1 = hints.range == 1
    if trained_on_1:
        for name, tensor in ours.items():
            if name == "head.weight":
                ours[name] = tensor / RANGE
            elif name.startswith("tail."):
                ours[name] = tensor * RANGE


def _renamed(layout: Layout, tensors: Tensors) -> Tensors:
    """The tensors that are kept, under srq's names."""
    ours: Tensors = {}
    for key, tensor in tensors.items():
        if layout.check(key):
            continue
        names = layout.rename(key) or ()
        if tensor.is_floating_point():
            tensor = tensor.float()
        if len(names) > 1 and len(tensor) % len(names):
            raise ValueError(f"{key} has {len(tensor)} rows for {len(names)} layers")
        parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        for name, part in zip(names, parts, strict=True):
            if name in ours and not torch.equal(ours[name], part):
                raise ValueError(f"{key} differs from a copy of the same tensor")
            ours[name] = part
    return ours


def _check_ignored(layout: Layout, tensors: Tensors, config: NetworkConfig) -> None:
    for key, tensor in tensors.items():
        check = layout.check(key)
        if check and not check(tensor, config):
            raise ValueError(f"{key} is not what the network has there")


def _quantize(
    path: Path, layout: Layout, network: Network, said: Tensors, hints: UserHints
) -> None:
    """Put the quantizers in that a checkpoint of a method has."""
    quantized = layout.quantized
    if quantized is None or (quantized.on_request and hints.method is None):
        for option in ("method", "w", "a"):
            if getattr(hints, option) is not None:
                asks = " or `method` daq" if quantized else ""
                raise UsageError(
                    f"{path} is {layout.source} in full precision; quantize it with "
                    f"srq quantize{asks}",
                    field=option,
                )
        return
    config = quantized.method(network.config)
    if hints.method not in (None, config.name):
        raise UsageError(
            f"{path} ({layout.source}) is of {config.name}", field="method", value=hints.method
        )
    method = build_method(config)
    placement = method.paper_placement() | quantized.changes
    quantize_network(network, method, placement, _bits(path, config, said, hints))


def _bits(path: Path, method: MethodConfig, said: Tensors, hints: UserHints) -> Bits:
    """Those in the file, else those that the user says."""
    bits: dict[str, int] = {}
    for option, asked in (("w", hints.w), ("a", hints.a)):
        found = {
            round(float(tensor))
            for key, tensor in said.items()
            if key.endswith(_WEIGHT_BITS) == (option == "w")
        }
        if len(found) > 1:
            raise UsageError(f"{path}: its quantizers have several numbers of bits (`{option}`)")
        value = found.pop() if found else asked
        if value is None:
            raise UsageError(
                f"{path}: files of {method.name} do not say their bits; srq import takes `w`, `a`"
            )
        if asked not in (None, value):
            raise UsageError(f"{path} is quantized to {value} bits", field=option, value=asked)
        bits[option] = value
    return Bits(**bits)


def _load(layout: Layout, network: Network, ours: Tensors) -> None:
    state = network.state_dict()
    for name, tensor in ours.items():
        if name not in state:
            raise ValueError(f"{name} is no tensor of this {network.config.name}")
        for pattern, adapt in layout.adapted.items():
            if re.fullmatch(pattern, name):
                tensor = adapt(tensor, network.config)
        # Scalars are [] or [1], the weights of a 1x1 convolution may be those of a linear layer.
        if tensor.squeeze().shape != state[name].squeeze().shape:
            there, here = list(tensor.shape), list(state[name].shape)
            raise ValueError(f"{name} is {there}, in this {network.config.name} {here}")
        ours[name] = tensor.reshape(state[name].shape)
    for name, tensor in state.items():
        if name not in ours:
            if (kind := name.rpartition(".")[2]) not in layout.supplied:
                raise KeyError(f"{name} (srq's name)")
            ours[name] = torch.full_like(tensor, layout.supplied[kind])
        if name.endswith(".batches") and not ours[name]:
            raise ValueError(f"the range of {name.removesuffix('.batches')} was never found")
    network.load_state_dict(ours)
