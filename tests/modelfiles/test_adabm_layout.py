"""AdaBM's checkpoints, with the names of its modules written down once more.

The names are those of Cheeun/AdaBM, commit c855f52, ``src/model/{edsr,srresnet,rdn,quantize}.py``.
Outputs that are called measured are those of these modules with the same tensors.
"""

import re

import pytest
import torch

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods.adabm import AdaBMConfig
from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from sr_quant_cli.quant.dynamic import dynamic_quantizers
from sr_quant_cli.quant.sites import RESIDUAL_CONVOLUTIONS, Operands
from tests.methods.test_adabm import pictures, wave
from tests.modelfiles.released import (
    SRRESNET,
    fresh,
    mean_shifts,
    quantized,
    rdn_rules,
    renamed,
    small_rdn,
)

LOW, INT8 = Operands("low", "low"), Operands("int8", "int8")
BODY = {**RESIDUAL_CONVOLUTIONS, "fusion": LOW, "body_last": LOW}
ALL = {**BODY, "head": INT8, "upsampler": INT8, "tail": INT8}

RANGES = {"lower_a": "input_quantizer.lower", "upper_a": "input_quantizer.upper"} | {
    "upper_w": "weight_quantizer.value"
}
EDSR = {
    r"head": "head.0",
    r"body_last": "body.6",
    r"upsampler": "tail.0",
    r"tail": "tail.1",
    r"body": "body",
}


def with_bits(network, placement):
    network = quantized(network, AdaBMConfig(variant="code"), placement, bits=(4, 5))
    provider = network.bit_provider
    provider.slope_thresholds.data.copy_(torch.tensor([1.5, 6.0]))
    provider.offsets.data.copy_(torch.linspace(-2, 2, len(provider.offsets)))
    return network


def edsr(placement):
    network = with_bits(fresh(EDSRConfig(scale=4, n_blocks=6, n_feats=8)), placement)
    layers = [f"body.{block}.conv{conv}" for block in range(6) for conv in (1, 2)]
    return network, EDSR, mean_shifts(), [*layers, "body.6"]


def srresnet(placement):
    network = with_bits(fresh(SRResNetConfig(scale=4, n_feats=4, activation="prelu")), placement)
    layers = [f"body.{block}.conv{conv}" for block in range(16) for conv in (1, 2)]
    return network, SRRESNET, {}, [*layers, "body.16"]


def rdn(scale, placement):
    network = with_bits(small_rdn(scale), placement)
    layers = [f"RDBs.{block}.convs.{layer}.conv.0" for block in range(2) for layer in range(3)]
    kept = {ours: name for ours, name in rdn_rules(scale).items() if "quantizer" not in ours}
    return network, kept, {}, [*layers, "GFF.0", "GFF.1"]


def released(network, rules, more, layers):
    """State of the authors' network: a tensor of one entry for each range, threshold and offset."""
    provider = {"bit_provider": "bit_provider"}
    tensors = {}
    for key, tensor in renamed(network, provider | rules, more).items():
        if key.endswith(".batches"):
            continue
        for theirs, ours in RANGES.items():
            if key.endswith(f".{ours}"):
                key, tensor = key.removesuffix(ours) + theirs, tensor.reshape(1)
        tensors[key] = tensor
    lower, upper = 10 * tensors.pop("bit_provider.slope_thresholds")
    tensors |= {"measure_l": lower.reshape(1), "measure_u": upper.reshape(1)}
    offsets = tensors.pop("bit_provider.offsets")
    # Without the option ``--fq``, the last layer of EDSR and SRResNet has no offset.
    assert len(layers) - len(offsets) == (f"{layers[-1]}.lower_a" not in tensors)
    for layer, offset in zip(layers, offsets, strict=False):
        tensors[f"{layer}.measure_layer"] = offset.reshape(1)
    return tensors


def filled(tensors):
    """Values that need no random numbers, in tensors of the authors' network."""
    found = dict(tensors)
    for i, key in enumerate(sorted(tensors)):
        shape, kind = tensors[key].shape, key.rpartition(".")[2]
        values = wave(*shape, pace=0.37 + i / 1000)
        if kind == "weight" and len(shape) == 4 and "mean" not in key:
            found[key] = 2 * values / tensors[key][0].numel() ** 0.5
        elif kind in ("weight", "running_var") and "mean" not in key:
            found[key] = 0.6 + 0.3 * values
        elif kind == "running_mean" or (kind == "bias" and "mean" not in key):
            found[key] = 20 * values
        elif kind == "lower_a":
            found[key] = torch.full(shape, -90.0 - i % 7)
        elif kind == "upper_a":
            found[key] = torch.full(shape, 110.0 + i % 11)
        elif kind == "measure_layer":
            found[key] = torch.full(shape, (-1.2, 0.3, 1.4)[i % 3])
    for key in [key for key in found if key.endswith("upper_w")]:
        found[key] = 0.8 * found[key.replace("upper_w", "weight")].abs().amax().reshape(1)
    return found | {"measure_l": torch.tensor([8.0]), "measure_u": torch.tensor([18.0])}


def read(tmp_path, tensors, **hints):
    torch.save(tensors, tmp_path / "model_best.pt")
    return import_checkpoint(tmp_path / "model_best.pt", UserHints(**hints))


def rdn2(placement):
    return rdn(2, placement)


def rdn4(placement):
    return rdn(4, placement)


