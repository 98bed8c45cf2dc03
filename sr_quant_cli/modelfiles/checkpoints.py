"""Checkpoints of other projects, and their conversion to networks of srq.

A file belongs to the layout that knows all of its keys. Loading is strict in both directions:
unknown keys, tensors missing in the file or in the network, wrong shapes, unequal copies of one
tensor and a wrong mean are errors. What a file does not contain is assumed, and reported.
"""

import re
from dataclasses import dataclass, field
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
"""Code that exports a network without a known layout; ``model`` takes RGB 0..1."""

_BITS = ".bits"
_WEIGHT_BITS = ".weight_quantizer.bits"
_INPUT_QUANTIZER = ".input_quantizer."
_ON_255 = (EDSRConfig, RDNConfig, SRResNetConfig)
"""Networks that work on 0..255, and whose projects have an option for another range."""
_LARGER_ON_1 = r"head\.(weight|weight_quantizer\.value)"
_SMALLER_ON_1 = (
    r"head\.input_quantizer\.(lower|upper)|tail\.(0\.)?(weight|bias|weight_quantizer\.value)|"
    r"bit_provider\.slope_thresholds"
)
"""Tensors of such a network that are 255 times larger or smaller if it works on 0..1."""


@dataclass(frozen=True)
class UserHints:
    """Facts from the user that a file may not contain.

    Parameters
    ----------
    scale
        Scale to take from a file with several; None: the only one, else 4.
    method
        Method that quantized the network.
    w, a
        Bits of weights and activations.
    res_scale
        Factor on the residual branches of an EDSR; None: as published.
    range
        Largest value of the training pictures; None: the file's, else 255.
    project
        Project of the file, where those of several have the same tensors; None: the first.
    """

    scale: int | None = None
    method: str | None = None
    w: int | None = None
    a: int | None = None
    res_scale: float | None = None
    range: Literal[1, 255] | None = None
    project: str | None = None


class Imported(NamedTuple):
    """Network in evaluation mode, and the project that its checkpoint comes from."""

    network: Network
    source: str
    assumed: tuple[str, ...] = ()
    """values that neither the file nor the user gives, each with the parameter that sets it"""
    stated: tuple[str, ...] = ()
    """what the user alone says, likewise"""


@dataclass(frozen=True)
class _Unconfirmed:
    """Values that a file does not confirm: see ``Imported``."""

    assumed: list[str] = field(default_factory=list)
    stated: list[str] = field(default_factory=list)

    def add(self, option: str, value: float | str, *, stated: bool) -> None:
        """Note the value of an option."""
        shown = value if isinstance(value, str) else f"{value:g}"
        (self.stated if stated else self.assumed).append(f"{option} {shown} (`{option}`)")


def import_checkpoint(path: Path, hints: UserHints | None = None) -> Imported:
    """Read a checkpoint of another project.

    Raises
    ------
    UnknownCheckpointError
        The file cannot be read without running code, or its layout is unknown.
    UsageError
        The file does not fit its network, or lacks a value that ``hints`` do not give either.
    """
    hints = hints or UserHints()
    tensors = read_tensors(path)
    layout, also = _layout_of(path, tensors, hints.project)
    known = None if layout.tells_scale else hints.scale or _scale_in_name(path)
    if not layout.tells_scale and known is None:
        raise UsageError(
            f"{path}: the tensors of {layout.source} are the same for every scale; name it with "
            "`scale`"
        )
    found = {
        each.network.scale: each
        for part in _parts(layout, tensors)
        for each in [_build(path, layout, part, known, hints, also)]
    }
    scale = hints.scale or (4 if len(found) > 1 else next(iter(found)))
    if scale not in found:
        held = " and ".join(f"x{scale}" for scale in sorted(found))
        raise UsageError(f"{path} enlarges by {held}, not by {scale} (`scale`)")
    return found[scale]


def _layout_of(path: Path, tensors: Tensors, project: str | None) -> tuple[Layout, bool]:
    """Layout of a file, and True if one of another project fits, too."""
    for pattern, what in REFUSED.items():
        for key in tensors:
            if re.fullmatch(pattern, key):
                raise UsageError(f"{path}: {key} belongs to {what}, which srq does not have")

    def strangers(layout: Layout) -> list[str]:
        return [key for key in tensors if not (layout.rename(key) or layout.check(key))]

    layout = min(LAYOUTS, key=lambda layout: len(strangers(layout)))
    others = strangers(layout)
    if 2 * len(others) >= len(tensors):
        known = ", ".join(layout.source for layout in LAYOUTS)
        first = ", ".join(name[:80] for name in sorted(tensors)[:3])
        raise UnknownCheckpointError(
            f"{path}: its tensors ({first}, ...) are of no known layout; known are {known}. "
            f"Export the network to ONNX, and name that file: {ONNX_EXPORT}"
        )
    if others:
        more = f", nor {len(others) - 1} others of it" if others[1:] else ""
        raise UsageError(f"{path}: {layout.source}, the nearest, has no {others[0][:200]}{more}")
    same = [each for each in LAYOUTS if each.always_quantized and not strangers(each)]
    if project is None or not layout.always_quantized:
        return layout, layout.always_quantized and len({each.project for each in same}) > 1
    for each in same:
        if each.project.lower() == project.lower():
            return each, len(same) > 1
    fitting = " or ".join(dict.fromkeys(each.project for each in same))
    raise UsageError(f"{path} has the tensors of {fitting}", field="project", value=project)


