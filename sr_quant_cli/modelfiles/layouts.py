"""Layouts of checkpoints: what one is, and what the known ones need to be read."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sr_quant_cli.networks.base import NetworkConfig
from sr_quant_cli.networks.carn import CARNConfig
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.idn import IDNConfig
from sr_quant_cli.networks.layers import DIV2K_MEAN
from sr_quant_cli.networks.msrresnet import MSRResNetConfig
from sr_quant_cli.networks.quantsr import RELEASED_ORDER, QuantSRCConfig
from sr_quant_cli.networks.rdn import RDNConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.networks.swinir import PositionBias, SwinIRConfig, shift_mask
from sr_quant_cli.quant.plan import Bits, MethodConfig
from sr_quant_cli.quant.sites import Placement

Tensors = dict[str, Tensor]
Check = Callable[[Tensor, NetworkConfig], bool]
Adapt = Callable[[Tensor, NetworkConfig], Tensor]
Names = dict[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Quantized:
    """Quantization of the networks that a layout describes.

    Parameters
    ----------
    method
        Function from the network's configuration to the method's.
    changes
        Sites, by kind, that differ from the method's placement.
    if_found
        Sites, by kind, that further differ in files with quantizers of inputs there.
    on_request
        The file looks like one in full precision: quantize only if the user names the method.
    bits
        Bits of files that do not hold them, unless the user gives others; None: the user must.
    """

    method: Callable[[NetworkConfig], MethodConfig]
    changes: Placement = field(default_factory=dict)
    if_found: Placement = field(default_factory=dict)
    on_request: bool = False
    bits: Bits | None = None


@dataclass(frozen=True)
class Layout:
    """Names that one project gives to the tensors of one network.

    Parameters
    ----------
    source
        Name of the project and network, for the user.
    names
        Regular expressions for whole keys, or for the part before the last dot, with their
        replacements. With several replacements, the rows are split equally among them. A name that
        ends in ``.bits`` holds the bit width of the quantizer there, and one that ends in ``[i]``
        or ``[i.j]`` an entry of a tensor, whose entries are in the order of these numbers; one that
        ends in ``[-]`` is subtracted from a tensor.
    config
        Function from the tensors under srq's names, and the scale if known, to a configuration.
    ignored
        Regular expressions for whole keys that are dropped, with a check of the tensor.
    supplied
        Values of tensors that a file may lack, by the last part of srq's names; or a function of
        the tensor that gives them.
    adapted
        Regular expressions for srq's names, with a function that adapts the tensor.
    quantized
        Quantization; None: full precision.
    branches
        Regular expression for prefixes of keys that exist once for each scale in the file; its
        group is the scale.
    tells_scale
        The scale follows from the tensors.
    """

    source: str
    names: Names
    config: Callable[[Tensors, int | None], NetworkConfig]
    ignored: dict[str, Check] = field(default_factory=dict)
    supplied: Mapping[str, float | Callable[[Tensor], Tensor]] = field(default_factory=dict)
    adapted: dict[str, Adapt] = field(default_factory=dict)
    quantized: Quantized | None = None
    branches: str = ""
    tells_scale: bool = True

    @property
    def project(self) -> str:
        """First word of the source."""
        return self.source.split()[0]

    @property
    def always_quantized(self) -> bool:
        """True if files of this layout hold a quantized network, whatever the user says."""
        return self.quantized is not None and not self.quantized.on_request

    def rename(self, key: str) -> tuple[str, ...] | None:
        """Names that srq has for a key; None: the key is unknown."""
        module, dot, kind = key.rpartition(".")
        for known, rest in ((key, ""), (module, dot + kind)):
            for pattern, names in self.names.items():
                if match := re.fullmatch(pattern, known):
                    templates = (names,) if isinstance(names, str) else names
                    return tuple(match.expand(name) + rest for name in templates)
        return None

    def check(self, key: str) -> Check | None:
        """Check of a tensor that is dropped; None: it is kept, or unknown."""
        for pattern, check in self.ignored.items():
            if re.fullmatch(pattern, key):
                return check
        return None


def _count(tensors: Tensors, pattern: str) -> int:
    """Number of different groups that a pattern finds at the start of the keys."""
    return len({match[1] for key in tensors if (match := re.match(pattern, key))})


def _scale(tensors: Tensors, pattern: str, n_feats: int) -> int:
    """Scale of the convolutions before PixelShuffles to ``n_feats`` features; 0: there are none."""
    shuffles = [tensor for key, tensor in tensors.items() if re.fullmatch(pattern, key)]
    factor = {4: 2, 9: 3}.get(len(shuffles[0]) // n_feats, 0) if shuffles else 0
    return int(factor ** len(shuffles)) if shuffles else 0


def edsr(tensors: Tensors, _: int | None = None) -> EDSRConfig:
    """Configuration of an EDSR; direct upsampler if nothing shuffles before the tail."""
    n_feats, channels = tensors["head.weight"].shape[:2]
    shuffles = any(key.startswith("upsampler.") for key in tensors)
    scale = _scale(tensors, r"upsampler\.\d\.weight", n_feats)
    return EDSRConfig.model_validate(
        {
            "scale": scale if shuffles else math.isqrt(len(tensors["tail.0.weight"]) // channels),
            "n_blocks": _count(tensors, r"body\.(\d+)"),
            "n_feats": n_feats,
            "luma": channels == 1,
            # Not in the file: that of the published networks, unless the user names it.
            "res_scale": 0.1 if n_feats == 256 else 1.0,
            "upsampler": "shuffle" if shuffles else "direct",
            "mean_shift": shuffles,
        }
    )


def released_ranks(ranks: Tensor) -> Tensor:
    """Ranks of the blocks of QuantSR's checkpoint; none for another number of blocks."""
    if len(ranks) != len(RELEASED_ORDER):
        return torch.zeros_like(ranks)
    return torch.tensor(RELEASED_ORDER).argsort() + 1


