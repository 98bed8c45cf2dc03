"""Networks that choose a row of bits, on static graphs of these rows."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from sr_quant_cli.errors import FailedError
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.methods import build, config_class
from sr_quant_cli.methods.adabm import THRESHOLD_GAIN, slopes
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.passes.rows import at_row
from sr_quant_cli.quant.max_scale import inherit_scales
from sr_quant_cli.quant.pictures import edge_score, entropy
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL
from tests.helpers import open_path, tiny_edsr

LISTED = ("cabm", "adabm", "granular_dq")
"""methods that choose among rows of bits"""


def rough(size=48):
    """A picture that is smooth on the left and rough on the right."""
    share = np.linspace(0, 1, size)[None, :, None]
    noise = np.random.default_rng(0).uniform(-80, 80, (size, size, 3))
    return np.clip(128 + share * noise, 0, 255).astype(np.uint8)


def lr_batch():
    """Three patches of that picture, from smooth to rough."""
    pixels = torch.from_numpy(rough()).permute(2, 0, 1).float() / 255
    return torch.stack([pixels[:, :16, left : left + 16] for left in (0, 16, 32)])


def between(values):
    return (values[1:] + values[:-1]) / 2


def dynamic(name, placement="paper"):
    """Make a network with a row for each of three patches; 7-bit weights are exact in kernels."""
    network, method = tiny_edsr(), build(config_class(name)())
    sites = FULL if placement == "full" else method.paper_placement()
    quantize_network(network, method, sites, Bits(7, 6 if name == "adabm" else 8))
    provider = network.bit_provider
    if name == "adabm":
        method.calibrate(network, [lr_batch()])
        provider.slope_thresholds.data.copy_(between(slopes(lr_batch())) / THRESHOLD_GAIN)
        return network.eval()
    before, pams = tiny_edsr(), build(config_class("pams")())
    quantize_network(before, pams, sites, Bits(8, 8))
    pams.calibrate(before, [lr_batch()])
    inherit_scales(network, before)
    if name == "granular_dq":
        provider.thresholds.copy_(between(entropy(lr_batch())))
        return network.eval()
    scores = edge_score(lr_batch())
    provider.edges.copy_(torch.linspace(scores[0], scores[2], len(provider.edges)))
    random = torch.Generator().manual_seed(0)
    provider.table.copy_(torch.randint(0, 3, provider.table.shape, generator=random))
    return network.eval()


@pytest.mark.parametrize("placement", ["paper", "full"])
@pytest.mark.parametrize("name", LISTED)
def test_a_row_is_the_network_that_the_picture_would_choose(name, placement):
    network, lr = dynamic(name, placement), lr_batch()
    with torch.no_grad():
        whole = network(lr)
    bits, rows = network.bit_provider.chosen(), network.bit_provider.row.tolist()
    assert len(set(rows)) == 3
    for n, row in enumerate(rows):
        assert network.bit_provider.rows()[row].tolist() == bits[n].tolist()
        with torch.no_grad():
            assert torch.allclose(at_row(network, row)(lr)[n], whole[n], atol=1e-5)


def test_what_has_no_rows_and_rows_that_are_not_there():
    with pytest.raises(ValueError, match="not chosen from a table of rows"):
        at_row(tiny_edsr(), 0)
    with pytest.raises(ValueError, match="rows are 0 to 2"):
        at_row(dynamic("granular_dq"), 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_rows_come_down_to_integers(name):
    network = at_row(dynamic(name, "full"), 1)
    assert deploy(network, "row", "float").all_integer


def test_a_network_whose_zero_points_follow_the_picture_is_no_graph():
    with pytest.raises(FailedError, match="choose a `row`"):
        deploy(dynamic("adabm"), "dynamic", "float")


@pytest.mark.slow
def test_bits_are_fixed_by_calibration():
    fixed = deploy(dynamic("cabm"), "dynamic", "float", calibration=[lr_batch()])
    assert fixed.changed is not None
    assert fixed.changed.bit_provider is None


@pytest.fixture
def model(tmp_path):
    def save(name, placement="paper"):
        path = tmp_path / f"{name}.safetensors"
        save_model(path, dynamic(name, placement), Card(name=name))
        return path

    return save


opened = partial(open_path, precision="fp32", threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_patches_run_on_the_graphs_of_their_rows(model, name):
    path, patches = model(name), Patches(16, 16)
    seen = {}

    def run(runtime):
        tiles = []
        upscaler = opened(path, runtime=runtime, patches=patches)
        sr = upscaler(rough(), tiles.append)
        seen[runtime] = {(t.rows.first, t.columns.first): t.bits.tolist() for t in tiles}
        return sr.astype(int)

    difference = abs(run("torch") - run("onnxruntime"))
    assert seen["torch"] == seen["onnxruntime"]
    assert len({tuple(bits) for bits in seen["torch"].values()}) > 1
    # A code that rounds the other way is a step of its layer, of 4 bits a large one.
    assert difference.mean() < 0.02


@pytest.mark.slow
def test_a_network_of_fixed_bits_runs_on_one_graph(tiny_model):
    lr, patches = rough(), Patches(16, 16)
    outputs = [
        opened(tiny_model, runtime=runtime, patches=patches)(lr)
        for runtime in ("torch", "onnxruntime")
    ]
    assert abs(outputs[0].astype(int) - outputs[1].astype(int)).max() <= 1


@pytest.mark.slow
def test_export_of_a_row_and_counted_bits(srq, model, tmp_path):
    code, _, err = srq("export", model("adabm"), "-o", tmp_path / "x.onnx")
    assert (code, "choose a --row" in err) == (1, True)
    path = model("granular_dq", "full")
    code, _, err = srq("export", path, "--row", "1", "-o", tmp_path / "row.onnx")
    assert code == 0, err
    code, _, err = srq("export", path, "--row", "3", "-o", tmp_path / "x.onnx")
    assert (code, "--row 3" in err, "rows are 0 to 2" in err) == (2, True, True)
    assert not (tmp_path / "x.onnx").exists()
    home = tmp_path / "data/benchmark/Mine/HR"
    write_rgb(home / "a.png", rough(48))
    found = []
    for runtime in ("torch", "onnxruntime"):
        report = tmp_path / f"{runtime}.json"
        code, _, err = srq(
            *("eval", path, "--patchwise", "--patch", 12, "--step", 12, "--bench", "Mine"),
            *("--runtime", runtime, "--data-root", tmp_path / "data", "--json", report),
        )
        assert code == 0, err
        row = json.loads(report.read_text())["rows"][-1]
        found.append({key: row[key] for key in row if "fab" in key or "bitops" in key})
    assert found[0] == found[1] != {}
