"""Checkpoints with the names and shapes of each project, read back to equal outputs.

The names here go the other way, from srq's to the project's, and are written down once more.
"""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods.daq import DAQConfig
from sr_quant_cli.methods.ddtb import DDTBConfig
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.methods.quantsr import QuantSRConfig
from sr_quant_cli.methods.twodquant import TwoDQuantConfig
from sr_quant_cli.modelfiles import layouts
from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.carn import CARNConfig
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.idn import IDNConfig
from sr_quant_cli.networks.layers import DIV2K_MEAN
from sr_quant_cli.networks.msrresnet import MSRResNetConfig
from sr_quant_cli.networks.quantsr import QuantSRC, QuantSRCConfig
from sr_quant_cli.networks.rdn import RDNConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.networks.swinir import SwinIRConfig
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Operands
from tests.helpers import SMALL_SWINIR, spread, tiny_edsr, tiny_swinir

MEAN = torch.tensor(DIV2K_MEAN)
EYE = torch.eye(3).view(3, 3, 1, 1)


def mean_shifts(scale=255.0, inner=""):
    return {
        f"sub_mean{inner}.weight": EYE,
        f"sub_mean{inner}.bias": -scale * MEAN,
        f"add_mean{inner}.weight": EYE,
        f"add_mean{inner}.bias": scale * MEAN,
    }


def renamed(network, rules, more=()):
    """State under a project's names, by the first rule that matches the start of a key."""
    found = dict(more)
    for key, value in network.state_dict().items():
        for pattern, template in rules.items():
            if match := re.match(pattern, key):
                found[match.expand(template) + key[match.end() :]] = value.clone()
                break
        else:
            raise AssertionError(f"no rule for {key}")
    return found


def fresh(config, seed=0):
    """Network with statistics and slopes that affect its output."""
    torch.manual_seed(seed)
    network = build(config).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(0.1, 0.9)
    return network


def imported(tmp_path, tensors, name="net.pth", **given):
    torch.save(tensors, tmp_path / name)
    return import_checkpoint(tmp_path / name, UserHints(**given))[:2]


def agrees(found, network, size=(9, 7)):
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        return found.config == network.config and torch.equal(found(x), network(x))


def msrresnet(scale):
    rules = {
        r"head": "conv_first",
        r"upsampler\.0\.conv": "upconv1",
        r"upsampler\.1\.conv": "upconv2",
        r"last": "conv_hr",
        r"tail": "conv_last",
        r"body": "body",
    }
    network = fresh(MSRResNetConfig(scale=scale, n_blocks=2, n_feats=8))
    return network, {"params": renamed(network, rules)}


def rdn_rules(scale):
    return {
        r"head2": "SFENet2",
        r"head": "SFENet1",
        r"body\.(\d)\.block_in\.input_quantizer": r"RDBs.\1.act1",
        r"body\.(\d)\.layers\.(\d)\.dense_in\.input_quantizer": r"RDBs.\1.convs.\2.act",
        r"body\.(\d)\.layers\.(\d)\.conv": r"RDBs.\1.convs.\2.conv.0",
        r"body\.(\d)\.fusion\.input_quantizer": r"RDBs.\1.act2",
        r"body\.(\d)\.fusion": r"RDBs.\1.LFF",
        r"fusion\.input_quantizer": "act",
        r"fusion": "GFF.0",
        r"body_last": "GFF.1",
        r"upsampler": "UPNet",
        r"tail": "UPNet.4" if scale == 4 else "UPNet.2",
    }


def small_rdn(scale):
    return fresh(RDNConfig(scale=scale, n_blocks=2, n_layers=3, growth=4, n_feats=6))


def rdn(scale):
    network = small_rdn(scale)
    return network, renamed(network, rdn_rules(scale))


def srresnet(activation, scale=4):
    rules = {
        r"head": "head.0",
        r"act": "head.1",
        r"body\.(\d+)\.norm": r"body.\1.bn",
        r"body\.(\d+)": r"body.\1",
        r"body_last": "body.16",
        r"body_norm": "body.17",
        r"upsampler\.0\.conv": "tail.0.0",
        r"upsampler\.0\.act": "tail.0.2",
        r"upsampler\.1\.conv": "tail.0.3",
        r"upsampler\.1\.act": "tail.0.5",
        r"tail": "tail.1",
    }
    network = fresh(SRResNetConfig(scale=scale, n_feats=4, activation=activation))
    copies = {}
    if activation == "shared":
        copies = {f"body.{i}.act.weight": network.act.weight.data for i in range(16)}
    return network, renamed(network, rules, mean_shifts() | copies)


