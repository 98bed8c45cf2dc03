"""Layouts of AdaBM's checkpoints, with and without its option ``--fq``."""

from functools import partial

from sr_quant_cli.methods.adabm import THRESHOLD_GAIN, AdaBMConfig
from sr_quant_cli.modelfiles import layouts
from sr_quant_cli.modelfiles.layouts import Adapt, Layout, Names, Quantized
from sr_quant_cli.modelfiles.shared_names import EDSR_ENDS, EDSR_MEAN, RDN, RDN_ENDS, SRRESNET
from sr_quant_cli.quant.sites import Operands

_PARTS = {
    "lower_a": "input_quantizer.lower",
    "upper_a": "input_quantizer.upper",
    "upper_w": "weight_quantizer.value",
}
_QUANTIZED = Quantized(
    lambda _: AdaBMConfig(variant="code"),
    if_found={
        "fusion": Operands("low", "low"),
        "body_last": Operands("low", "low"),
        **dict.fromkeys(("head", "upsampler", "tail"), Operands("int8", "int8")),
    },
)
_THRESHOLDS: dict[str, Adapt] = {
    r"bit_provider\.slope_thresholds": lambda slopes, _: slopes / THRESHOLD_GAIN
}

_CONVOLUTION = r"body\.(\d+)\.conv([12])"
_EDSR: Names = {**EDSR_ENDS, _CONVOLUTION: r"body.\1.conv\2"}
_SRRESNET: Names = {**SRRESNET, r"body\.(\d+)\.act": r"body.\1.act"}

# The last convolution of the body is numbered as the block behind the last one.
_IN_BLOCKS = {_CONVOLUTION: r"\1.\2", r"body\.(\d+)": r"\1"}
_IN_RDN = {
    r"RDBs\.(\d+)\.convs\.(\d+)\.conv\.0": r"\1.\2",
    r"GFF\.([01])": r"inf.\1",
}


def _with_quantizers(names: Names, offsets: dict[str, str]) -> Names:
    """Names of a network with those of its ranges, thresholds and offsets.

    Parameters
    ----------
    names
        Sites of the convolutions by their paths.
    offsets
        Places of the offsets of layers, by the paths of the layers.
    """
    return {
        "measure_l": "bit_provider.slope_thresholds[0]",
        "measure_u": "bit_provider.slope_thresholds[1]",
        **{
            rf"{path}\.measure_layer": f"bit_provider.offsets[{place}]"
            for path, place in offsets.items()
        },
        **{
            rf"{path}\.{part}": f"{site}.{ours}"
            for path, site in names.items()
            for part, ours in _PARTS.items()
        },
        **names,
    }


ADABM = (
    Layout(
        "AdaBM EDSR",
        _with_quantizers(_EDSR, _IN_BLOCKS),
        layouts.edsr,
        EDSR_MEAN,
        {"batches": 1},
        _THRESHOLDS,
        _QUANTIZED,
    ),
    Layout(
        "AdaBM SRResNet",
        _with_quantizers(_SRRESNET, _IN_BLOCKS),
        partial(layouts.srresnet, "prelu"),
        supplied={"batches": 1, "num_batches_tracked": 0},
        adapted=_THRESHOLDS,
        quantized=_QUANTIZED,
    ),
    *(
        Layout(
            f"AdaBM RDN{scale}",
            _with_quantizers({**RDN, **ends}, _IN_RDN),
            layouts.rdn,
            supplied={"batches": 1},
            adapted=_THRESHOLDS,
            quantized=_QUANTIZED,
        )
        for scale, ends in RDN_ENDS.items()
    ),
)
"""Layouts of AdaBM's networks."""
