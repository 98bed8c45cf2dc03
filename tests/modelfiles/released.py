"""Small networks, and their checkpoints as the code of other projects saves them."""

import re

import torch
from torch import nn

from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods.quantsr import QuantSRConfig
from sr_quant_cli.methods.twodquant import TwoDQuantConfig
from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
from sr_quant_cli.networks import build
from sr_quant_cli.networks.carn import CARNConfig
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.idn import IDNConfig
from sr_quant_cli.networks.layers import DIV2K_MEAN
from sr_quant_cli.networks.msrresnet import MSRResNetConfig
from sr_quant_cli.networks.quantsr import QuantSRCConfig
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


SRRESNET = {
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


def srresnet(activation, scale=4):
    network = fresh(SRResNetConfig(scale=scale, n_feats=4, activation=activation))
    copies = {}
    if activation == "shared":
        copies = {f"body.{i}.act.weight": network.act.weight.data for i in range(16)}
    return network, renamed(network, SRRESNET, mean_shifts() | copies)


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