CASES = {
    "EDSR": (edsr, RESIDUAL_CONVOLUTIONS, "AdaBM EDSR"),
    "EDSR --fq": (edsr, ALL, "AdaBM EDSR"),
    "SRResNet": (srresnet, RESIDUAL_CONVOLUTIONS, "AdaBM SRResNet"),
    "SRResNet --fq": (srresnet, ALL, "AdaBM SRResNet"),
    "RDN x2": (rdn2, BODY, "AdaBM RDN"),
    "RDN x2 --fq": (rdn2, ALL, "AdaBM RDN"),
    "RDN x4": (rdn4, BODY, "AdaBM RDN x4"),
    "RDN x4 --fq": (rdn4, ALL, "AdaBM RDN x4"),
}


@pytest.mark.parametrize(("make", "placement", "source"), CASES.values(), ids=CASES)
def test_an_imported_file_is_the_network(tmp_path, make, placement, source):
    network, *names = make(placement)
    found = read(tmp_path, released(network, *names), w=4, a=5)
    assert found.source == source
    assert found.network.quantization.sites == network.quantization.sites
    provider = found.network.bit_provider
    assert torch.equal(provider.offsets, network.bit_provider.offsets)
    assert torch.allclose(provider.slope_thresholds, torch.tensor([1.5, 6.0]))
    x = torch.rand(3, 3, 12, 10) * torch.tensor([0.05, 0.3, 1.0]).view(3, 1, 1, 1)
    with torch.no_grad():
        assert torch.equal(found.network(x), network(x))
    assert provider.row.tolist() == [0, 1, 2]


MEASURED = {
    "RDN x2": (
        [0.046186, 0.049262, 0.055653],
        [0.08804792165756226, 0.02909381501376629, 0.02171608805656433],
    ),
    "RDN x2 --fq": (
        [0.273474, 0.246775, 0.289218],
        [-0.29483792185783386, 0.11851048469543457, -0.46949291229248047],
    ),
    "RDN x4 --fq": (
        [0.224458, 0.190474, 0.231034],
        [0.015188860706984997, -0.06726562231779099, -0.04547422379255295],
    ),
    "EDSR": (
        [0.604655, 0.595443, 0.607537],
        [1.2944787740707397, -0.04842385649681091, 1.0101686716079712],
    ),
    "EDSR --fq": (
        [0.458054, 0.457797, 0.459375],
        [0.4486165940761566, 0.45731377601623535, 0.43477174639701843],
    ),
    "SRResNet --fq": (
        [0.016484, 0.01287, 0.015312],
        [-0.018874965608119965, -0.004653319716453552, -0.008712501265108585],
    ),
}
"""Mean absolute output of three pictures at 3, 4 and 5 bits and more, and a value of each."""


@pytest.mark.parametrize("case", MEASURED)
def test_outputs_are_the_measured_ones(tmp_path, case):
    make, placement, _ = CASES[case]
    network = read(tmp_path, filled(released(*make(placement))), w=4, a=5).network
    with torch.no_grad():
        sr = network(pictures())
    means, values = MEASURED[case]
    assert sr.abs().mean((1, 2, 3)).tolist() == pytest.approx(means, rel=1e-4)
    assert sr[:, 1, 5, 9].tolist() == pytest.approx(values, rel=1e-4)


def test_the_convolution_that_ends_a_dense_block_has_fixed_bits(tmp_path):
    network = read(tmp_path, released(*rdn4(ALL)), w=4, a=5).network
    assert "body.1.fusion" not in dynamic_quantizers(network)
    assert network.body[1].fusion.input_quantizer.bits == 5
    assert list(dynamic_quantizers(network))[-2:] == ["fusion", "body_last"]


def test_an_srresnet_of_pictures_of_0_to_1(tmp_path):
    """Every tensor that is 255 times larger or smaller there, with the same output."""
    network, *names = srresnet(ALL)
    tensors = released(network, *names)
    smaller = r"head\.0\.(lower|upper)_a|tail\.1\.(weight|upper_w)|measure_[lu]"
    for key in tensors:
        if re.fullmatch(smaller, key):
            tensors[key] = tensors[key] / 255
        elif re.fullmatch(r"head\.0\.(weight|upper_w)", key):
            tensors[key] = tensors[key] * 255
    found = read(tmp_path, tensors, w=4, a=5, range=1)
    for name, tensor in found.network.state_dict().items():
        assert torch.allclose(tensor, network.state_dict()[name], rtol=1e-5), name


def test_bits_are_asked_for(tmp_path):
    with pytest.raises(UsageError, match="adabm do not hold their bits"):
        read(tmp_path, released(*edsr(RESIDUAL_CONVOLUTIONS)))


@pytest.mark.parametrize(
    ("make", "placement", "lost", "named"),
    [
        (edsr, RESIDUAL_CONVOLUTIONS, "body.3.conv2.measure_layer", "bit_provider.offsets"),
        (rdn2, ALL, "GFF.1.measure_layer", "bit_provider.offsets"),
        (edsr, ALL, "tail.0.0.upper_w", "upsampler.0.weight_quantizer.value"),
        (rdn4, ALL, "UPNet.4.lower_a", "tail.input_quantizer.lower"),
        (rdn4, BODY, "RDBs.1.LFF.upper_a", "body.1.fusion.input_quantizer.upper"),
    ],
)
def test_a_file_without_one_of_its_ranges_or_offsets_is_refused(
    tmp_path, make, placement, lost, named
):
    tensors = released(*make(placement))
    del tensors[lost]
    with pytest.raises(UsageError, match=re.escape(named)):
        read(tmp_path, tensors, w=4, a=5)
