"""Untrusted files as checkpoints: wrappers, types, claims, and files that are no checkpoints."""

import resource
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.checkpoints import ONNX_EXPORT, UserHints, import_checkpoint
from sr_quant_cli.modelfiles.known_layouts import LAYOUTS
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.networks.layers import DIV2K_MEAN, RANGE
from sr_quant_cli.networks.rdn import RDNConfig
from tests.helpers import nearest_onnx, open_path, picture, tiny_edsr
from tests.modelfiles.released import luma_idn, rdn
from tests.modelfiles.test_checkpoints import basicsr, edsr_pytorch


def saved(tmp_path, content, name="net.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def refused(path, message, given=None):
    with pytest.raises(UsageError) as caught:
        import_checkpoint(path, given)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"model": tensors},
        lambda tensors: {"net": tensors, "epoch": 3},
        lambda tensors: {"model_state_dict": tensors, "optimizer_state_dict": {"state": {}}},
        lambda tensors: {"generator": {"params_ema": tensors, "params": {"a": torch.ones(1)}}},
        lambda tensors: {"state_dict": {f"model.{k}": t for k, t in tensors.items()}},
        lambda tensors: {f"_orig_mod.module.{k}": t for k, t in tensors.items()},
        lambda tensors: {f"netG.net.{k}": t for k, t in tensors.items()},
        lambda tensors: tensors | {"epoch": 3, "name": "edsr", "best": None},
        lambda tensors: {"params": tensors, "psnr": np.float64(31.5), "loss": np.ones(3)},
        lambda tensors: tensors | {f"module.{k}": t.clone() for k, t in tensors.items()},
    ],
)
def test_weights_are_found_in_what_projects_wrap_them_in(tmp_path, wrap):
    network = tiny_edsr()
    found = import_checkpoint(saved(tmp_path, wrap(basicsr(network)))).network
    x = torch.rand(1, 3, 9, 7)
    assert torch.equal(found(x), network(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_floats_are_read(tmp_path, dtype):
    tensors = {key: tensor.to(dtype) for key, tensor in edsr_pytorch(tiny_edsr()).items()}
    found = import_checkpoint(saved(tmp_path, tensors)).network
    assert torch.equal(found.state_dict()["head.weight"], tensors["head.0.weight"].float())
    tensors["sub_mean.bias"] = tensors["sub_mean.bias"] * 1.02
    refused(saved(tmp_path, tensors), "sub_mean.bias differs from the constant of the network")


def on_range_1(network):
    """Tensors of an equivalent network for pictures 0..1, with features of the same size."""
    tensors = network.state_dict()
    for key in tensors:
        if key == "head.weight":
            tensors[key] = tensors[key] * RANGE
        elif key.startswith("tail."):
            tensors[key] = tensors[key] / RANGE
    network = build(network.config)
    network.load_state_dict(tensors)
    return network


def test_the_range_is_read_off_the_mean(tmp_path):
    network = tiny_edsr()
    tensors = edsr_pytorch(on_range_1(network))
    for name in ("sub_mean.bias", "add_mean.bias"):
        tensors[name] = tensors[name] / RANGE
    found = import_checkpoint(saved(tmp_path, tensors))
    x = torch.rand(1, 3, 9, 7)
    assert torch.allclose(found.network(x), network(x), atol=1e-5)
    assert found.assumed == ("res_scale 1 (`res_scale`)",)
    assert abs(tensors["add_mean.bias"] - torch.tensor(DIV2K_MEAN)).max() < 1e-6


def test_what_no_file_says_is_assumed_told_and_an_option(tmp_path):
    torch.manual_seed(0)
    network = build(EDSRConfig(scale=2, n_blocks=2, n_feats=8, res_scale=0.25)).eval()
    path = saved(tmp_path, basicsr(on_range_1(network)))
    assert import_checkpoint(path).assumed == ("res_scale 1 (`res_scale`)", "range 255 (`range`)")
    found = import_checkpoint(path, UserHints(res_scale=0.25, range=1))
    assert found.assumed == ()
    assert found.stated == ("res_scale 0.25 (`res_scale`)", "range 1 (`range`)")
    x = torch.rand(1, 3, 9, 7)
    assert torch.allclose(found.network(x), network(x), atol=1e-5)


def test_a_scale_that_only_the_name_says_is_told(srq, tmp_path):
    _, tensors = luma_idn(3)
    path = saved(tmp_path, tensors, "idn_x3.pth")
    assert import_checkpoint(path).assumed == ("scale 3 (`scale`)",)
    model = tmp_path / "m.safetensors"
    code, _, err = srq("import", path, "-o", model, "--scale", 2)
    assert code == 0
    assert "assumed" not in err
    assert f"{model} is worse than bicubic on a sample picture (" in err
    assert err.endswith("is scale 2 (--scale) the reason?\n")


def test_a_range_and_a_factor_are_refused_where_there_is_no_choice(tmp_path):
    path = saved(tmp_path, edsr_pytorch(tiny_edsr()))
    with pytest.raises(UsageError, match=r"^`range`: .*net\.pth \(EDSR-PyTorch\) leaves no choice"):
        import_checkpoint(path, UserHints(range=255))
    with pytest.raises(UsageError, match=r"res_scale: must be above 0 and at most 100|at most 100"):
        import_checkpoint(path, UserHints(res_scale=1e308))
    _, tensors = rdn(2)
    path = saved(tmp_path, tensors)
    with pytest.raises(UsageError, match=r"^`res_scale`: .* \(RDN\) has no residual factor"):
        import_checkpoint(path, UserHints(res_scale=0.1))
    assert import_checkpoint(path).assumed == ("range 255 (`range`)",)
    assert isinstance(import_checkpoint(path, UserHints(range=1)).network.config, RDNConfig)


@pytest.mark.parametrize("layout", [basicsr, edsr_pytorch])
def test_an_edsr_of_one_channel_enlarges_luma(tmp_path, layout):
    torch.manual_seed(0)
    network = build(EDSRConfig(scale=2, n_blocks=2, n_feats=8, luma=True)).eval()
    found = import_checkpoint(saved(tmp_path, layout(network)))
    assert found.network.config == network.config
    assert "its one channel is luma of 16 to 235" in found.assumed
    x = torch.rand(1, 3, 9, 7)
    assert torch.equal(found.network(x), network(x))


def test_networks_of_other_channels_are_refused_as_such(tmp_path):
    tensors = edsr_pytorch(tiny_edsr())
    tensors["head.0.weight"] = tensors["head.0.weight"][:, :2].clone()
    refused(saved(tmp_path, tensors), "takes pictures of 2 channels; srq takes RGB")
    _, tensors = rdn(2)
    tensors["SFENet1.weight"] = tensors["SFENet1.weight"][:, :1].clone()
    refused(saved(tmp_path, tensors), "takes pictures of 1 channels; srq takes RGB")


def test_unequal_copies_of_a_tensor_are_refused(tmp_path):
    tensors = basicsr(tiny_edsr())
    tensors["module.conv_last.bias"] = tensors["conv_last.bias"] + 1
    refused(saved(tmp_path, tensors), "module.conv_last.bias differs from another tensor")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.fill_(torch.nan),
            "conv_last.bias has values that are no finite numbers (NaN)",
        ),
        (lambda t: t.fill_(torch.inf), "no finite numbers (infinity)"),
        (lambda t: t.to(torch.complex64), "holds complex numbers"),
        (lambda t: t.to_sparse(), "is no plain tensor"),
        (lambda t: t.to("meta"), "is no plain tensor"),
        (lambda t: torch.zeros(1).expand(10**8), "more values than the file holds"),
        (lambda t: torch.zeros(()), "tail.bias is [], in this edsr [3]"),
    ],
)
def test_tensors_that_are_no_weights_are_named(tmp_path, change, message):
    tensors = basicsr(tiny_edsr())
    tensors["conv_last.bias"] = change(tensors["conv_last.bias"])
    path = saved(tmp_path, tensors)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, message)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "key", ["conv_first.weight", "conv_last.weight", "upsample.0.weight", "body.0.conv1.weight"]
)
@pytest.mark.parametrize("tensor", [torch.zeros(()), torch.zeros(0), torch.zeros(8, 0, 3, 3)])
def test_shapes_that_no_network_has_are_refused(tmp_path, key, tensor):
    refused(saved(tmp_path, basicsr(tiny_edsr()) | {key: tensor}), "of BasicSR EDSR")


