"""Known layouts: the names that other projects give to the tensors of networks.

Tensors of keys with the same name here must be equal: projects store a PReLU or quantizer that
several blocks share under each of its paths.

===========================  ====================================================================
source                       network, and remarks
===========================  ====================================================================
EDSR-PyTorch                 EDSR; also full-precision models of PAMS, DDTB and CADyQ
BasicSR EDSR                 EDSR, input 0..1
MLCommons mobile EDSR        EDSR with a direct upsampler, without a mean
BasicSR MSRResNet            MSRResNet
RDN, RDN x4                  RDN of all projects; for ``method`` daq quantized by DAQ
DAQ EDSR, DAQ SRResNet       float weights; for ``method`` daq quantized by DAQ
CADyQ SRResNet               one PReLU for head and blocks
DDTB SRResNet                a PReLU in each block, full precision or quantized
CARN-pytorch                 CARN and CARN-M, of one scale or x2, x3, x4 in one file; CADyQ's CARN
IDN (luma)                   the original IDN
CADyQ IDN                    RGB; takes out the last quarter of the features at a split
SwinIR                       SwinIR with ``pixelshuffledirect``
2DQuant                      SwinIR, quantized; its bits are in the file
PAMS EDSR, DDTB EDSR         quantized; first convolutions of blocks get float features
PAMS RDN, DDTB RDN           quantized; concatenations carry quantized features
AdaBM EDSR, SRResNet, RDN,   quantized, with bits by picture and layer; ends in float, or at 8 bits
RDN x4                       (option ``--fq``)
QuantSR-C                    quantized; with the block ranks of the code, for 32 blocks
CADyQ EDSR, SRResNet,        quantized, with selectors among 4, 6 and 8 bits; or at fixed bits by
CARN, IDN                    PAMS (of EDSR for ``project`` CADyQ, as PAMS' files have equal names)
===========================  ====================================================================

Scales, sizes and attention heads follow from shapes. Files do not contain EDSR's residual factor
(0.1 with 256 features, as published), the range of the training pictures of a network without a
mean (255), the scale of an IDN, the padding of SwinIR (BasicSR's for full precision, the authors'
for 2DQuant) and DAQ's ``qq`` (8 with 256 features, else 4). CADyQ's full-precision IDN numbers its
layers as in the code, without the selectors. Bits of CADyQ's quantized files are 8 by default.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sr_quant_cli.methods.daq import DAQConfig
from sr_quant_cli.methods.ddtb import DDTBConfig
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.methods.quantsr import QuantSRConfig
from sr_quant_cli.methods.twodquant import TwoDQuantConfig
from sr_quant_cli.modelfiles import layouts
from sr_quant_cli.modelfiles.adabm_layouts import ADABM
from sr_quant_cli.modelfiles.cadyq_layouts import CADYQ
from sr_quant_cli.modelfiles.layouts import Check, Layout, Names, Quantized
from sr_quant_cli.modelfiles.shared_names import (
    ACTIVATIONS,
    BRANCH,
    CADYQ_IDN,
    CARN,
    EDSR_ENDS,
    EDSR_MEAN,
    QUANTIZED_EDSR,
    RDN,
    RDN_ENDS,
    SRRESNET,
    UNUSED_MEAN,
)
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Operands, Placement

_DAQ = Quantized(
    lambda config: DAQConfig(variant="code", qq=8 if getattr(config, "n_feats", 0) == 256 else 4),
    on_request=True,
)

_BASICSR_EDSR: Names = {
    r"conv_first": "head",
    r"body\.(\d+)\.conv([12])": r"body.\1.conv\2",
    r"conv_after_body": "body_last",
    r"upsample\.(\d+)": r"upsampler.\1",
    r"conv_last": "tail",
}


def _ddtb_quantizers(activations: dict[str, str]) -> Names:
    names: Names = {
        rf"{path}\.atten_c\.2": f"{name}.gate.norm" for path, name in activations.items()
    }
    parts = {
        r"alpha_upper": "upper",
        r"alpha_lower": "lower",
        r"is_dynamic": "dynamic",
        r"atten_c\.1\.weight": "gate.reduce.weight",
        r"atten_c\.5\.weight": "gate.expand.weight",
    }
    for path, name in activations.items():
        names |= {rf"{path}\.{part}": f"{name}.{ours}" for part, ours in parts.items()}
    return names


_DDTB_STATE: dict[str, float] = {
    # Published networks were trained to the end, when chosen gates are active.
    **{"batches": 1, "applied": 1, "seen": 0, "means": 0, "squares": 0},
    "num_batches_tracked": 0,
}

# A block's first layer has a quantizer that is never called.
_RDN_UNUSED = r"RDBs\.\d+\.convs\.0\.act"
_RDN_QUANTIZER = r"(RDBs\.\d+\.(act[12]|convs\.\d+\.act)|act)"
_RDN_ACTIVATIONS = {
    r"RDBs\.(\d+)\.act1": r"body.\1.block_in.input_quantizer",
    r"RDBs\.(\d+)\.convs\.([1-9]\d*)\.act": r"body.\1.layers.\2.dense_in.input_quantizer",
    r"RDBs\.(\d+)\.act2": r"body.\1.fusion.input_quantizer",
    r"act": "fusion.input_quantizer",
}

_RDN_PLACEMENT: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "block_in": Operands("low"),
    "skip": Operands(),
    "block_out": Operands(),
    "dense_in": Operands("low"),
    "fusion": Operands("low", "low"),
    "body_last": Operands("fp32", "low"),
}


def _rdn(source: str, quantizers: Names | None = None, **known: Any) -> Iterator[Layout]:
    """Layouts for x2 and x3, and for x4, which numbers its end differently."""
    for scale, ends in RDN_ENDS.items():
        names = {**RDN, **ends, **(quantizers or {})}
        yield Layout(f"{source}{scale}", names, layouts.rdn, **known)


_DDTB_SRRESNET: Names = {
    r"conv_input": "head",
    r"relu": "act",
    r"residual\.(\d+)\.conv([12])": r"body.\1.conv\2",
    r"residual\.(\d+)\.in([12])": r"body.\1.norm\2",
    r"residual\.(\d+)\.relu": r"body.\1.act",
    r"conv_mid": "body_last",
    r"bn_mid": "body_norm",
    r"upscale\.0": "upsampler.0.conv",
    r"upscale\.2": "upsampler.0.act",
    r"upscale\.3": "upsampler.1.conv",
    r"upscale\.5": "upsampler.1.act",
    r"conv_output": "tail",
}

_LUMA_IDN: Names = {
    r"conv1": "head.conv",
    r"conv2": "head2.conv",
    **{
        rf"conv{block + 3}_{i + 1}": f"body.{block}.{('upper', 'lower')[i // 3]}.{i % 3}.conv"
        for block in range(4)
        for i in range(6)
    },
    **{rf"down{block + 1}": f"body.{block}.compression.conv" for block in range(4)},
    r"upsample": "tail",
}

_LAYER = r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\."
_OURS = r"body.\1.layers.\2."
_ATTENTION = rf"{_OURS}attention."

_SWINIR: Names = {
    r"conv_first": "head",
    r"patch_embed\.norm": "body_norm",
    rf"{_LAYER}norm([12])": rf"{_OURS}norm\3",
    rf"{_LAYER}attn\.qkv": tuple(f"{_ATTENTION}{operand}" for operand in "qkv"),
    rf"{_LAYER}attn\.proj": f"{_ATTENTION}proj",
    rf"{_LAYER}attn\.relative_position_bias_table": f"{_ATTENTION}position.table",
    rf"{_LAYER}mlp\.fc([12])": rf"{_OURS}fc\3",
    r"layers\.(\d+)\.conv": r"body.\1.conv",
    r"norm": "norm",
    r"conv_after_body": "body_last",
    r"upsample\.0": "tail.0",
}

_COMPUTED: dict[str, Check] = {
    rf"{_LAYER}attn\.relative_position_index": layouts.is_position_index,
    rf"{_LAYER}attn_mask": layouts.is_shift_mask,
}


def _twodquant() -> Names:
    layers = {
        rf"{_LAYER}attn\.(?:qkv\.)?(q|k|v|proj)": rf"{_ATTENTION}\3",
        rf"{_LAYER}mlp\.(fc[12])": rf"{_OURS}\3",
    }
    quantizers = {
        **{
            rf"{path}\.{theirs}_quantizer": f"{name}.{ours}_quantizer"
            for path, name in layers.items()
            for theirs, ours in (("weight", "weight"), ("act", "input"))
        },
        **{
            rf"{_LAYER}attn\.mymodule_{operand}": f"{_ATTENTION}{product}_quantizer"
            for operand, product in {
                "q": "scores.left",
                "k": "scores.right",
                "a": "mix.left",
                "v": "mix.right",
            }.items()
        },
    }
    parts = {"lower_bound": "lower", "upper_bound": "upper", "n_bit": "bits"}
    return {
        **{key: names for key, names in _SWINIR.items() if not key.endswith("qkv")},
        **layers,
        **{
            rf"{path}\.{part}": f"{name}.{ours}"
            for path, name in quantizers.items()
            for part, ours in parts.items()
        },
    }


LAYOUTS = (
    Layout(
        "EDSR-PyTorch",
        {
            **EDSR_ENDS,
            r"body\.(\d+)\.body\.0": r"body.\1.conv1",
            r"body\.(\d+)\.body\.2": r"body.\1.conv2",
        },
        layouts.edsr,
        EDSR_MEAN,
    ),
    Layout("BasicSR EDSR", _BASICSR_EDSR, layouts.edsr),
    Layout(
        "MLCommons mobile EDSR",
        {
            r"head": "head",
            r"body\.(\d+)\.0": r"body.\1.conv1",
            r"body\.(\d+)\.1": r"body.\1.conv2",
            r"body_tail": "body_last",
            r"up": "tail.0",
        },
        layouts.edsr,
    ),
    Layout(
        "BasicSR MSRResNet",
        {
            r"conv_first": "head",
            r"body\.(\d+)\.conv([12])": r"body.\1.conv\2",
            r"upconv1": "upsampler.0.conv",
            r"upconv2": "upsampler.1.conv",
            r"conv_hr": "last",
            r"conv_last": "tail",
        },
        layouts.msrresnet,
    ),
    *_rdn("RDN", quantized=_DAQ),
    Layout(
        "DAQ EDSR",
        {**EDSR_ENDS, r"body\.(\d+)\.conv([12])": r"body.\1.conv\2"},
        layouts.edsr,
        EDSR_MEAN,
        quantized=_DAQ,
    ),
    Layout(
        "DAQ SRResNet",
        SRRESNET,
        partial(layouts.srresnet, "relu"),
        UNUSED_MEAN,
        {"num_batches_tracked": 0},
        quantized=_DAQ,
    ),
    Layout(
        "CADyQ SRResNet",
        {**SRRESNET, r"body\.(\d+)\.act": "act"},
        partial(layouts.srresnet, "shared"),
        UNUSED_MEAN,
        {"num_batches_tracked": 0},
    ),
    Layout(
        "DDTB SRResNet",
        _DDTB_SRRESNET,
        partial(layouts.srresnet, "prelu"),
        supplied={"num_batches_tracked": 0},
    ),
    Layout(
        "DDTB SRResNet (quantized)",
        {
            **_DDTB_SRRESNET,
            **_ddtb_quantizers({r"residual\.(\d+)\.act([12])": r"body.\1.conv\2.input_quantizer"}),
        },
        partial(layouts.srresnet, "prelu"),
        {r"residual\.\d+\.act[12]\.(max|min)_val": layouts.is_scalar},
        _DDTB_STATE,
        quantized=Quantized(
            lambda _: DDTBConfig(variant="code", dynamic_ratio=0.1),
            {
                "block_first": Operands("low", "low"),
                "skip": Operands(),
                "block_out": Operands(),
            },
        ),
    ),
    Layout(
        "CARN-pytorch",
        CARN,
        layouts.carn,
        layouts.mean_shifts(r"shifter\.", 1.0),
        branches=r"upsample\.up(\d)\.",
    ),
    Layout("IDN (luma)", _LUMA_IDN, layouts.idn, tells_scale=False),
    Layout(
        "CADyQ IDN",
        CADYQ_IDN,
        layouts.idn,
        adapted={r"body\.\d+\.upper\.2\.conv\.(weight|bias)": layouts.last_quarter_first},
        tells_scale=False,
    ),
    Layout("SwinIR", _SWINIR, partial(layouts.swinir, "reflect"), _COMPUTED),
    Layout(
        "2DQuant",
        _twodquant(),
        partial(layouts.swinir, "symmetric"),
        _COMPUTED,
        {"batches": 1},
        quantized=Quantized(lambda _: TwoDQuantConfig(variant="code"), {"block": Operands()}),
    ),
    Layout(
        "PAMS EDSR",
        {**QUANTIZED_EDSR, **ACTIVATIONS},
        layouts.edsr,
        {**EDSR_MEAN, r"body\.\d+\.(quant_act[123]|body\.2)\.max_val": layouts.is_scalar},
        adapted=BRANCH,
        quantized=Quantized(lambda _: PAMSConfig(variant="code")),
    ),
    Layout(
        "DDTB EDSR",
        {**QUANTIZED_EDSR, **_ddtb_quantizers(ACTIVATIONS)},
        layouts.edsr,
        {**EDSR_MEAN, r"body\.\d+\.(quant_act[123]|body\.2)\.(max|min)_val": layouts.is_scalar},
        _DDTB_STATE,
        BRANCH,
        Quantized(lambda _: DDTBConfig(variant="code")),
    ),
    *_rdn(
        "PAMS RDN",
        {**_RDN_ACTIVATIONS},
        ignored={
            rf"{_RDN_UNUSED}\..*": layouts.is_unused,
            rf"{_RDN_QUANTIZER}\.max_val": layouts.is_scalar,
        },
        quantized=Quantized(lambda _: PAMSConfig(variant="code"), _RDN_PLACEMENT),
    ),
    *_rdn(
        "DDTB RDN",
        _ddtb_quantizers(_RDN_ACTIVATIONS),
        ignored={
            rf"{_RDN_UNUSED}\..*": layouts.is_unused,
            rf"{_RDN_QUANTIZER}\.(max|min)_val": layouts.is_scalar,
        },
        supplied=_DDTB_STATE,
        quantized=Quantized(
            lambda _: DDTBConfig(
                variant="code",
                weight_percentile=100,
                activation_percentile=95,
                dynamic_ratio=0.5,
            ),
            _RDN_PLACEMENT,
        ),
    ),
    Layout(
        "QuantSR-C",
        {
            **_BASICSR_EDSR,
            r"body\.(\d+)\.learnable_shortcut": r"body.\1.shortcut_scale",
            r"body\.(\d+)\.conv([12])\.alpha": r"body.\1.conv\2.weight_quantizer.value",
            r"body\.(\d+)\.conv([12])\.init_state": r"body.\1.conv\2.weight_quantizer.batches",
            r"body\.(\d+)\.conv([12])\.channel_threshold": r"body.\1.conv\2.input_quantizer.shift",
            r"body\.(\d+)\.conv([12])\.ActOurs\.alpha": r"body.\1.conv\2.input_quantizer.value",
            r"body\.(\d+)\.conv([12])\.ActOurs\.init_state": (
                r"body.\1.conv\2.input_quantizer.batches"
            ),
            r"body\.(\d+)\.conv([12])\.ActOurs\.signed": r"body.\1.conv\2.input_quantizer.signed",
        },
        layouts.quantsr_c,
        supplied={"ranks": layouts.released_ranks},
        quantized=Quantized(lambda _: QuantSRConfig(variant="code")),
    ),
    *ADABM,
    *CADYQ,
)
"""Known layouts, in the order in which they are tried."""

REFUSED = {
    r"conv_before_upsample\..*|conv_up[12]\..*": "a SwinIR upsampler other than pixelshuffledirect",
}
"""Regular expressions for keys of networks that srq does not have."""
