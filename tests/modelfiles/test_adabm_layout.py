"""AdaBM's checkpoints, with the names of its modules written down once more.

The names are those of Cheeun/AdaBM, commit c855f52, ``src/model/{edsr,common,quantize}.py``.
"""

import re

import pytest
import torch

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods.adabm import AdaBMConfig
from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from tests.modelfiles.released import SRRESNET, fresh, mean_shifts, quantized, renamed

QUANTIZERS = {
    r"body\.(\d+)\.conv([12])\.input_quantizer\.(lower|upper)": r"body.\1.conv\2.\3_a",
    r"body\.(\d+)\.conv([12])\.weight_quantizer\.value": r"body.\1.conv\2.upper_w",
    r"bit_provider": "bit_provider",
}
EDSR = {
    **QUANTIZERS,
    r"head": "head.0",
    r"body_last": "body.6",
    r"upsampler": "tail.0",
    r"tail": "tail.1",
    r"body": "body",
}


def with_bits(network):
    network = quantized(network, AdaBMConfig(variant="code"), bits=(4, 5))
    provider = network.bit_provider
    provider.slope_thresholds.data.copy_(torch.tensor([1.5, 6.0]))
    provider.offsets.data.copy_(torch.linspace(-2, 2, len(provider.offsets)))
    return network


def edsr():
    network = fresh(EDSRConfig(scale=4, n_blocks=6, n_feats=8))
    return with_bits(network), EDSR, mean_shifts()


def srresnet():
    network = fresh(SRResNetConfig(scale=4, n_feats=4, activation="prelu"))
    return with_bits(network), QUANTIZERS | SRRESNET, {}


def released(network, names, more):
    """State of the authors' network: a tensor of one entry for each range, threshold and offset."""
    tensors = {
        key: tensor.reshape(1) if tensor.ndim == 0 else tensor
        for key, tensor in renamed(network, names, more).items()
        if not key.endswith(".batches")
    }
    lower, upper = 10 * tensors.pop("bit_provider.slope_thresholds")
    tensors |= {"measure_l": lower.reshape(1), "measure_u": upper.reshape(1)}
    offsets = tensors.pop("bit_provider.offsets")
    for index, offset in enumerate(offsets):
        tensors[f"body.{index // 2}.conv{index % 2 + 1}.measure_layer"] = offset.reshape(1)
    return tensors


def read(tmp_path, tensors, **hints):
    torch.save(tensors, tmp_path / "model_best.pt")
    return import_checkpoint(tmp_path / "model_best.pt", UserHints(**hints))


@pytest.mark.parametrize(("make", "source"), [(edsr, "AdaBM EDSR"), (srresnet, "AdaBM SRResNet")])
def test_an_imported_file_is_the_network(tmp_path, make, source):
    network, names, more = make()
    found = read(tmp_path, released(network, names, more), w=4, a=5)
    assert found.source == source
    provider = found.network.bit_provider
    assert torch.equal(provider.offsets, network.bit_provider.offsets)
    assert torch.allclose(provider.slope_thresholds, torch.tensor([1.5, 6.0]))
    x = torch.rand(3, 3, 12, 10) * torch.tensor([0.05, 0.3, 1.0]).view(3, 1, 1, 1)
    with torch.no_grad():
        assert torch.equal(found.network(x), network(x))
    assert provider.row.tolist() == [0, 1, 2]


def test_bits_are_asked_for(tmp_path):
    with pytest.raises(UsageError, match="adabm do not hold their bits"):
        read(tmp_path, released(*edsr()))


def test_a_file_without_an_offset_is_refused(tmp_path):
    tensors = released(*edsr())
    del tensors["body.3.conv2.measure_layer"]
    with pytest.raises(UsageError, match=re.escape("bit_provider.offsets")):
        read(tmp_path, tensors, w=4, a=5)
