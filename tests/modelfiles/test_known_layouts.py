"""Checkpoints with the names and shapes of each project, read back to equal outputs.

The names here go the other way, from srq's to the project's, and are written down once more.
"""

import re

import pytest
import torch
from torch.nn import functional as F

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods.daq import DAQConfig
from sr_quant_cli.methods.ddtb import DDTBConfig
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.modelfiles import layouts
from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.networks.quantsr import QuantSRC, QuantSRCConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS
from tests.helpers import tiny_edsr
from tests.modelfiles.released import (
    DDTB_SRRESNET,
    EDSR,
    RDN_AS_RELEASED,
    agrees,
    cadyq_idn,
    carn,
    ddtb_srresnet,
    ddtb_state,
    edsr_for,
    fresh,
    imported,
    luma_idn,
    mean_shifts,
    msrresnet,
    pams,
    quantized,
    quantsr_c,
    rdn,
    rdn_rules,
    renamed,
    small_rdn,
    srresnet,
    swinir,
    twice,
    twodquant,
    with_unused,
)


@pytest.mark.parametrize(
    ("make", "scale", "source"),
    [
        *((msrresnet, scale, "BasicSR MSRResNet") for scale in (2, 3, 4)),
        *((rdn, scale, "RDN") for scale in (2, 3, 4)),
        (lambda _: srresnet("relu"), 4, "DAQ SRResNet"),
        (lambda _: srresnet("shared"), 4, "CADyQ SRResNet"),
        (lambda _: srresnet("shared", 2), 2, "CADyQ SRResNet"),
        *((ddtb_srresnet, scale, "DDTB SRResNet") for scale in (2, 4)),
        *((carn, scale, "CARN-pytorch") for scale in (2, 3, 4)),
        (lambda scale: carn(scale, mobile=True), 4, "CARN-pytorch"),
        *((swinir, scale, "SwinIR") for scale in (2, 3, 4)),
    ],
)
def test_outputs_are_those_of_the_checkpoint(tmp_path, make, scale, source):
    network, tensors = make(scale)
    found, said = imported(tmp_path, tensors)
    assert said.startswith(source)
    assert agrees(found, network)


@pytest.mark.slow
@pytest.mark.parametrize("make", [luma_idn, cadyq_idn])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_idn_has_its_scale_from_the_user_or_its_name(tmp_path, make, scale):
    network, tensors = make(scale)
    assert agrees(imported(tmp_path, tensors, scale=scale)[0], network)
    assert agrees(imported(tmp_path, tensors, f"idn_x{scale}.pth")[0], network)
    assert imported(tmp_path, tensors, f"idn_x{scale}.pth", scale=2)[0].scale == 2
    with pytest.raises(UsageError, match=r"net\.pth: .* `scale`"):
        imported(tmp_path, tensors)


def test_idn_of_cadyq_computes_what_its_code_does(tmp_path):
    _, tensors = cadyq_idn(3)
    found, _ = imported(tmp_path, tensors, scale=3)

    def conv(x, path, groups=1):
        weight = tensors[f"{path}.weight"]
        return F.conv2d(
            x, weight, tensors[f"{path}.bias"], padding=weight.shape[-1] // 2, groups=groups
        )

    def row(x, path, groups):
        for index, count in enumerate(groups):
            x = F.leaky_relu(conv(x, f"{path}.{2 * index}", count), 0.05)
        return x

    x = torch.rand(2, 3, 7, 6)
    deep = row(255 * x, "fblock.module", (1, 1))
    for block in range(4):
        top = row(deep, f"dblocks.{block}.enhancement_top", (1, 4, 1))
        bottom = row(top[:, :12], f"dblocks.{block}.enhancement_bottom", (1, 4, 1))
        merged = bottom + torch.cat([deep, top[:, 12:]], 1)
        deep = conv(merged, f"dblocks.{block}.compression")
    ends = (tensors["deconv.weight"], tensors["deconv.bias"])
    details = F.conv_transpose2d(deep, *ends, stride=3, padding=8, output_padding=2)
    base = F.interpolate(255 * x, scale_factor=3, mode="bicubic", align_corners=False)
    with torch.no_grad():
        assert torch.allclose(found(x), (details + base) / 255, atol=1e-5)
    kinds = {site.path for site in found.sites()}
    assert "body.0.compression.conv" in kinds
    assert "body.0.compression.act_in" not in kinds