def half_of(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


class Small(nn.Module):
    """Network with an unknown layout."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, x):
        return nn.functional.pixel_shuffle(self.layer(x), 2)


def a_script(tmp_path):
    torch.jit.trace(Small().eval(), torch.rand(1, 3, 8, 8)).save(tmp_path / "script.pt")
    return tmp_path / "script.pt"


def a_zip(tmp_path, *, compressed=False):
    path = tmp_path / "archive.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl" if compressed else "net.txt", bytes(10**6))
    return path


def a_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def with_damaged_names(path):
    path.write_bytes(path.read_bytes().replace(b"data.pkl", b"\xe3ata.pkl"))
    return path


FILES = [
    (lambda d: a_file(d, "a.pt", b""), "is empty"),
    (
        lambda d: a_file(d, "a.pt", b"version https://git-lfs.github.com/spec/v1\n"),
        "Git LFS pointer",
    ),
    (lambda d: a_file(d, "a.pth", b"\n<!DOCTYPE html><title>404"), "is an HTML page"),
    (lambda d: a_file(d, "a.pth", b"not found"), "is a text file"),
    (lambda d: a_file(d, "a.pth", b"\x89PNG\r\n\x1a\n"), "is a picture"),
    (lambda d: a_file(d, "a.tflite", b"\x1c\0\0\0TFL3\0"), "is a TensorFlow Lite graph; convert"),
    (lambda d: a_file(d, "a.param", b"7767517\n3 3\n"), "is a network of ncnn"),
    (lambda d: a_file(d, "a.pb", b"\n\x0c\n\x04"), "is a TensorFlow graph"),
    (
        lambda d: a_file(d, "a.xml", b'<?xml version="1.0"?>\n<net name="a">'),
        "is a graph, for srq upscale",
    ),
    (lambda d: a_file(d, "a.bin", bytes(range(256))), "damaged, cut short, or no checkpoint"),
    (lambda d: nearest_onnx(d / "a.onnx"), "is a graph, for srq upscale and srq eval; here"),
    (a_script, "is TorchScript"),
    (a_zip, "is a ZIP archive"),
    (lambda d: a_zip(d, compressed=True), "is compressed"),
    (lambda d: half_of(saved(d, basicsr(tiny_edsr()))), "is cut short or damaged"),
    (lambda d: with_damaged_names(saved(d, {"a": torch.ones(3)})), "cut short or damaged"),
    (lambda d: saved(d, [torch.ones(3)]), "holds no dictionary of tensors, but list"),
    (lambda d: saved(d, {"epoch": 3}), "holds no dictionary of tensors, but epoch"),
    (lambda d: saved(d, {"layer.weight": torch.ones(3)}), "of no known layout; known are EDSR-Py"),
]


@pytest.mark.parametrize(("make", "message"), FILES)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, recwarn, make, message):
    path = make(tmp_path)
    recwarn.clear()
    refused(path, message)
    assert not recwarn.list


@pytest.mark.parametrize("command", ["info", "bench", "export", "import", "quantize", "distill"])
def test_commands_that_need_a_model_say_what_a_graph_is(srq, tmp_path, command):
    graph = tmp_path / "a.xml"
    graph.write_text('<?xml version="1.0"?>\n<net name="sr" version="11"></net>\n')
    more = {"quantize": ["--method", "minmax"], "distill": ["--teacher", graph]}.get(command, [])
    code, out, err = srq(command, graph, *more)
    assert (code, out) == (2, "")
    assert err == (
        f"srq: error: {graph} is a graph, for srq upscale and srq eval; here, name the model "
        "that it was made from\n"
    )


def test_half_a_safetensors_file_is_refused(tmp_path):
    save_file(basicsr(tiny_edsr()), tmp_path / "a.safetensors")
    refused(half_of(tmp_path / "a.safetensors"), "damaged, cut short, or no checkpoint")


def test_the_names_of_layouts_hold_no_commas():
    assert not any("," in layout.source for layout in LAYOUTS)


@pytest.mark.slow
def test_a_network_of_no_known_layout_is_exported_by_the_line_that_is_told(tmp_path, monkeypatch):
    path = saved(tmp_path, Small().state_dict())
    refused(path, ONNX_EXPORT)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        exec(ONNX_EXPORT, {"torch": torch, "model": model})
    upscaler = open_path(tmp_path / "model.onnx", runtime="auto")
    assert upscaler(picture(9, 13)).shape == (18, 26, 3)


def test_an_import_worse_than_bicubic_says_so_and_names_the_options(srq, tmp_path):
    path = saved(tmp_path, basicsr(tiny_edsr()))
    model = tmp_path / "m.safetensors"
    code, _, err = srq("import", path, "-o", model)
    assert code == 0
    assert err.startswith("assumed: res_scale 1 (--res-scale), range 255 (--range)\n")
    assert f"srq: warning: {model} is worse than bicubic on a sample picture (" in err
    assert "is res_scale 1 (--res-scale) or range 255 (--range) the reason?" in err
    code, _, err = srq(
        *("import", path, "-o", model, "--overwrite", "--res-scale", "0.5", "--range", "1")
    )
    assert code == 0
    assert "assumed" not in err
    assert "is res_scale 0.5 (--res-scale) or range 1 (--range) the reason?" in err
    network, header = load_model(model)
    assert network.config.res_scale == 0.5
    assert (header.card.source, header.card.data) == ("BasicSR EDSR", "")
    out = srq("info", model)[1]
    assert "imported from:   BasicSR EDSR\n" in out
    assert "written by:      srq" in out
    assert "trained on" not in out
    out = srq("info", path)[1]
    assert "imported from:   BasicSR EDSR\n" in out
    assert "written by" not in out
