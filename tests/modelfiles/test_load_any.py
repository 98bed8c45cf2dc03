"""Checkpoints of other projects in place of model files."""

import json
from dataclasses import asdict
from hashlib import sha256

import pytest
import torch

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.inference import graph_cache
from sr_quant_cli.inference.graph_cache import prepare
from sr_quant_cli.methods.pams import PAMSConfig
from sr_quant_cli.modelfiles.loading import load
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.system.files import write_sealed
from tests.helpers import open_path, picture, tiny_edsr
from tests.modelfiles.released import carn, edsr_for, pams, quantized
from tests.modelfiles.test_checkpoints import basicsr


@pytest.fixture
def checkpoint(tmp_path):
    """EDSR x2 with the names of BasicSR."""
    path = tmp_path / "theirs.pth"
    torch.save({"params": basicsr(tiny_edsr(2))}, path)
    return path


@pytest.fixture
def several(tmp_path):
    """CARN for x2 and x3 in one file."""
    tensors = {}
    for scale in (2, 3):
        _, more = carn(scale, several=True)
        tensors |= more
    torch.save(tensors, tmp_path / "carn.pth")
    return tmp_path / "carn.pth"


def test_a_checkpoint_is_loaded_as_a_model(checkpoint, tiny_model, capsys):
    network, header = load(identify(checkpoint))
    told = f"{checkpoint}: taken for BasicSR EDSR, x2; assumed, srq import changes it: "
    assert capsys.readouterr().err == f"{told}res_scale 1 (`res_scale`), range 255 (`range`)\n"
    assert header.network == tiny_edsr().config.model_dump()
    assert header.card.name == "theirs"
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(network(x), tiny_edsr()(x))
    assert identify(tiny_model).kind == "model"
    assert identify(checkpoint).kind == "checkpoint"
    load(identify(tiny_model))
    assert capsys.readouterr().err == ""
    for path in (checkpoint, tiny_model):
        with pytest.raises(UsageError, match=r"by x?2, not by 3"):
            load(identify(path, 3))


def test_commands_take_a_checkpoint(checkpoint, tmp_path, srq):
    note = f"{checkpoint}: taken for BasicSR EDSR, x2"
    write_rgb(tmp_path / "lr.png", picture(12, 10))
    for arguments in (
        ("info", checkpoint),
        ("upscale", tmp_path / "lr.png", "--model", checkpoint, "--runtime", "torch"),
    ):
        code, _, err = srq(*arguments)
        assert code == 0, err
        assert err.count(note) == (arguments[0] == "info")  # once, of one process
    assert (tmp_path / "lr_x2.png").is_file()
    code, _, err = srq("eval", checkpoint, "--record")
    assert code == 2
    assert "only srq model files store scores" in err


def test_quantization_starts_from_a_checkpoint(checkpoint, photographs, tmp_path, srq):
    sizes = ("data.patch_hr=24", "calibration.images=2", "calibration.patch_lr=8")
    options = [option for size in sizes for option in ("--set", size)]
    run = tmp_path / "q"
    code, _, err = srq(
        *("quantize", checkpoint, "--method", "minmax", "--w", "4", "--a", "4"),
        *("--data", photographs, "--run", run, "--device", "cpu", *options),
    )
    assert code == 0, err
    network, _ = load_model(run / "model.safetensors")
    assert network.quantization is not None
    code, _, err = srq("quantize", checkpoint, "--scale", "3", "--method", "minmax")
    assert code == 2
    assert "enlarges by x2, not by 3" in err


def test_prepared_graphs_do_not_mix_scales(several, capsys, monkeypatch):
    made = []

    def make(source, _depth, _row, _io, folder):
        made.append(source.scale)
        traits = asdict(ModelTraits("carn", source.scale, 1, 1))
        (folder / "graph.onnx").touch()
        known = {"facts": traits, "psnr": 30.0, "source": "CARN", "input_bits": None}
        known |= {"graph": sha256().hexdigest(), "key": folder.name}
        write_sealed(folder / "model.json", known)

    monkeypatch.setattr(graph_cache, "_make", make)
    for scale in (2, 3):
        assert prepare(identify(several, scale)).traits.scale == scale
        assert capsys.readouterr().err == ""
    assert prepare(identify(several, 2)).traits.scale == 2
    assert capsys.readouterr().err == f"{several}: taken for CARN, x2\n"
    # The name may contain the scale.
    several = several.rename(several.with_name("carn_x2.pth"))
    prepare(identify(several, 2))
    assert made == [2, 3, 2]
    with pytest.raises(UsageError, match="by x2 and x3, not by 4"):
        open_path(several)


def test_what_only_import_can_be_told_is_said(tmp_path, srq):
    torch.save(pams(quantized(edsr_for(), PAMSConfig(variant="code"))), tmp_path / "pams.pth")
    code, _, err = srq("info", tmp_path / "pams.pth")
    assert code == 2
    assert "srq import takes --w, --a" in err


def test_a_model_file_is_not_imported(tiny_model, tmp_path, srq):
    code, _, err = srq("import", tiny_model, "-o", tmp_path / "b.safetensors")
    assert code == 2
    assert "is an srq model file already" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "scale", "psnr"),
    [("idn_x4.safetensors", 4, 31.82), ("carn_m.pth", 3, 34.06), ("carn_m.pth", 4, 31.88)],
)
def test_published_networks_reach_their_psnr(real_data, tmp_path, srq, file, scale, psnr):
    """PSNR on Set5 equals the authors', up to the rounding of their figures."""
    model, report = real_data / "checkpoints" / file, tmp_path / "scores.json"
    code, _, err = srq("eval", model, "--scale", scale, "--bench", "Set5", "--json", report)
    assert code == 0, err
    rows = {row["model"]: row["psnr"] for row in json.loads(report.read_text())["rows"]}
    assert abs(rows[model.stem] - psnr) < 0.015