def quantsr_c(tensors: Tensors, _: int | None = None) -> QuantSRCConfig:
    """Configuration of QuantSR-C as released: one block too many at lower depths."""
    values = edsr(tensors).model_dump() | {"name": "quantsr_c", "variant": "code"}
    return QuantSRCConfig.model_validate(values)


def msrresnet(tensors: Tensors, _: int | None) -> MSRResNetConfig:
    """Configuration of an MSRResNet."""
    n_feats = len(tensors["head.weight"])
    scale = _scale(tensors, r"upsampler\.\d\.conv\.weight", n_feats)
    values = {"scale": scale, "n_blocks": _count(tensors, r"body\.(\d+)"), "n_feats": n_feats}
    return MSRResNetConfig.model_validate(values)


def rdn(tensors: Tensors, _: int | None) -> RDNConfig:
    """Configuration of an RDN."""
    growth = len(tensors["body.0.layers.0.conv.weight"])
    return RDNConfig.model_validate(
        {
            "scale": _scale(tensors, r"upsampler\.\d\.weight", growth),
            "n_blocks": _count(tensors, r"body\.(\d+)"),
            "n_layers": _count(tensors, r"body\.0\.layers\.(\d+)"),
            "growth": growth,
            "n_feats": len(tensors["head.weight"]),
        }
    )


def srresnet(activation: str, tensors: Tensors, _: int | None) -> SRResNetConfig:
    """Configuration of an SRResNet with the given activation in its blocks."""
    n_feats = len(tensors["head.weight"])
    return SRResNetConfig.model_validate(
        {
            "scale": _scale(tensors, r"upsampler\.\d\.conv\.weight", n_feats),
            "n_blocks": _count(tensors, r"body\.(\d+)"),
            "n_feats": n_feats,
            "activation": activation,
        }
    )


def carn(tensors: Tensors, _: int | None) -> CARNConfig:
    """Configuration of a CARN, or of a CARN-M, whose blocks are grouped and shared."""
    n_feats = len(tensors["head.weight"])
    return CARNConfig.model_validate(
        {
            "scale": _scale(tensors, r"upsampler\.\d\.conv\.weight", n_feats),
            "n_feats": n_feats,
            "groups": n_feats // tensors["body.units.0.units.0.conv1.weight"].shape[1],
            "shared": _count(tensors, r"body\.units\.0\.units\.(\d)") == 1,
        }
    )


