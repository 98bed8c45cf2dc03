"""Names of tensors that several layouts share."""

from sr_quant_cli.modelfiles import layouts
from sr_quant_cli.modelfiles.layouts import Adapt, Check, Names
from sr_quant_cli.networks.layers import RANGE

EDSR_MEAN = layouts.mean_shifts("", RANGE, 1.0)

EDSR_ENDS: Names = {
    r"head\.0": "head",
    r"body\.(\d+)": "body_last",
    r"tail\.0\.(\d+)": r"upsampler.\1",
    r"tail\.1": "tail",
}

# A block registers its second quantizer twice, once between its layers.
ACTIVATIONS = {
    r"body\.(\d+)\.quant_act1": r"body.\1.skip.input_quantizer",
    r"body\.(\d+)\.(?:quant_act2|body\.2)": r"body.\1.conv2.input_quantizer",
    r"body\.(\d+)\.quant_act3": r"body.\1.block_out.input_quantizer",
}

QUANTIZED_EDSR: Names = {
    **EDSR_ENDS,
    r"body\.(\d+)\.body\.0": r"body.\1.conv1",
    r"body\.(\d+)\.body\.3": r"body.\1.conv2",
}

BRANCH: dict[str, Adapt] = {
    r"body\.\d+\.block_out\.input_quantizer\.(alpha|upper|lower)": layouts.before_res_scale,
    r"body\.\d+\.block_out\.input_quantizer\.gate\.reduce\.weight": layouts.of_unscaled,
}

UNUSED_MEAN: dict[str, Check] = {r"(sub|add)_mean\.(weight|bias)": layouts.is_unused}
"""Mean shifts of an SRResNet: initialized at random, and never used."""

SRRESNET: Names = {
    r"head\.0": "head",
    r"head\.1": "act",
    r"body\.(\d+)\.conv([12])": r"body.\1.conv\2",
    r"body\.(\d+)\.bn([12])": r"body.\1.norm\2",
    r"body\.16": "body_last",
    r"body\.17": "body_norm",
    r"tail\.0\.0": "upsampler.0.conv",
    r"tail\.0\.2": "upsampler.0.act",
    r"tail\.0\.3": "upsampler.1.conv",
    r"tail\.0\.5": "upsampler.1.act",
    r"tail\.1": "tail",
}

CARN: Names = {
    r"entry": "head",
    **{
        rf"b{i + 1}\.b{j + 1}\.body\.{2 * k}": f"body.units.{i}.units.{j}.conv{k + 1}"
        for i in range(3)
        for j in range(3)
        for k in range(3)
    },
    **{
        rf"b{i + 1}\.c{j + 1}\.body\.0": f"body.units.{i}.fusions.{j}"
        for i in range(3)
        for j in range(3)
    },
    **{rf"c{i + 1}\.body\.0": f"body.fusions.{i}" for i in range(3)},
    r"upsample\.up\d?\.body\.0": "upsampler.0.conv",
    r"upsample\.up\d?\.body\.3": "upsampler.1.conv",
    r"exit": "tail",
}

CADYQ_IDN: Names = {
    r"fblock\.module\.0": "head.conv",
    r"fblock\.module\.2": "head2.conv",
    **{
        rf"dblocks\.(\d+)\.enhancement_{theirs}\.{2 * i}": rf"body.\1.{ours}.{i}.conv"
        for theirs, ours in (("top", "upper"), ("bottom", "lower"))
        for i in range(3)
    },
    r"dblocks\.(\d+)\.compression": r"body.\1.compression.conv",
    r"deconv": "tail",
}

RDN: Names = {
    r"SFENet1": "head",
    r"SFENet2": "head2",
    r"RDBs\.(\d+)\.convs\.(\d+)\.conv\.0": r"body.\1.layers.\2.conv",
    r"RDBs\.(\d+)\.LFF": r"body.\1.fusion",
    r"GFF\.0": "fusion",
    r"GFF\.1": "body_last",
}

RDN_ENDS: dict[str, Names] = {
    "": {r"UPNet\.0": "upsampler.0", r"UPNet\.2": "tail"},
    " x4": {r"UPNet\.([02])": r"upsampler.\1", r"UPNet\.4": "tail"},
}
