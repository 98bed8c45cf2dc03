"""Layouts of CADyQ's quantized checkpoints: with selectors, and its start at 8 bits by PAMS."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sr_quant_cli.methods.cadyq import CADyQConfig
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.modelfiles import layouts
from sr_quant_cli.modelfiles.layouts import Layout, Names, Quantized
from sr_quant_cli.modelfiles.shared_names import (
    BRANCH,
    CADYQ_IDN,
    CARN,
    EDSR_MEAN,
    QUANTIZED_EDSR,
    SRRESNET,
    UNUSED_MEAN,
)
from sr_quant_cli.networks.carn import CARNConfig
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Operands, Placement

_CANDIDATES = 3
_BITS = Bits(8, 8)

_FLOAT = Operands()
_INPUTS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    **dict.fromkeys(("block_in", "skip", "block_out", "fusion"), _FLOAT),
}
"""Inputs and weights of the convolutions in blocks, nothing else."""
_EDSR: Placement = {**RESIDUAL_CONVOLUTIONS, "block_in": Operands("low"), "skip": _FLOAT}
_SRRESNET: Placement = {
    **_INPUTS,
    "skip": Operands("low"),
    "block_first": Operands("fp32", "low"),
}
_IDN: Placement = {**_INPUTS, "head": Operands("int8", "int8")}


def _selectors(sites: dict[str, str]) -> Names:
    """Names below selectors, by their paths and the sites whose inputs they quantize."""
    names: Names = {}
    for path, site in sites.items():
        names[rf"{path}\.net_small\.0"] = f"bit_provider.layers.{site.replace('.', '_')}"
        names |= {
            rf"{path}\.quant_bit{k + 1}\.alpha": f"{site}.input_quantizer.alpha[{k}]"
            for k in range(_CANDIDATES)
        }
    return names


def _quantizers(sites: dict[str, str]) -> Names:
    """Names below quantizers of fixed bits."""
    return {rf"{path}\.alpha": f"{site}.input_quantizer.alpha" for path, site in sites.items()}


def _cadyq(config: object) -> CADyQConfig:
    scale = 1.0 if isinstance(config, CARNConfig) else 1000.0
    return CADyQConfig(variant="code", gradient_scale=scale)


def _pair(
    network: str,
    weights: Names,
    dynamic: dict[str, str],
    fixed: dict[str, str],
    both: dict[str, str],
    placement: Placement,
    **known: Any,
) -> Iterator[Layout]:
    """Layouts of a network with selectors, and of the same network by PAMS.

    Parameters
    ----------
    weights
        Names of the weights.
    dynamic, fixed
        Sites of the selectors by their paths, and those of the quantizers in their place.
    both
        Sites of quantizers of fixed bits in both, by their paths.
    """
    ignored = known.pop("ignored", {})
    for name, names, method in (
        ("CADyQ", weights | _selectors(dynamic) | _quantizers(both), _cadyq),
        (
            "CADyQ PAMS",
            weights | _quantizers(fixed | both),
            lambda _: PAMSConfig(variant="code"),
        ),
    ):
        yield Layout(
            f"{name} {network} (quantized)",
            names,
            ignored={**ignored, r".*\.max_val": layouts.is_scalar},
            quantized=Quantized(method, placement, bits=_BITS),
            **known,
        )


_CARN_UNITS = [
    (rf"b{i + 1}\.b{j + 1}", f"body.units.{i}.units.{j}") for i in range(3) for j in range(3)
]
_CARN_WEIGHTS: Names = {
    **{key: name for key, name in CARN.items() if ".conv" not in name or "upsampler" in name},
    **{rf"{path}\.body\.1": f"{unit}.conv1" for path, unit in _CARN_UNITS},
    **{rf"{path}\.body\.4": f"{unit}.conv2" for path, unit in _CARN_UNITS},
}


def _on_carn(first: str, second: str) -> dict[str, str]:
    """Sites of CARN's quantizers, by the paths of the two in a unit."""
    return {
        rf"{path}\.{end}": f"{unit}.conv{i + 1}"
        for path, unit in _CARN_UNITS
        for i, end in enumerate((first, second))
    }


