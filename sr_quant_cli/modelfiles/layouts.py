"""Layouts of checkpoints: what one is, and what the known ones need to be read."""

import math
import re
from collections.abc import Callable
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
from sr_quant_cli.networks.quantsr import QuantSRCConfig
from sr_quant_cli.networks.rdn import RDNConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.networks.swinir import PositionBias, SwinIRConfig, shift_mask
from sr_quant_cli.quant.plan import MethodConfig
from sr_quant_cli.quant.sites import Placement

Tensors = dict[str, Tensor]
Check = Callable[[Tensor, NetworkConfig], bool]
Adapt = Callable[[Tensor, NetworkConfig], Tensor]
Names = dict[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Quantized:
    """How a network was quantized whose tensors have a layout.

    Parameters
    ----------
    method
        Configuration of the method, by that of the network.
    changes
        Kinds of sites that are quantized otherwise than by the method's placement.
    on_request
        Nothing in a file tells it from one in full precision: only if the user names the method.
    """

    method: Callable[[NetworkConfig], MethodConfig]
    changes: Placement = field(default_factory=dict)
    on_request: bool = False


@dataclass(frozen=True)
class Layout:
    """How one project names the tensors of one network.

    Parameters
    ----------
    source
        Shown to the user.
    names
        Regular expressions of whole keys, or of all before their last dot, and what replaces them;
        several names: the rows are split equally among them. Of a name that ends in ``.bits`` the
        value is the number of bits of the quantizer there.
    config
        Configuration of a network from its tensors under srq's names, and the scale if it is known.
    ignored
        Regular expressions of whole keys that are not kept, and whether a tensor is as it must be.
    supplied
        What a file need not hold, by the last part of srq's names.
    adapted
        Regular expressions of srq's names, and what makes of a tensor what it is here.
    quantized
        None: in full precision.
    branches
        Regular expression of the beginnings of keys, with the scale as its group, that exist once
        for each scale in the file.
    tells_scale
        The tensors say the scale.
    """

    source: str
    names: Names
    config: Callable[[Tensors, int | None], NetworkConfig]
    ignored: dict[str, Check] = field(default_factory=dict)
    supplied: dict[str, float] = field(default_factory=dict)
    adapted: dict[str, Adapt] = field(default_factory=dict)
    quantized: Quantized | None = None
    branches: str = ""
    tells_scale: bool = True

    def rename(self, key: str) -> tuple[str, ...] | None:
        """A key under srq's names; None: it is of another layout."""
        module, dot, kind = key.rpartition(".")
        for known, rest in ((key, ""), (module, dot + kind)):
            for pattern, names in self.names.items():
                if match := re.fullmatch(pattern, known):
                    templates = (names,) if isinstance(names, str) else names
                    return tuple(match.expand(name) + rest for name in templates)
        return None

    def check(self, key: str) -> Check | None:
        """What a tensor that is not kept must be; None: it is kept, or of another layout."""
        for pattern, check in self.ignored.items():
            if re.fullmatch(pattern, key):
                return check
        return None


def _count(tensors: Tensors, pattern: str) -> int:
    """How many different groups a pattern finds at the beginnings of the keys."""
    return len({match[1] for key in tensors if (match := re.match(pattern, key))})


def _scale(tensors: Tensors, pattern: str, n_feats: int) -> int:
    """Scale of convolutions in front of PixelShuffles to ``n_feats`` features; 0: of none."""
    shuffles = [tensor for key, tensor in tensors.items() if re.fullmatch(pattern, key)]
    factor = {4: 2, 9: 3}.get(len(shuffles[0]) // n_feats, 0) if shuffles else 0
    return int(factor ** len(shuffles)) if shuffles else 0


def edsr(tensors: Tensors, _: int | None = None) -> EDSRConfig:
    """EDSR of its tensors under srq's names; direct where nothing shuffles in front of the tail."""
    n_feats = len(tensors["head.weight"])
    shuffles = any(key.startswith("upsampler.") for key in tensors)
    scale = _scale(tensors, r"upsampler\.\d\.weight", n_feats)
    return EDSRConfig.model_validate(
        {
            "scale": scale if shuffles else math.isqrt(len(tensors["tail.0.weight"]) // 3),
            "n_blocks": _count(tensors, r"body\.(\d+)"),
            "n_feats": n_feats,
            # No file says it: as the published networks have it, unless the user does.
            "res_scale": 0.1 if n_feats == 256 else 1.0,
            "upsampler": "shuffle" if shuffles else "direct",
            "mean_shift": shuffles,
        }
    )


def quantsr_c(tensors: Tensors, _: int | None = None) -> QuantSRCConfig:
    """QuantSR-C as released: an EDSR's tensors, one block too many at lower depths."""
    values = edsr(tensors).model_dump() | {"name": "quantsr_c", "variant": "code"}
    return QuantSRCConfig.model_validate(values)


def msrresnet(tensors: Tensors, _: int | None) -> MSRResNetConfig:
    """MSRResNet of its tensors."""
    n_feats = len(tensors["head.weight"])
    scale = _scale(tensors, r"upsampler\.\d\.conv\.weight", n_feats)
    values = {"scale": scale, "n_blocks": _count(tensors, r"body\.(\d+)"), "n_feats": n_feats}
    return MSRResNetConfig.model_validate(values)


def rdn(tensors: Tensors, _: int | None) -> RDNConfig:
    """RDN of its tensors."""
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
    """SRResNet of its tensors, and the activation function of its blocks."""
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
    """CARN, or CARN-M where blocks are grouped and shared."""
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
    """IDN of its tensors: the original where it has one channel, else CADyQ's."""
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
    """SwinIR of its tensors, and how pictures are padded to windows."""
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
    """Whether it is one of the tensors, as far as its type holds them."""
    tolerance = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
    return any(
        tensor.shape == each.shape
        and torch.allclose(tensor.float(), each, rtol=max(tolerance, 1e-5), atol=1e-5)
        for each in expected
    )


def is_scalar(tensor: Tensor, _: NetworkConfig) -> bool:
    """Whether it is one number, ``[]`` or ``[1]``."""
    return tensor.numel() == 1


def is_unused(_tensor: Tensor, _: NetworkConfig) -> bool:
    """Whatever it is: nothing there reads it."""
    return True


def is_position_index(tensor: Tensor, config: NetworkConfig) -> bool:
    """Whether it has the row of SwinIR's bias table for each pair of pixels."""
    assert isinstance(config, SwinIRConfig)
    return torch.equal(tensor, PositionBias(config.window, 1).index)


def is_shift_mask(tensor: Tensor, config: NetworkConfig) -> bool:
    """Whether it is SwinIR's mask for some square picture."""
    assert isinstance(config, SwinIRConfig)
    side = config.window * math.isqrt(len(tensor))
    mask = shift_mask(side, side, config.window, tensor.device).squeeze(1)
    return torch.equal(tensor.float(), mask)


def last_quarter_first(rows: Tensor, _: NetworkConfig) -> Tensor:
    """Bring the last quarter of the output channels to the front."""
    return rows.roll(len(rows) // 4, 0)


def before_res_scale(bound: Tensor, config: NetworkConfig) -> Tensor:
    """A bound of a branch that is quantized behind its factor there, and in front of it here."""
    assert isinstance(config, EDSRConfig)
    return bound / config.res_scale


def of_unscaled(weight: Tensor, config: NetworkConfig) -> Tensor:
    """A weight on a branch, likewise."""
    assert isinstance(config, EDSRConfig)
    return weight * config.res_scale


def mean_shifts(weight: str, *ranges: float) -> dict[str, Check]:
    """The layers that subtract and add DIV2K's mean.

    Parameters
    ----------
    weight
        What their keys end with.
    ranges
        Of the pictures that a network may have been trained on.
    """
    mean, eye = torch.tensor(DIV2K_MEAN), torch.eye(3).view(3, 3, 1, 1)
    return {
        rf"(sub|add)_mean\.{weight}weight": partial(_is, (eye,)),
        rf"sub_mean\.{weight}bias": partial(_is, tuple(-each * mean for each in ranges)),
        rf"add_mean\.{weight}bias": partial(_is, tuple(each * mean for each in ranges)),
    }
