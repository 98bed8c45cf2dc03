"""A network from outside the package: what every network keeps, and each command with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sr_quant_cli import methods, networks
from sr_quant_cli.commands.stages import default_recipe
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.spec import freeze
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import fold, fold_exactly
from sr_quant_cli.networks.layers import Leaf, ScaledBranch
from sr_quant_cli.networks.tracing import links
from sr_quant_cli.quant.layers import QuantConv2d
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.recipe.load import load_recipe
from tests import test_docs
from tests.helpers import BlockConfig, picture
from tests.lowered import lr_batch, quantize
from tests.networks import test_every_network as every
from tests.outside.conftest import EXTRA

pytestmark = pytest.mark.usefixtures("registered")
ROOT = Path(__file__).parents[2]
SMALL = [
    f"--set={change}"
    for change in (
        "network.n_blocks=1",
        "network.n_feats=8",
        "network.scale=2",
        "data.patch_hr=24",
        "train.batch=2",
        "validation.every=2",
        "validation.crop_hr=32",
    )
]


@pytest.mark.parametrize("name", ["tqt.py", "rlfn.py", "tqt-edsr.toml", "pretrain-rlfn.toml"])
def test_the_guide_has_this_code(name):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert (EXTRA / name).read_text() in page, f"copy tests/outside/srq_extra/{name} to the guide"


def test_the_commands_of_the_guide_parse(tmp_path, monkeypatch):
    test_docs.test_every_command_parses(ROOT / "CONTRIBUTING.md", tmp_path, monkeypatch)


@pytest.mark.parametrize("scale", [2, 3])
def test_what_every_network_keeps(scale):
    every.test_output_is_enlarged("rlfn", "", scale)
    every.test_receptive_radius_covers_all_that_a_pixel_depends_on("rlfn", "", scale)


def test_sites_features_and_other_scales(monkeypatch):
    monkeypatch.setitem(every.FLOAT, "rlfn", ".attention.")
    every.test_every_layer_is_a_site("rlfn", "")
    every.test_all_multiply_accumulates_are_at_sites("rlfn", "")
    every.test_sites_are_there_in_the_order_of_computation("rlfn", "")
    every.test_folding_for_inference_is_exact("rlfn", "")
    every.test_a_quantized_network_has_the_same_sites("rlfn", "")
    every.test_another_scale_starts_from_the_body("rlfn", "")
    every.test_features_are_submodules("rlfn", "")


def test_tracing_enters_its_blocks():
    found = {
        (link.producer, link.consumer) for link in links(every.made("rlfn"), *[(nn.Conv2d,)] * 2)
    }
    assert ("body.0.attention.reduce", "body.0.attention.conv") in found
    assert ("body.0.fusion", "body.0.attention.reduce") not in found  # it is multiplied, too


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["paper", "full"])
@pytest.mark.parametrize("method", ["tqt", "minmax"])
def test_every_layer_comes_down_to_integers(method, placement):
    network = quantize(every.made("rlfn"), method, placement)
    made = deploy(network, "rlfn", "float", full_range=True)
    assert made.notes == ()
    assert made.integer_layers == sum(isinstance(m, QuantConv2d) for m in network.modules())
    # The attention is float, and what it reads.
    assert not made.all_integer


@pytest.mark.slow
def test_each_command_takes_it(srq, photographs, tmp_path):
    shared = ["--data", photographs, "--threads", 1, "--device", "cpu"]
    trained, quantized = tmp_path / "trained", tmp_path / "quantized"
    code, _, err = srq(
        *("pretrain", "rlfn", "--recipe", EXTRA / "pretrain-rlfn.toml", "--run", trained, *shared),
        *(*SMALL, "--set=train.iters=2"),
    )
    assert code == 0, err
    model = trained / "model.safetensors"
    code, _, err = srq(
        *("quantize", model, "--recipe", EXTRA / "tqt-edsr.toml", "--run", quantized, *shared),
        *("--w", 8, "--a", 8, "--placement", "full", "--iters", 0, *SMALL[3:]),
        "--set=calibration.patch_lr=12",
    )
    assert code == 0, err
    model = quantized / "model.safetensors"
    code, out, err = srq("info", model)
    assert code == 0, err
    assert "rlfn" in out
    assert "tqt" in out

    graph = tmp_path / "rlfn.onnx"
    code, out, err = srq("export", model, "-o", graph, "--threads", 1)
    assert code == 0, out + err
    lr = tmp_path / "lr.png"
    write_rgb(lr, picture(33, 41))
    results = {}
    for name, options in (
        ("torch", ["--model", model, "--runtime", "torch"]),
        ("graph", ["--model", graph]),
    ):
        code, _, err = srq("upscale", lr, "-o", tmp_path / f"{name}.png", "--threads", 1, *options)
        assert code == 0, err
        results[name] = read_rgb(tmp_path / f"{name}.png").astype(int)
    assert results["torch"].shape == (66, 82, 3)
    assert results["torch"].std() > 1
    off = np.abs(results["torch"] - results["graph"])
    assert off.mean() <= 0.5  # the weights of the ends have 7 bits in the graph


def test_a_method_without_a_recipe_for_it_says_what_to_copy():
    assert default_recipe("pams", {"name": "rlfn"}) == "pams-edsr"
    with pytest.raises(UsageError, match="no recipe of tqt for rlfn: copy another with"):
        default_recipe("tqt", {"name": "rlfn"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("network.n_featz=8", "unknown key, did you mean network.n_feats"),
        ("network.n_blocks=0", "n_blocks.*must be 1 to"),
        ("method.steps=1", "steps.*name, variant"),
        ("network.name=rlf", "unknown network 'rlf': did you mean 'rlfn'"),
        ("method.name=tqtq", "unknown method 'tqtq': did you mean 'tqt'"),
    ],
)
def test_mistakes_in_a_recipe_are_told_as_for_any_other(change, message):
    recipe = "pretrain-rlfn" if change.startswith("network") else "tqt-edsr"
    with pytest.raises(UsageError, match=message):
        load_recipe(f"{EXTRA}/{recipe}.toml", [change])


def test_a_missing_package_is_named_as_a_reason(tmp_path, monkeypatch):
    path, advice = tmp_path / "rlfn.safetensors", "a package that adds it may be missing"
    save_model(path, quantize(every.made("rlfn"), "tqt"), Card())
    monkeypatch.delitem(methods.REGISTRY.known, "tqt")
    with pytest.raises(UsageError, match=f"unknown method 'tqt': .*{advice}"):
        load_model(path)
    with pytest.raises(UsageError, match=f"unknown method 'tqt': .*{advice}"):
        load_recipe(f"{EXTRA}/tqt-edsr.toml")
    monkeypatch.delitem(networks.REGISTRY.known, "rlfn")
    with pytest.raises(UsageError, match=f"unknown network 'rlfn': .*{advice}"):
        load_model(path)
    with pytest.raises(UsageError, match=f"unknown network 'rlfn': .*{advice}"):
        load_recipe(f"{EXTRA}/pretrain-rlfn.toml")


class Scaled(ScaledBranch):
    """A block of another class than the package's, with a factor on its branch."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.block_out = nn.Identity()
        self.res_scale = 0.3

    def forward(self, x):
        return x + self.res_scale * self.block_out(self.conv2(self.conv1(x)))


