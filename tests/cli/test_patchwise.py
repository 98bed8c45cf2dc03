"""``srq eval`` and ``srq upscale`` in patches, as a user runs them."""

import json

import numpy as np
import pytest

from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import header_of
from tests.helpers import nearest_onnx, picture
from tests.inference.dynamic import dynamic_edsr

PATCHES = ("--patchwise", "--patch", 12, "--step", 10)


@pytest.fixture
def dynamic_model(monkeypatch, tiny_model):
    """A path that opens as a network whose bits follow the picture."""
    from sr_quant_cli.inference import graph_cache
    from sr_quant_cli.modelfiles import loading

    network = dynamic_edsr()
    loaded = network, header_of(network, Card(name="moving"))
    usual = loading.load
    path = tiny_model.with_name("moving.safetensors")
    path.write_bytes(tiny_model.read_bytes())
    for module in (graph_cache, loading):
        monkeypatch.setattr(
            module, "load", lambda s, *given: loaded if s.path == path else usual(s, *given)
        )
    return path


@pytest.fixture
def data(tmp_path):
    """Two pictures, of which the second is bright."""
    write_rgb(tmp_path / "data/Set5/HR/a.png", picture(40, 64) // 4)
    write_rgb(tmp_path / "data/Set5/HR/b.png", 255 - picture(40, 40) // 4)
    return tmp_path / "data"


def evaluate(srq, data, report, *arguments):
    code, out, err = srq(
        *("eval", *arguments, "--bench", "Set5", "--data-root", data, "--json", report)
    )
    assert (code, err) == (0, "")
    return out, json.loads(report.read_text())


@pytest.mark.slow
def test_eval_of_patches_shows_average_bits_and_bit_operations(
    srq, dynamic_model, tiny_model, data, tmp_path
):
    out, document = evaluate(
        srq, data, tmp_path / "r.json", dynamic_model, tiny_model, *PATCHES, "--bit-maps", tmp_path
    )
    assert document["patches"] == {"patch": 12, "step": 10}
    bicubic, moving, tiny = document["rows"]
    assert (bicubic["fab"], bicubic["bitops_counted"]) == (None, None)
    assert tiny["fab"] == 32
    # The dark picture takes 4 bits everywhere, the bright one alternates between 8 and 4.
    assert [p["fab"] for p in moving["pictures"]] == [4, 6]
    assert moving["fab"] == 5
    for row in (moving, tiny):
        assert row["bitops_counted"] > row["bitops_once_counted"] > 0
        mean = np.mean([p["bitops_counted"] for p in row["pictures"]])
        assert row["bitops_counted"] == pytest.approx(mean)
    for expected in (
        *("FAB", "T BitOPs", " 5.00 ", "32.00"),
        "patches of 12 LR pixels at a step of 10",
        "FAB of moving: mean bits of 4 inputs (block_in, block) of 8 layers",
        "as if every LR pixel ran once",
    ):
        assert expected in out
    maps = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*_bits.png"))
    assert maps == ["moving/Set5/a_x2_bits.png", "moving/Set5/b_x2_bits.png"]
    assert min(read_rgb(tmp_path / maps[0]).shape[:2]) > 200


def test_eval_of_whole_pictures_counts_bits_too(srq, dynamic_model, tiny_model, data, tmp_path):
    out, document = evaluate(srq, data, tmp_path / "r.json", dynamic_model)
    assert document["patches"] is None
    assert document["rows"][1]["fab"] == 5
    assert document["rows"][1]["bitops_counted"] == document["rows"][1]["bitops_once_counted"]
    assert "FAB: mean bits of 4 inputs" in out
    out, document = evaluate(srq, data, tmp_path / "r.json", tiny_model)
    assert "FAB" not in out
    assert document["rows"][1]["fab"] == 32


def test_upscale_by_patches_draws_where_bits_went(srq, dynamic_model, tmp_path):
    folder = tmp_path / "in"
    write_rgb(folder / "a.png", picture(24, 40))
    command = ("upscale", folder, "--model", dynamic_model, *PATCHES, "--bit-map")
    code, out, err = srq(*command, "--json", tmp_path / "r.json")
    assert (code, err) == (0, "")
    assert "a_x2_bits.png" in out
    assert read_rgb(folder / "a_x2.png").shape == (48, 80, 3)
    (entry,) = json.loads((tmp_path / "r.json").read_text())["pictures"]
    assert entry["bit_map"] == str(folder / "a_x2_bits.png")
    # Neither file is taken as an input, and nothing is overwritten.
    code, _, err = srq(*command)
    assert (code, err.count("\n")) == (2, 1)
    assert "a_x2.png exists" in err
    assert len(list(folder.iterdir())) == 3
    (folder / "a_x2.png").unlink()
    assert "a_x2_bits.png exists" in srq(*command)[2]
    before = (folder / "a_x2_bits.png").read_bytes()
    (folder / "a_x2_bits.png").unlink()
    code, out, err = srq(*command, "--skip-existing")
    assert (code, err) == (0, "")  # one of its two outputs is missing
    assert (folder / "a_x2_bits.png").read_bytes() == before
    assert srq(*command, "--skip-existing")[2] == "1 of 1 results exist, and are skipped\n"
    code, _, err = srq("upscale", folder / "a.png", *command[2:], "-o", "-")
    assert (code, err.startswith("srq: error: --bit-map: not with standard output")) == (2, True)


def test_upscale_by_patches_without_a_map(srq, tiny_model, tmp_path):
    write_rgb(tmp_path / "a.png", picture(24, 40))
    code, _, _ = srq("upscale", tmp_path / "a.png", "--model", tiny_model, *PATCHES)
    assert code == 0
    assert [p.name for p in sorted(tmp_path.glob("*.png"))] == ["a.png", "a_x2.png"]


WRONG = [
    (["eval", "TINY", "--patch", 96], "--patch 96: only with --patchwise"),
    (["upscale", "PNG", "--model", "TINY", "--step", 90], "--step 90: only with --patchwise"),
    (["eval", "TINY", "--patchwise", "--patch", 48], "patches of 48 at a step of 90: the step"),
    (["eval", "TINY", "--patchwise", "--step", 91], "the overlap of 5 must be even"),
    (["eval", "ONNX", "--patchwise"], "is a graph, name the model that it was made of"),
    (["eval", "TINY", "--patchwise", "--record"], "--record: stores scores of whole pictures"),
    (["eval", "TINY", "--bit-maps", "maps"], "--bit-maps: only with --patchwise"),
    (["eval", "TINY", "--patchwise", "--bit-maps", "maps"], "--bit-maps: the bits of no model"),
    (["upscale", "PNG", "--model", "TINY", "--bit-map"], "--bit-map: only with --patchwise"),
    (
        ["upscale", "PNG", "--model", "TINY", "--bit-map", "--patchwise"],
        "--bit-map: the bits of tiny do not follow the picture",
    ),
    (["upscale", "PNG", "--model", "TINY", "--patchwise", "--tile", 8], "--tile 8: patches"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_cannot_be_had_is_refused_in_a_line(srq, tiny_model, tmp_path, arguments, message):
    write_rgb(tmp_path / "a.png", picture(12, 12))
    names = {"TINY": tiny_model, "PNG": tmp_path / "a.png"}
    names["ONNX"] = nearest_onnx(tmp_path / "n.onnx")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = srq(*(names.get(word, word) for word in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("srq: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
