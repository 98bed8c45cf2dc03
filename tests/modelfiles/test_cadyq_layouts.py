"""CADyQ's quantized checkpoints, with the names of its modules written down once more.

The names are those of Cheeun/CADyQ, commit 5ca4344.
"""

import re

import pytest
import torch

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
from sr_quant_cli.networks.carn import CARNConfig
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.idn import IDNConfig
from sr_quant_cli.networks.srresnet import SRResNetConfig
from tests.modelfiles.released import cadyq_idn, carn, edsr_for, pams, quantized, srresnet


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alpha(value):
    return {"alpha": torch.tensor([value]), "max_val": torch.tensor(value)}


def below(path, tensors):
    return {f"{path}.{name}": tensor for name, tensor in tensors.items()}


def selector(path, channels, start):
    made = {
        f"{path}.net_small.0.weight": random(3, channels + 2),
        f"{path}.net_small.0.bias": random(3),
    }
    for k in range(3):
        made |= below(f"{path}.quant_bit{k + 1}", alpha(start + k))
    return made


def read(tmp_path, tensors, **hints):
    torch.save({"state_dict": tensors}, tmp_path / "net.pt")
    return import_checkpoint(tmp_path / "net.pt", UserHints(**hints))


def shifted(tensors):
    """Mean shifts as in files of SRResNets: random."""
    return {k: random(*t.shape) if "_mean." in k else t for k, t in tensors.items()}


@pytest.mark.parametrize("activation", ["relu", "shared"])
def test_unused_mean_shifts_of_srresnet_may_be_anything(tmp_path, activation):
    network, tensors = srresnet(activation)
    found = read(tmp_path, shifted(tensors)).network
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(found(x), network(x))


def test_selectors_and_biases_of_srresnet(tmp_path):
    _, tensors = srresnet("shared")
    tensors = shifted(tensors)
    for i in range(16):
        tensors |= selector(f"body.{i}.classify1", 4, 1.0) | selector(f"body.{i}.classify2", 4, 5.0)
        for conv in (1, 2):
            tensors[f"body.{i}.conv{conv}.bias"] = random(4, seed=i)
    found = read(tmp_path, tensors)
    assert found.source == "CADyQ SRResNet (quantized)"
    network = found.network
    assert isinstance(network.config, SRResNetConfig)
    assert network.body[3].skip.input_quantizer.alpha.tolist() == [1, 2, 3]
    assert network.body[3].conv2.input_quantizer.alpha.tolist() == [5, 6, 7]
    assert torch.equal(network.bit_provider.layers["body_3_skip"].bias, random(3))
    mean = tensors["body.3.bn2.running_mean"] - random(4, seed=3)
    assert torch.equal(network.body[3].norm2.running_mean, mean)


def test_selectors_of_carn(tmp_path):
    _, tensors = carn(4)
    tensors = {re.sub(r"^(b\d\.b\d\.body)\.2\.", r"\1.4.", key): t for key, t in tensors.items()}
    tensors = {re.sub(r"^(b\d\.b\d\.body)\.0\.", r"\1.1.", key): t for key, t in tensors.items()}
    for i in range(1, 4):
        for j in range(1, 4):
            tensors |= selector(f"b{i}.b{j}.body.0", 8, 1.0) | selector(f"b{i}.b{j}.body.3", 8, 5.0)
    found = read(tmp_path, tensors)
    assert found.source == "CADyQ CARN (quantized)"
    assert isinstance(found.network.config, CARNConfig)
    unit = found.network.body.units[1].units[2]
    assert unit.conv1.input_quantizer.alpha.tolist() == [1, 2, 3]
    assert unit.conv2.input_quantizer.alpha.tolist() == [5, 6, 7]
    assert found.network.quantization.method.gradient_scale == 1


def idn_pams():
    """State of CADyQ's IDN by PAMS at 8 bits."""
    _, plain = cadyq_idn(4)
    layer = r"((?:enhancement_\w+|module))\.(\d)"
    tensors = {
        re.sub(layer, lambda m: f"{m[1]}.{int(m[2]) * 3 // 2 + 1}", key): tensor
        for key, tensor in plain.items()
    }
    for i in (1, 2):
        tensors |= below(f"fblock.quant_actf{i}", alpha(float(i)))
        tensors |= below(f"fblock.module.{3 * i - 3}", alpha(float(i)))
    for block in range(4):
        for i in range(6):
            tensors |= below(f"dblocks.{block}.quant_act{i + 1}", alpha(3.0 + i))
    return tensors


def test_fixed_bits_of_idn(tmp_path):
    found = read(tmp_path, idn_pams(), scale=4)
    assert found.source == "CADyQ PAMS IDN (quantized)"
    assert isinstance(found.network.config, IDNConfig)
    assert found.network.head2.conv.input_quantizer.alpha == 2
    assert found.network.body[2].lower[1].conv.input_quantizer.alpha == 7


def test_the_project_tells_equal_files_of_edsr_apart(tmp_path):
    tensors = pams(quantized(edsr_for(), PAMSConfig(variant="code")))
    theirs = read(tmp_path, tensors, w=8, a=8)
    assert theirs.source == "PAMS EDSR"
    assert "project PAMS (`project`)" in theirs.assumed
    found = read(tmp_path, tensors, project="cadyq")
    assert found.source == "CADyQ PAMS EDSR (quantized)"
    assert isinstance(found.network.config, EDSRConfig)
    assert not any("project" in value for value in found.assumed)
    block = found.network.body[0]
    assert block.block_in.input_quantizer.alpha == tensors["body.0.quant_act1.alpha"]
    with pytest.raises(UsageError, match="tensors of PAMS or CADyQ"):
        read(tmp_path, tensors, project="DDTB")