def _parts(layout: Layout, tensors: Tensors) -> list[Tensors]:
    """Tensors of each scale in a file."""

    def branch(key: str) -> str | None:
        match = re.match(layout.branches, key) if layout.branches else None
        return match and match[1]

    branches = {branch(key) for key in tensors} - {None}
    return [
        {key: tensor for key, tensor in tensors.items() if branch(key) in (None, chosen)}
        for chosen in branches or {None}
    ]


def _scale_in_name(path: Path) -> int | None:
    """Scale in a file's name, as in ``idn_x3.pth``, if there is exactly one."""
    found = set(re.findall(r"(?<![a-z0-9])x([2348])(?![0-9])", path.stem.lower()))
    return int(found.pop()) if len(found) == 1 else None


def _build(
    path: Path, layout: Layout, tensors: Tensors, scale: int | None, hints: UserHints, also: bool
) -> Imported:
    unconfirmed = _Unconfirmed()
    if also:
        unconfirmed.add("project", layout.project, stated=hints.project is not None)
    if scale is not None:
        unconfirmed.add("scale", scale, stated=hints.scale is not None)
    try:
        ours = _renamed(layout, tensors)
        config = _with_res_scale(path, layout, layout.config(ours, scale), hints, unconfirmed)
        _check_colours(ours, config, unconfirmed)
        _check_ignored(layout, tensors, config)
        _to_range(path, layout, tensors, ours, config, hints, unconfirmed)
        network = build(config)
        said = {key: ours.pop(key) for key in list(ours) if key.endswith(_BITS)}
        _quantize(path, layout, network, said, hints, unconfirmed, ours)
        _load(layout, network, ours)
    except ValidationError as error:
        detail = "; ".join(f"{e['loc'][-1]}: {in_words(e)}" for e in error.errors() if e["loc"])
        raise UsageError(f"{path} is no network of {layout.source}: {detail}") from error
    except KeyError as error:
        raise UsageError(f"{path} lacks {error.args[0]} of {layout.source}") from error
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{path}, of {layout.source}: {first_line(error)}") from error
    except (TypeError, IndexError, ArithmeticError, AssertionError) as error:
        what = "its tensors do not have the shapes of this network's"
        raise UsageError(f"{path}, of {layout.source}: {what}") from error
    return Imported(
        network.eval(), layout.source, tuple(unconfirmed.assumed), tuple(unconfirmed.stated)
    )


def _check_colours(ours: Tensors, config: NetworkConfig, unconfirmed: _Unconfirmed) -> None:
    """Refuse other pictures than RGB, and those of one channel where srq's network has three."""
    head = ours.get("head.weight")
    channels = config.channels if isinstance(config, EDSRConfig) else 3
    if head is not None and head.ndim == 4 and head.shape[1] != channels:
        raise ValueError(f"takes pictures of {head.shape[1]} channels; srq takes RGB")
    if channels == 1:
        unconfirmed.assumed.append("its one channel is luma of 16 to 235")


def _with_res_scale(
    path: Path,
    layout: Layout,
    config: NetworkConfig,
    hints: UserHints,
    unconfirmed: _Unconfirmed,
) -> NetworkConfig:
    """Set the residual factor of a configuration as the user says."""
    if not isinstance(config, EDSRConfig):
        if hints.res_scale is not None:
            raise UsageError(f"{path} ({layout.source}) has no residual factor", field="res_scale")
        return config
    if hints.res_scale is not None:
        changes = {"res_scale": hints.res_scale}
        config = type(config).model_validate(config.model_dump() | changes)
    unconfirmed.add("res_scale", config.res_scale, stated=hints.res_scale is not None)
    return config