DDTB_SRRESNET = {
    r"head": "conv_input",
    r"act": "relu",
    r"body\.(\d+)\.conv([12])\.input_quantizer": r"residual.\1.act\2",
    r"body\.(\d+)\.norm": r"residual.\1.in",
    r"body\.(\d+)\.act": r"residual.\1.relu",
    r"body\.(\d+)": r"residual.\1",
    r"body_last": "conv_mid",
    r"body_norm": "bn_mid",
    r"upsampler\.0\.conv": "upscale.0",
    r"upsampler\.0\.act": "upscale.2",
    r"upsampler\.1\.conv": "upscale.3",
    r"upsampler\.1\.act": "upscale.5",
    r"tail": "conv_output",
}


def ddtb_srresnet(scale):
    network = fresh(SRResNetConfig(scale=scale, n_feats=4, n_blocks=2))
    return network, renamed(network, DDTB_SRRESNET)


def carn(scale, mobile=False, several=False):
    rules = {
        r"head": "entry",
        **{
            rf"body\.units\.{i}\.units\.{j}\.conv{k}": f"b{i + 1}.b{j + 1}.body.{2 * k - 2}"
            for i in range(3)
            for j in range(3)
            for k in range(1, 4)
        },
        **{
            rf"body\.units\.{i}\.fusions\.{j}": f"b{i + 1}.c{j + 1}.body.0"
            for i in range(3)
            for j in range(3)
        },
        **{rf"body\.fusions\.{i}": f"c{i + 1}.body.0" for i in range(3)},
        r"upsampler\.0\.conv": "upsample.up{}.body.0",
        r"upsampler\.1\.conv": "upsample.up{}.body.3",
        r"tail": "exit",
    }
    network = fresh(CARNConfig(scale=scale, n_feats=8, groups=4 if mobile else 1, shared=mobile))
    tensors = renamed(network, rules, mean_shifts(1.0, ".shifter"))
    return network, {k.format(scale if several else ""): t for k, t in tensors.items()}


def luma_idn(scale):
    rules = {
        r"head2\.conv": "conv2",
        r"head\.conv": "conv1",
        **{
            rf"body\.{b}\.{part}\.{i}\.conv": f"conv{b + 3}_{i + first}"
            for b in range(4)
            for part, first in (("upper", 1), ("lower", 4))
            for i in range(3)
        },
        **{rf"body\.{b}\.compression\.conv": f"down{b + 1}" for b in range(4)},
        r"tail": "upsample",
    }
    network = fresh(IDNConfig(scale=scale, n_feats=16, luma=True))
    return network, renamed(network, rules)


def cadyq_idn(scale):
    rules = {
        r"head2\.conv": "fblock.module.2",
        r"head\.conv": "fblock.module.0",
        **{
            rf"body\.(\d)\.{ours}\.{i}\.conv": rf"dblocks.\1.enhancement_{theirs}.{2 * i}"
            for ours, theirs in (("upper", "top"), ("lower", "bottom"))
            for i in range(3)
        },
        r"body\.(\d)\.compression\.conv": r"dblocks.\1.compression",
        r"tail": "deconv",
    }
    network = fresh(IDNConfig(scale=scale, n_feats=16, compressed_act=False))
    tensors = renamed(network, rules)
    for block in range(4):
        for kind in ("weight", "bias"):
            rows = tensors[f"dblocks.{block}.enhancement_top.4.{kind}"]
            # CADyQ takes out the last quarter.
            tensors[f"dblocks.{block}.enhancement_top.4.{kind}"] = torch.cat([rows[4:], rows[:4]])
    return network, tensors


