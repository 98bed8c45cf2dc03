"""Scores and graphs from Python are those of the commands."""

import json
from pathlib import Path

import numpy as np
import pytest

import sr_quant_cli as srq
from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture

HR = [picture(40, 44, seed=seed) for seed in range(2)]


@pytest.fixture
def data(tmp_path):
    for index, hr in enumerate(HR):
        write_rgb(tmp_path / f"data/Set5/HR/{index:04}.png", hr)
    return tmp_path / "data"


def rows(report):
    return [{key: row[key] for key in row if key != "seconds"} for row in report["rows"]]


def test_the_rows_are_those_of_the_command(srq_command, data, tiny_model, tmp_path):
    code, _, err = srq_command(
        *("eval", tiny_model, "--bench", "Set5", "--data-root", data),
        *("--json", tmp_path / "e.json"),
    )
    assert code == 0, err
    wanted = json.loads((tmp_path / "e.json").read_text())
    for models in (tiny_model, [str(tiny_model)], srq.load_model(tiny_model)):
        scores = srq.evaluate(models, "Set5", data_root=data)
        assert rows(scores.to_json()) == rows(wanted)


def test_a_folder_and_images_in_memory_score_alike(data, tiny_model):
    by_name = srq.evaluate(tiny_model, "Set5", data_root=data).results
    by_folder = srq.evaluate(tiny_model, data / "Set5").results
    seen = []
    in_memory = srq.evaluate(tiny_model, [HR[0], HR[1] / 255], progress=seen.append)
    for results in (by_folder, in_memory.results):
        assert [(r.label, r.psnr, r.ssim) for r in results] == [
            (r.label, r.psnr, r.ssim) for r in by_name
        ]
    assert [(each.done, each.unit) for each in seen] == [(1, "picture"), (2, "picture")]
    assert in_memory.sets[0].name == "images"


def test_the_self_ensemble_of_a_model_counts(tiny_model):
    plain = srq.evaluate(tiny_model, HR)
    model = srq.load_model(tiny_model, self_ensemble=True)
    mean = srq.evaluate(model, HR)
    assert mean.results[1].label == "tiny+"
    assert mean.results[1].psnr != plain.results[1].psnr
    with pytest.raises(srq.UsageError, match="evaluate them one by one"):
        srq.evaluate([model, tiny_model], HR)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bench": "Set6"}, srq.UsageError, "unknown benchmark set 'Set6'"),
        ({"bench": Path("no/set")}, srq.UsageError, "^`bench` no/set: there is no such folder$"),
        ({"bench": []}, ValueError, "there are no images"),
        ({"bench": HR, "protocol": "matlap"}, srq.UsageError, "matlab"),
        ({"bench": HR, "scale": 3}, srq.UsageError, "enlarges by 2, not by 3"),
        ({"bench": HR, "models": [None]}, TypeError, "a name, a path or a Model"),
        ({"bench": [np.zeros((9, 9, 2), np.uint8)]}, ValueError, "alpha"),
    ],
)
def test_mistakes_are_clear_errors(tiny_model, arguments, error, message):
    with pytest.raises(error, match=message):
        srq.evaluate(**{"models": tiny_model, **arguments})


@pytest.mark.slow
def test_export_writes_a_graph_that_is_a_model_again(tiny_model, tmp_path):
    model = srq.load_model(tiny_model, runtime="torch")
    exported = srq.export(model, tmp_path / "t.onnx", threads=1)
    assert exported.path == tmp_path / "t.onnx"
    assert exported.bytes == exported.path.stat().st_size
    assert exported.to_json()["verification"]["loss"] < 0.01
    image = picture(13, 17)
    graph = srq.load_model(exported.path).upscale(image)
    assert np.abs(graph.astype(int) - model.upscale(image)).max() <= 1
    with pytest.raises(srq.UsageError, match="exists; use `overwrite`"):
        srq.export(model, tmp_path / "t.onnx")
    with pytest.raises(srq.UsageError, match=r"must end in one of \.xml, \.onnx"):
        srq.export(model, tmp_path / "t.pb")
    with pytest.raises(srq.UsageError, match="`io` rgb: must be one of float, uint8"):
        srq.export(model, tmp_path / "u.onnx", io="rgb")
    with pytest.raises(srq.UsageError, match="`offsets` round: must be one of exact, snap"):
        srq.export(model, tmp_path / "u.onnx", offsets="round")