def test_one_scale_of_a_file_that_holds_several(tmp_path):
    networks, tensors = {}, {}
    for scale in (4, 3, 2):
        networks[scale], more = carn(scale, mobile=True, several=True)
        tensors = more | {key: t for key, t in tensors.items() if key.startswith("upsample.")}
    for scale in (2, 3, 4):
        networks[scale].load_state_dict(
            {
                **networks[2].state_dict(),
                **{k: t for k, t in networks[scale].state_dict().items() if "upsampler" in k},
            }
        )
        assert agrees(imported(tmp_path, tensors, scale=scale)[0], networks[scale])
    assert agrees(imported(tmp_path, tensors)[0], networks[4])
    del tensors["upsample.up2.body.0.bias"]
    with pytest.raises(UsageError, match=r"net\.pth lacks upsampler\.0\.conv\.bias"):
        imported(tmp_path, tensors)
    tensors = {key: t for key, t in tensors.items() if "up4" not in key and "up2" not in key}
    assert imported(tmp_path, tensors)[0].scale == 3
    with pytest.raises(UsageError, match="enlarges by x3, not by 4"):
        imported(tmp_path, tensors, scale=4)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_pams(tmp_path, shape):
    network = quantized(edsr_for(), PAMSConfig(variant="code"))
    found, source = imported(tmp_path, {"state_dict": pams(network, shape)}, w=4, a=3)
    assert source == "PAMS EDSR"
    assert found.quantization == network.quantization
    assert agrees(found, network)
    with pytest.raises(UsageError, match=r"net\.pth: files of pams do not hold their bits.*`w`"):
        import_checkpoint(tmp_path / "net.pth")
    with pytest.raises(UsageError, match="`method` ddtb"):
        import_checkpoint(tmp_path / "net.pth", UserHints(method="ddtb"))


def test_ddtb(tmp_path):
    network = quantized(edsr_for(), DDTBConfig(variant="code"))
    tensors = twice(ddtb_state(renamed(network, EDSR)))
    assert sum(key.startswith("body.0.") for key in tensors) == 52
    found, source = imported(tmp_path, tensors, w=4, a=3)
    assert source == "DDTB EDSR"
    assert agrees(found, network)


def test_ranges_behind_the_factor_of_a_branch(tmp_path):
    """With 256 features, PAMS applies the factor 0.1 before the quantizer, srq after it."""
    for method in (PAMSConfig(variant="code"), DDTBConfig(variant="code")):
        network = quantized(edsr_for(0.1), method)
        tensors = renamed(network, EDSR)
        tensors = twice(ddtb_state(tensors)) if method.name == "ddtb" else pams(network)
        for key in tensors:
            if re.search(r"quant_act3\.alpha", key):
                tensors[key] = tensors[key] * 0.1
            if re.search(r"quant_act3\.atten_c\.1", key):
                tensors[key] = tensors[key] * 10
        found, _ = imported(tmp_path, tensors, w=4, a=3)
        x = torch.rand(1, 3, 6, 5)
        with torch.no_grad():
            assert torch.allclose(found(x), network(x), atol=1e-4)


def test_ddtb_srresnet(tmp_path):
    network = fresh(SRResNetConfig(scale=4, n_feats=4, n_blocks=2))
    quantized(network, DDTBConfig(variant="code", dynamic_ratio=0.1), RESIDUAL_CONVOLUTIONS)
    tensors = ddtb_state(renamed(network, DDTB_SRRESNET))
    found, source = imported(tmp_path, tensors, w=4, a=3)
    assert source == "DDTB SRResNet (quantized)"
    assert agrees(found, network)


@pytest.mark.parametrize("scale", [2, 4])
def test_pams_rdn(tmp_path, scale):
    network = quantized(small_rdn(scale), PAMSConfig(variant="code"), RDN_AS_RELEASED)
    tensors = renamed(network, rdn_rules(scale))
    for key in [key for key in tensors if key.endswith("alpha")]:
        tensors[key.replace("alpha", "max_val")] = torch.rand(1)
    found, source = imported(tmp_path, with_unused(tensors), w=4, a=3)
    assert source == f"PAMS RDN{' x4' * (scale == 4)}"
    assert agrees(found, network)


@pytest.mark.parametrize("scale", [3, 4])
def test_ddtb_rdn(tmp_path, scale):
    method = DDTBConfig(
        variant="code", weight_percentile=100, activation_percentile=95, dynamic_ratio=0.5
    )
    network = quantized(small_rdn(scale), method, RDN_AS_RELEASED)
    tensors = with_unused(ddtb_state(renamed(network, rdn_rules(scale))))
    found, source = imported(tmp_path, tensors, w=4, a=3)
    assert source == f"DDTB RDN{' x4' * (scale == 4)}"
    assert found.quantization.method == method
    assert agrees(found, network)


def test_daq_where_the_user_says_so(tmp_path):
    rules = {**EDSR, r"body\.(\d)\.conv": r"body.\1.conv"}
    rules = {key: name for key, name in rules.items() if "weight|bias" not in key}
    network = tiny_edsr(4)
    tensors = renamed(network, rules) | mean_shifts()
    found, source = imported(tmp_path, tensors)
    assert source == "DAQ EDSR"
    assert found.quantization is None
    assert agrees(found, network)
    quantized(network, DAQConfig(variant="code"))
    found, _ = imported(tmp_path, tensors, method="daq", w=4, a=3)
    assert found.quantization == network.quantization
    assert agrees(found, network)
    with pytest.raises(UsageError, match=r"`w`: .* in full precision.* `method` daq"):
        imported(tmp_path, tensors, w=4)