LAYER = r"layers.\1.residual_group.blocks.\2"
SWINIR = {
    r"head": "conv_first",
    r"body_norm": "patch_embed.norm",
    r"body\.(\d)\.layers\.(\d)\.attention\.position\.table": (
        f"{LAYER}.attn.relative_position_bias_table"
    ),
    r"body\.(\d)\.layers\.(\d)\.attention\.proj": f"{LAYER}.attn.proj",
    r"body\.(\d)\.layers\.(\d)\.attention\.([qkv])": f"{LAYER}.attn.qkv.\\3",
    r"body\.(\d)\.layers\.(\d)\.fc": f"{LAYER}.mlp.fc",
    r"body\.(\d)\.layers\.(\d)": LAYER,
    r"body\.(\d)\.conv": r"layers.\1.conv",
    r"norm": "norm",
    r"body_last": "conv_after_body",
    r"tail\.0": "upsample.0",
}


def computed(window):
    """Indices and masks of SwinIR, computed independently, for a picture of 2x2 windows."""
    side, pixels = 2 * window, window**2
    at = [(y, x) for y in range(window) for x in range(window)]
    index = [
        [(a - c + window - 1) * (2 * window - 1) + b - d + window - 1 for c, d in at] for a, b in at
    ]

    def part(place):
        return 0 if place < side - window else 1 if place < side - window // 2 else 2

    mask = torch.zeros(4, pixels, pixels)
    for number in range(4):
        top, left = number // 2 * window, number % 2 * window
        parts = [(part(top + y), part(left + x)) for y, x in at]
        for i in range(pixels):
            for j in range(pixels):
                mask[number, i, j] = -100.0 * (parts[i] != parts[j])
    return torch.tensor(index), mask


def swinir(scale):
    network = tiny_swinir(scale, heads=[2, 4], layers=[2, 1])
    tensors = renamed(network, SWINIR)
    index, mask = computed(4)
    for group, block in ((0, 0), (0, 1), (1, 0)):
        layer = f"layers.{group}.residual_group.blocks.{block}"
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"{layer}.attn.qkv.{operand}.{kind}") for operand in "qkv"]
            tensors[f"{layer}.attn.qkv.{kind}"] = torch.cat(parts)
        tensors[f"{layer}.attn.relative_position_index"] = index
        if block == 1:
            tensors[f"{layer}.attn_mask"] = mask
    return network, {"params": tensors}


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


def quantized(network, method, placement=None, bits=(4, 3)):
    """Quantize in srq, with a different value for every range."""
    made = build_method(method)
    quantize_network(network, made, placement or made.paper_placement(), Bits(*bits))
    torch.manual_seed(1)
    for name, tensor in network.state_dict().items():
        match name.rpartition(".")[2]:
            case "alpha" | "upper":
                tensor.uniform_(0.5, 3)
            case "value":
                tensor.uniform_(0.05, 0.2)
            case "lower":
                tensor.uniform_(-3, -0.5)
            case "shift":
                tensor.normal_(0, 0.1)
            case "batches":
                tensor.fill_(1)
            case "applied":
                tensor.fill_(True)
            case "dynamic" | "signed":
                tensor.fill_(bool(torch.rand(()) < 0.5))
    return network.eval()


EDSR = {
    r"head": "head.0",
    r"body_last": "body.2",
    r"upsampler": "tail.0",
    r"tail": "tail.1",
    r"body\.(\d)\.conv1\.(?=weight|bias)": r"body.\1.body.0.",
    r"body\.(\d)\.conv2\.(?=weight|bias)": r"body.\1.body.3.",
    r"body\.(\d)\.skip\.input_quantizer": r"body.\1.quant_act1",
    r"body\.(\d)\.conv2\.input_quantizer": r"body.\1.quant_act2",
    r"body\.(\d)\.block_out\.input_quantizer": r"body.\1.quant_act3",
}


def twice(tensors):
    """Names of PAMS, where a block registers its second quantizer among its layers, too."""
    copies = {
        re.sub("quant_act2", "body.2", key): t for key, t in tensors.items() if "quant_act2" in key
    }
    return tensors | copies | mean_shifts()


def edsr_for(res_scale=1.0):
    if res_scale == 1.0:
        return tiny_edsr(4)
    torch.manual_seed(0)
    return build(EDSRConfig(scale=4, n_blocks=2, n_feats=256, res_scale=res_scale)).eval()


def pams(network, shape=(1,)):
    tensors = renamed(network, EDSR)
    for key in [key for key in tensors if key.endswith("alpha")]:
        tensors[key] = tensors[key].reshape(shape)
        tensors[key.replace("alpha", "max_val")] = torch.rand(() if shape else (1,))
    return twice(tensors)