def idn(tensors: Tensors, scale: int | None) -> IDNConfig:
    """Configuration of an IDN: the original if it has one channel, else CADyQ's."""
    luma = tensors["tail.weight"].shape[1] == 1
    return IDNConfig.model_validate(
        {
            "scale": scale,
            "n_blocks": _count(tensors, r"body\.(\d+)"),
            "n_feats": len(tensors["head.conv.weight"]),
            "luma": luma,
            "compressed_act": luma,
        }
    )


def swinir(padding: str, tensors: Tensors, _: int | None) -> SwinIRConfig:
    """Configuration of a SwinIR with the given padding to whole windows."""
    embed_dim = len(tensors["head.weight"])
    groups = range(_count(tensors, r"body\.(\d+)"))
    table = "body.{}.layers.0.attention.position.table"
    return SwinIRConfig.model_validate(
        {
            "scale": math.isqrt(len(tensors["tail.0.weight"]) // 3),
            "embed_dim": embed_dim,
            "layers": [_count(tensors, rf"body\.{i}\.layers\.(\d+)") for i in groups],
            "heads": [tensors[table.format(i)].shape[1] for i in groups],
            "window": (math.isqrt(len(tensors[table.format(0)])) + 1) // 2,
            "mlp_ratio": len(tensors["body.0.layers.0.fc1.weight"]) // embed_dim,
            "padding": padding,
        }
    )


def _is(expected: tuple[Tensor, ...], tensor: Tensor, _: NetworkConfig) -> bool:
    """True for one of the expected tensors, within the precision of its dtype."""
    tolerance = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
    return any(
        tensor.shape == each.shape
        and torch.allclose(tensor.float(), each, rtol=max(tolerance, 1e-5), atol=1e-5)
        for each in expected
    )


def is_scalar(tensor: Tensor, _: NetworkConfig) -> bool:
    """True for a single number, ``[]`` or ``[1]``."""
    return tensor.numel() == 1


def is_unused(_tensor: Tensor, _: NetworkConfig) -> bool:
    """Accept any tensor: the project's code does not use it."""
    return True


def is_position_index(tensor: Tensor, config: NetworkConfig) -> bool:
    """True for SwinIR's index of the bias table for each pair of pixels."""
    assert isinstance(config, SwinIRConfig)
    return torch.equal(tensor, PositionBias(config.window, 1).index)


def is_shift_mask(tensor: Tensor, config: NetworkConfig) -> bool:
    """True for SwinIR's attention mask of some square picture."""
    assert isinstance(config, SwinIRConfig)
    side = config.window * math.isqrt(len(tensor))
    mask = shift_mask(side, side, config.window, tensor.device).squeeze(1)
    return torch.equal(tensor.float(), mask)


def last_quarter_first(rows: Tensor, _: NetworkConfig) -> Tensor:
    """Move the last quarter of the output channels to the front."""
    return rows.roll(len(rows) // 4, 0)


def before_res_scale(bound: Tensor, config: NetworkConfig) -> Tensor:
    """Bound of a branch that the project quantizes after the residual factor, and srq before it."""
    assert isinstance(config, EDSRConfig)
    return bound / config.res_scale


def of_unscaled(weight: Tensor, config: NetworkConfig) -> Tensor:
    """Weight of a branch, likewise."""
    assert isinstance(config, EDSRConfig)
    return weight * config.res_scale


def mean_shifts(weight: str, *ranges: float) -> dict[str, Check]:
    """Checks of the layers that subtract and add DIV2K's mean.

    Parameters
    ----------
    weight
        Infix of their keys.
    ranges
        Largest values of the pictures that a network may have been trained on.
    """
    mean, eye = torch.tensor(DIV2K_MEAN), torch.eye(3).view(3, 3, 1, 1)
    return {
        rf"(sub|add)_mean\.{weight}weight": partial(_is, (eye,)),
        rf"sub_mean\.{weight}bias": partial(_is, tuple(-each * mean for each in ranges)),
        rf"add_mean\.{weight}bias": partial(_is, tuple(each * mean for each in ranges)),
    }