def test_2dquant_says_its_bits(tmp_path):
    network, tensors = twodquant()
    per_layer = 4 * 2 + 2 * 2 + 4
    assert sum(key.endswith("n_bit") for key in tensors) == 4 * per_layer
    found, source = imported(tmp_path, {"params": tensors})
    assert source == "2DQuant"
    assert str(found.quantization.bits) == "w3a3"
    assert agrees(found, network)
    with pytest.raises(UsageError, match=r"`w` 4: .* is quantized to 3 bits"):
        imported(tmp_path, tensors, w=4)
    tensors[next(key for key in tensors if key.endswith("n_bit"))] += 1
    with pytest.raises(UsageError, match="several bit widths"):
        imported(tmp_path, tensors)


def test_quantsr_c(tmp_path):
    network, tensors = quantsr_c()
    found, source = imported(tmp_path, tensors, w=4, a=4)
    assert source == "QuantSR-C"
    assert found.config.variant == "code"
    assert agrees(found, network)
    assert found.depths == ("full",)
    tensors["params"]["body.1.conv2.ActOurs.init_state"].zero_()
    with pytest.raises(UsageError, match=r"body\.1\.conv2\.input_quantizer was not calibrated"):
        imported(tmp_path, tensors, w=4, a=4)


def test_blocks_of_quantsr_are_left_out_as_released():
    # basicsr/test_slimmable_4bit_x4.py of htqin/QuantSR, d470ad6, executes these.
    network = QuantSRC(QuantSRCConfig(scale=4, n_feats=8, variant="code"))
    network.ranks = layouts.released_ranks(network.ranks)
    executed = {}
    for depth in network.depths:
        network.set_depth(depth)
        executed[depth] = {i for i, block in enumerate(network.blocks) if not block.skipped}
    quarter = {7, 8, 13, 15, 27, 28, 29, 30, 31}
    half = quarter | {6, 10, 11, 17, 18, 19, 20, 22}
    assert executed == {"full": set(range(32)), "half": half, "quarter": quarter}


def change(tensors, key, value):
    return tensors | {key: value}


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (
            lambda: change(srresnet("shared")[1], "body.3.act.weight", torch.ones(1)),
            "differs from a copy",
        ),
        (
            lambda: change(
                pams(quantized(edsr_for(), PAMSConfig(variant="code"))),
                "body.1.body.2.alpha",
                torch.ones(1),
            ),
            "differs from a copy",
        ),
        (
            lambda: change(carn(4)[1], "sub_mean.shifter.bias", torch.zeros(3)),
            r"sub_mean\.shifter\.bias differs from",
        ),
        (
            lambda: change(
                swinir(2)[1]["params"],
                "layers.0.residual_group.blocks.1.attn_mask",
                torch.zeros(4, 16, 16),
            ),
            "attn_mask differs from",
        ),
        (
            lambda: change(
                swinir(2)[1]["params"],
                "layers.0.residual_group.blocks.1.attn.relative_position_index",
                torch.zeros(16, 16, dtype=torch.int64),
            ),
            "relative_position_index differs from",
        ),
        (
            lambda: change(swinir(2)[1]["params"], "conv_before_upsample.0.weight", torch.ones(1)),
            "pixelshuffledirect",
        ),
        (lambda: change(rdn(4)[1], "SFENet3.weight", torch.ones(1)), "RDN x4.* has no SFENet3"),
        (
            lambda: change(rdn(4)[1], "GFF.1.weight", torch.ones(6, 6, 1, 1)),
            r"body_last\.weight is \[6, 6, 1, 1\], in this rdn \[6, 6, 3, 3\]",
        ),
        (lambda: change(rdn(4)[1], "UPNet.0.weight", torch.ones(9, 6, 3, 3)), "scale"),
        (
            lambda: {k: t for k, t in swinir(2)[1]["params"].items() if k != "norm.weight"},
            r"lacks norm\.weight",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, damaged, message):
    with pytest.raises(UsageError, match=message) as caught:
        imported(tmp_path, damaged())
    assert "\n" not in str(caught.value)
    assert "net.pth" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: (n := quantized(edsr_for(), PAMSConfig(variant="code")), pams(n)), ("4", "3")),
        (
            lambda: (
                n := quantized(edsr_for(), DDTBConfig(variant="code")),
                twice(ddtb_state(renamed(n, EDSR))),
            ),
            ("4", "3"),
        ),
        (twodquant, ()),
        (quantsr_c, ("4", "4")),
    ],
)
def test_command_writes_a_quantized_model_file(tmp_path, srq, make, options):
    network, tensors = make()
    torch.save(tensors, tmp_path / "net.pth")
    bits = ("--w", options[0], "--a", options[1]) if options else ()
    code, out, err = srq("import", tmp_path / "net.pth", "-o", tmp_path / "m.safetensors", *bits)
    assert code == 0
    assert "is worse than bicubic" in err  # its weights are drawn
    assert f"{network.quantization.method.name} {network.quantization.bits}" in out
    assert agrees(load_model(tmp_path / "m.safetensors")[0], network)