class OneBlock(Network):
    receptive_radius, floats_per_pixel = 3, 100

    def __init__(self, block):
        super().__init__(BlockConfig(scale=2))
        self.head, self.block = nn.Conv2d(3, 8, 3, padding=1), block
        self.tail = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

    def declared_sites(self):
        return (
            Site("block.conv1", "block_first", 8),
            Site("block.conv2", "block", 8),
            Site("block.block_out", "block_out", 8),
        )

    def enlarge(self, x):
        return self.tail(self.block(self.head(x)))


@torch.no_grad()
def test_the_factor_on_a_branch_becomes_a_part_of_its_step():
    torch.manual_seed(0)
    network = quantize(OneBlock(Scaled()), "tqt", bits=8)
    lowered = lower(network, freeze(network))
    assert lowered.block.res_scale == 1.0
    x = lr_batch(1)
    assert torch.allclose(lowered(x), network(x), atol=1e-3)


class Branching(Scaled):
    def forward(self, x):
        return super().forward(x) if x.shape[2] > 4 else x


class Whole(Leaf):
    def __init__(self):
        super().__init__()
        self.block = Branching()

    def forward(self, x):
        return self.block(x)


def test_what_cannot_be_traced_is_told_what_to_derive_from():
    with pytest.raises(FailedError, match=r"OneBlock cannot be traced .*layers\.Leaf"):
        fold_exactly(OneBlock(Branching()))
    fold(OneBlock(Whole()))
