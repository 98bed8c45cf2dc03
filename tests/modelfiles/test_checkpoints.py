"""Checkpoints with the names and shapes of other projects, read back to equal outputs."""

import pytest
import torch
from safetensors.torch import save_file

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.checkpoints import import_checkpoint
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.layers import DIV2K_MEAN
from tests.helpers import tiny_edsr

EYE = torch.eye(3).view(3, 3, 1, 1)
MEAN = 255 * torch.tensor(DIV2K_MEAN)


def edsr_pytorch(network):
    """Names of EDSR-PyTorch, including the mean-shift layers."""
    names = {"head": "head.0", "body_last": f"body.{len(network.body)}", "tail": "tail.1"}
    for index in range(len(network.body)):
        names[f"body.{index}.conv1"] = f"body.{index}.body.0"
        names[f"body.{index}.conv2"] = f"body.{index}.body.2"
    for index in network.upsampler.convolutions:
        names[f"upsampler.{index}"] = f"tail.0.{index}"
    shift = {"sub_mean.weight": EYE, "sub_mean.bias": -MEAN}
    return renamed(network, names) | shift | {"add_mean.weight": EYE, "add_mean.bias": MEAN}


def basicsr(network):
    """Names of BasicSR."""
    names = {"head": "conv_first", "body_last": "conv_after_body", "tail": "conv_last"}
    for index in range(len(network.body)):
        for conv in ("conv1", "conv2"):
            names[f"body.{index}.{conv}"] = f"body.{index}.{conv}"
    for index in network.upsampler.convolutions:
        names[f"upsampler.{index}"] = f"upsample.{index}"
    return renamed(network, names)


def renamed(network, names):
    return {
        f"{names[module]}.{kind}": value.clone()
        for key, value in network.state_dict().items()
        for module, _, kind in [key.rpartition(".")]
    }


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    ("layout", "wrap"),
    [
        (edsr_pytorch, lambda tensors: tensors),
        (
            edsr_pytorch,
            lambda tensors: {"state_dict": {f"module.{k}": t for k, t in tensors.items()}},
        ),
        (basicsr, lambda tensors: {"params": {}, "params_ema": tensors}),
        (basicsr, lambda tensors: {"params": tensors}),
    ],
)
def test_outputs_are_those_of_the_checkpoint(tmp_path, layout, wrap, scale):
    network = tiny_edsr(scale, seed=scale)
    torch.save(wrap(layout(network)), tmp_path / "net.pth")
    found, *_ = import_checkpoint(tmp_path / "net.pth")
    assert found.config == network.config
    x = torch.rand(1, 3, 9, 7)
    assert torch.equal(found(x), network(x))


def test_network_of_256_features_has_scaled_residuals(tmp_path):
    network = build(EDSRConfig(scale=2, n_blocks=1, n_feats=256, res_scale=0.1))
    save_file(basicsr(network), tmp_path / "full.safetensors")
    assert import_checkpoint(tmp_path / "full.safetensors")[0].config == network.config


def damaged(change):
    tensors = edsr_pytorch(tiny_edsr())
    match change:
        case "missing":
            del tensors["body.1.body.2.bias"]
        case "extra":
            tensors["body.0.body.3.weight"] = torch.zeros(1)
        case "shape":
            tensors["tail.1.weight"] = torch.zeros(3, 9, 3, 3)
        case "mean":
            tensors["sub_mean.bias"] = torch.zeros(3)
    return tensors


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "mean"])
def test_checkpoint_that_does_not_fit_is_refused_in_one_line(tmp_path, change):
    torch.save(damaged(change), tmp_path / "bad.pt")
    with pytest.raises(UsageError, match=r"bad\.pt") as caught:
        import_checkpoint(tmp_path / "bad.pt")
    assert "\n" not in str(caught.value)


class Opens:
    """Object that unpickling would rebuild by a call of ``open``."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_checkpoint_with_code_is_refused_and_not_run(tmp_path):
    torch.save({"head.weight": Opens(str(tmp_path / "made"))}, tmp_path / "code.pt")
    with pytest.raises(UsageError, match=r"without running code: it asks for \S+open"):
        import_checkpoint(tmp_path / "code.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    for name in ("a.pt", "a.safetensors"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name) as caught:
            import_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_command_writes_a_model_file(tmp_path, srq):
    torch.save(basicsr(tiny_edsr()), tmp_path / "net.pth")
    model = tmp_path / "net.safetensors"
    code, out, _ = srq("import", tmp_path / "net.pth", "-o", model)
    assert code == 0
    assert "BasicSR" in out
    assert load_model(model)[0].config == tiny_edsr().config
    code, _, err = srq("import", tmp_path / "net.pth", "-o", model)
    assert code == 2
    assert "--overwrite" in err


def test_published_network_with_a_direct_upsampler(real_data):
    path = real_data / "checkpoints" / "edsr_f64b5_fp32_x2.safetensors"
    network, *_ = import_checkpoint(path)
    config = EDSRConfig(scale=2, n_blocks=5, upsampler="direct", mean_shift=False)
    assert network.config == config
    assert network.receptive_radius == 13