def _to_range(
    path: Path,
    layout: Layout,
    tensors: Tensors,
    ours: Tensors,
    config: NetworkConfig,
    hints: UserHints,
    unconfirmed: _Unconfirmed,
) -> None:
    """Turn weights for pictures 0..1 into those of a network that works on 0..255."""
    mean = tensors.get("sub_mean.bias")
    # Files of SRResNets have a mean that is not used.
    says = isinstance(config, EDSRConfig) and mean is not None
    if not isinstance(config, _ON_255) or says:
        if hints.range is not None:
            raise UsageError(f"{path} ({layout.source}) leaves no choice", field="range")
        trained_on_1 = says and mean is not None and bool(mean.abs().max() < 1)
    else:
        unconfirmed.add("range", hints.range or RANGE, stated=hints.range is not None)
        trained_on_1 = hints.range == 1
    if trained_on_1:
        for name, tensor in ours.items():
            if re.fullmatch(_LARGER_ON_1, name):
                ours[name] = tensor / RANGE
            elif re.fullmatch(_SMALLER_ON_1, name):
                ours[name] = tensor * RANGE


def _renamed(layout: Layout, tensors: Tensors) -> Tensors:
    """Tensors that are kept, under srq's names."""
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
    return _joined(ours)


def _joined(ours: Tensors) -> Tensors:
    """Join the entries of tensors that a file stores one by one, and subtract what is to be."""
    entries: dict[str, dict[tuple[float, ...], torch.Tensor]] = {}
    whole = {name: tensor for name, tensor in ours.items() if "[" not in name}
    for name, tensor in ours.items():
        stem, _, index = name.rstrip("]").partition("[")
        if name in whole:
            continue
        if index == "-":
            whole[stem] = whole[stem] - tensor
        elif tensor.numel() == 1:
            place = tuple(map(float, index.split(".")))
            entries.setdefault(stem, {})[place] = tensor.flatten()
        else:
            raise ValueError(f"{name} has {tensor.numel()} values instead of one")
    joined = {
        stem: torch.cat([tensors[place] for place in sorted(tensors)])
        for stem, tensors in entries.items()
    }
    return whole | joined


def _check_ignored(layout: Layout, tensors: Tensors, config: NetworkConfig) -> None:
    for key, tensor in tensors.items():
        check = layout.check(key)
        if check and not check(tensor, config):
            raise ValueError(f"{key} differs from the constant of the network")


def _quantize(
    path: Path,
    layout: Layout,
    network: Network,
    said: Tensors,
    hints: UserHints,
    unconfirmed: _Unconfirmed,
    ours: Tensors,
) -> None:
    """Insert the quantizers of a method's checkpoint."""
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
    found = {name.rpartition(_INPUT_QUANTIZER)[0] for name in ours}
    kinds = {site.kind for site in network.sites() if site.path in found}
    placement = method.paper_placement() | quantized.changes
    placement |= {kind: at for kind, at in quantized.if_found.items() if kind in kinds}
    bits = _bits(path, config, said, hints, quantized.bits, unconfirmed)
    method.check(bits)
    quantize_network(network, method, placement, bits)


def _bits(
    path: Path,
    method: MethodConfig,
    said: Tensors,
    hints: UserHints,
    default: Bits | None,
    unconfirmed: _Unconfirmed,
) -> Bits:
    """Bits in the file, else those from the user, else the usual ones of the project."""
    bits: dict[str, int] = {}
    for option, asked in (("w", hints.w), ("a", hints.a)):
        found = {
            round(float(tensor))
            for key, tensor in said.items()
            if key.endswith(_WEIGHT_BITS) == (option == "w")
        }
        if len(found) > 1:
            raise UsageError(f"{path}: its quantizers have several bit widths (`{option}`)")
        value = found.pop() if found else asked
        if value is None and default is not None:
            value = getattr(default, option)
            unconfirmed.add(option, value, stated=False)
        if value is None:
            raise UsageError(
                f"{path}: files of {method.name} do not hold their bits; srq import takes `w`, `a`"
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
        # Scalars are [] or [1], and a 1x1 convolution may be stored as a linear layer.
        if tensor.squeeze().shape != state[name].squeeze().shape:
            there, here = list(tensor.shape), list(state[name].shape)
            raise ValueError(f"{name} is {there}, in this {network.config.name} {here}")
        ours[name] = tensor.reshape(state[name].shape)
    for name, tensor in state.items():
        if name not in ours:
            if (kind := name.rpartition(".")[2]) not in layout.supplied:
                raise KeyError(f"{name} (srq's name)")
            value = layout.supplied[kind]
            ours[name] = value(tensor) if callable(value) else torch.full_like(tensor, value)
        if name.endswith(".batches") and not ours[name]:
            raise ValueError(f"the range of {name.removesuffix('.batches')} was not calibrated")
    network.load_state_dict(ours)