def ddtb_state(tensors):
    """Names of DDTB for the parts of a quantizer, and its additional tensors."""
    parts = {
        "upper": "alpha_upper",
        "lower": "alpha_lower",
        "dynamic": "is_dynamic",
        "gate.reduce.weight": "atten_c.1.weight",
        "gate.expand.weight": "atten_c.5.weight",
    }
    found = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"((?:.*\.)?(?:quant_act\d|act[12]?))\.(.*)", key)
        if match is None:
            found[key] = tensor
            continue
        path, part = match.groups()
        if part in parts:
            shape = (1,) if tensor.ndim == 0 else (*tensor.shape, 1, 1)
            found[f"{path}.{parts[part]}"] = tensor.float().reshape(shape)
        elif part.startswith("gate.norm"):
            found[f"{path}.atten_c.2{part.removeprefix('gate.norm')}"] = tensor
        found |= {f"{path}.max_val": torch.rand(1), f"{path}.min_val": torch.rand(())}
    return found


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


RDN_AS_RELEASED = {
    **RESIDUAL_CONVOLUTIONS,
    "block_in": Operands("low"),
    "dense_in": Operands("low"),
    "fusion": Operands("low", "low"),
    "body_last": Operands("fp32", "low"),
}


def with_unused(tensors):
    """The quantizer of a block's first layer has tensors, but is not called."""
    copies = {
        re.sub(r"convs\.1\.act", "convs.0.act", key): tensor + 1
        for key, tensor in tensors.items()
        if "convs.1.act" in key
    }
    return tensors | copies


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


def twodquant():
    torch.manual_seed(0)
    network = spread(build(SwinIRConfig(scale=2, padding="symmetric", **SMALL_SWINIR)))
    low = Operands("low", "low")
    quantized(network, TwoDQuantConfig(variant="code"), {"linear": low, "matmul": low}, (3, 3))
    products = {
        "scores.left": "q",
        "scores.right": "k",
        "mix.left": "a",
        "mix.right": "v",
    }
    rules = {
        **{
            rf"body\.(\d)\.layers\.(\d)\.attention\.{re.escape(ours)}_quantizer": (
                rf"{LAYER}.attn.mymodule_{theirs}"
            )
            for ours, theirs in products.items()
        },
        **SWINIR,
    }
    tensors = {}
    for key, tensor in renamed(network, rules).items():
        named = key.replace("input_quantizer", "act_quantizer")
        path, _, part = named.rpartition(".")
        if part in ("lower", "upper"):
            tensors[f"{path}.{part}_bound"] = tensor.reshape(1)
        elif part == "batches":
            tensors[f"{path}.n_bit"] = torch.full((1,), 3.0)
        else:
            tensors[named] = tensor
    return network, tensors


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


def quantsr_c(n_blocks=3):
    network = fresh(QuantSRCConfig(scale=4, n_blocks=n_blocks, n_feats=8, variant="code"))
    quantized(network, QuantSRConfig(variant="code"), bits=(4, 4))
    for block in network.blocks:
        block.shortcut_scale.data.uniform_(0.5, 1.5)
    conv = r"body\.(\d+)\.conv([12])\."
    rules = {
        r"head": "conv_first",
        r"body_last": "conv_after_body",
        r"upsampler": "upsample",
        r"tail": "conv_last",
        r"body\.(\d+)\.shortcut_scale": r"body.\1.learnable_shortcut",
        rf"{conv}weight_quantizer\.value": r"body.\1.conv\2.alpha",
        rf"{conv}weight_quantizer\.batches": r"body.\1.conv\2.init_state",
        rf"{conv}input_quantizer\.shift": r"body.\1.conv\2.channel_threshold",
        rf"{conv}input_quantizer\.value": r"body.\1.conv\2.ActOurs.alpha",
        rf"{conv}input_quantizer\.batches": r"body.\1.conv\2.ActOurs.init_state",
        rf"{conv}input_quantizer\.signed": r"body.\1.conv\2.ActOurs.signed",
        r"body": "body",
        r"ranks": "ranks",
    }
    tensors = renamed(network, rules)
    del tensors["ranks"]
    for key, tensor in tensors.items():
        if tensor.ndim == 0:
            tensors[key] = tensor.float().reshape(1)
        if key.endswith("channel_threshold"):
            tensors[key] = tensor[None]
    return network, {"params": tensors}


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