_IDN_PARTS = {"top": "upper", "bottom": "lower"}

_IDN_WEIGHTS: Names = {
    **{
        key: name
        for key, name in CADYQ_IDN.items()
        if "enhancement" not in key and "fblock" not in key
    },
    r"fblock\.module\.1": "head.conv",
    r"fblock\.module\.4": "head2.conv",
    **{
        rf"dblocks\.(\d+)\.enhancement_{theirs}\.{3 * i + 1}": rf"body.\1.{ours}.{i}.conv"
        for theirs, ours in _IDN_PARTS.items()
        for i in range(3)
    },
}

_IDN_SELECTORS = {
    rf"dblocks\.(\d+)\.enhancement_{theirs}\.{3 * i}": rf"body.\1.{ours}.{i}.conv"
    for theirs, ours in _IDN_PARTS.items()
    for i in range(3)
}

# Quantizers of fixed bits are registered twice, once between the layers.
CADYQ = (
    *_pair(
        "EDSR",
        QUANTIZED_EDSR,
        {r"body\.(\d+)\.bitsel1": r"body.\1.block_in", r"body\.(\d+)\.body\.2": r"body.\1.conv2"},
        {
            r"body\.(\d+)\.quant_act1": r"body.\1.block_in",
            r"body\.(\d+)\.(?:quant_act2|body\.2)": r"body.\1.conv2",
        },
        {r"body\.(\d+)\.quant_act3": r"body.\1.block_out"},
        _EDSR,
        config=layouts.edsr,
        ignored=EDSR_MEAN,
        adapted=BRANCH,
    ),
    *_pair(
        "SRResNet",
        {
            # Biases in front of a normalization, which this network does not have.
            r"body\.(\d+)\.conv([12])\.bias": r"body.\1.norm\2.running_mean[-]",
            r"body\.(\d+)\.act": "act",
            **SRRESNET,
        },
        {r"body\.(\d+)\.classify1": r"body.\1.skip", r"body\.(\d+)\.classify2": r"body.\1.conv2"},
        {r"body\.(\d+)\.quant_act1": r"body.\1.skip", r"body\.(\d+)\.quant_act2": r"body.\1.conv2"},
        {},
        _SRRESNET,
        config=partial(layouts.srresnet, "shared"),
        ignored=UNUSED_MEAN,
        supplied={"num_batches_tracked": 0},
    ),
    *_pair(
        "CARN",
        _CARN_WEIGHTS,
        _on_carn(r"body\.0", r"body\.3"),
        _on_carn(r"(?:quant_act1|body\.0)", r"(?:quant_act2|body\.3)"),
        {},
        _INPUTS,
        config=layouts.carn,
        ignored=layouts.mean_shifts(r"shifter\.", 1.0),
        branches=r"upsample\.up(\d)\.",
    ),
    *_pair(
        "IDN",
        _IDN_WEIGHTS,
        _IDN_SELECTORS,
        {
            **_IDN_SELECTORS,
            **{
                rf"dblocks\.(\d+)\.quant_act{3 * part + i + 1}": rf"body.\1.{ours}.{i}.conv"
                for part, ours in enumerate(_IDN_PARTS.values())
                for i in range(3)
            },
        },
        {
            r"fblock\.(?:quant_actf1|module\.0)": "head.conv",
            r"fblock\.(?:quant_actf2|module\.3)": "head2.conv",
        },
        _IDN,
        config=layouts.idn,
        adapted={r"body\.\d+\.upper\.2\.conv\.(weight|bias)": layouts.last_quarter_first},
        tells_scale=False,
    ),
)
"""Layouts of CADyQ's quantized networks."""
