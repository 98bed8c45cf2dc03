"""Pictures of a folder that are enlarged, names of the results, and outcomes of a batch."""

import json
import os

import pytest

from sr_quant_cli.commands import jobs
from sr_quant_cli.commands.batch import BatchOptions, run_jobs
from sr_quant_cli.commands.jobs import Naming
from sr_quant_cli.commands.scaled_models import ScaledModels
from sr_quant_cli.commands.upscale import UpscaleReport
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.inference.upscaler import BicubicUpscaler
from tests.helpers import nearest_onnx, picture

UNDECODABLE = os.fsdecode(b"caf\xe9.png")
"""A name that is not UTF-8, as in old archives."""


def plan_jobs(*inputs, output=None, tag="_x2", **more):
    output = output if output is None else str(output)
    return jobs.plan_jobs(list(map(str, inputs)), Naming(tag), output, **more)


def run(plan):
    return run_jobs(ScaledModels(BicubicUpscaler(2)), plan.jobs, BatchOptions())


def names(plan):
    return [(job.source.name, job.target.name) for job in plan.jobs]


def fill(folder, *files):
    for name in files:
        write_rgb(folder / "new.png", picture(5, 5))
        (folder / "new.png").rename(folder / name)


def test_outputs_lie_beside_inputs_and_are_not_inputs_again(tmp_path):
    fill(
        tmp_path,
        "a.png",
        "b.jpg",
        "a_x2.png",
        "b_x4.png",
        "a_x3_bits.png",
        "c_x2.png",
        "b.jpg_x8.png",
    )
    plan = plan_jobs(tmp_path)
    assert names(plan) == [
        ("a.png", "a_x2.png"),
        ("b.jpg", "b_x2.png"),
        ("c_x2.png", "c_x2_x2.png"),
    ]
    assert plan.left_out == (
        f"{tmp_path}: left out: 4 enlargements (a_x2.png, a_x3_bits.png, b.jpg_x8.png, ...)"
    )


def test_what_is_left_out_is_said_in_a_line(tmp_path, srq):
    fill(tmp_path, "a.png", "a_x2.png", ".hidden.png", "._a.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "b.heic").touch()
    (tmp_path / "day1").mkdir()
    line = (
        f"{tmp_path}: left out: 2 other files (b.heic, notes.txt), 1 subfolder (day1), "
        "1 enlargement (a_x2.png)"
    )
    model = nearest_onnx(tmp_path / ".n.onnx")
    command = ("upscale", tmp_path, "--model", model, "-o", tmp_path / "day1")
    code, out, err = srq(*command, "--json", tmp_path / ".r.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == line
    assert json.loads((tmp_path / ".r.json").read_text())["left_out"] == line
    assert [path.name for path in (tmp_path / "day1").iterdir()] == ["a_x2.png"]


def test_pictures_of_one_stem_are_all_enlarged(tmp_path):
    fill(tmp_path, "a.jpg", "a.png", "a.webp", "A.tif", "a.png.bmp")
    plan = plan_jobs(tmp_path, output=tmp_path / "out")
    assert names(plan) == [
        ("A.tif", "A_x2.png"),
        ("a.jpg", "a.jpg_x2.png"),
        ("a.png", "a.png_x2.png"),
        ("a.png.bmp", "a.png.bmp_x2.png"),
        ("a.webp", "a.webp_x2.png"),
    ]


def test_a_damaged_picture_does_not_take_the_name_of_a_healthy_one(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "a.jpg").write_text("no picture")
    results = run(plan_jobs(tmp_path, output=tmp_path / "out"))
    assert [result.status for result in results] == ["failed", "done"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png_x2.png"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (None, "a_x2.png"),
        ("big.webp", "big.webp"),
        ("folder", "folder/a_x2.png"),
        ("there.png", "there.png/a_x2.png"),
        ("out.2024/", "out.2024/a_x2.png"),
        ("new.png/", "new.png/a_x2.png"),
    ],
)
def test_where_one_picture_goes(tmp_path, output, expected):
    fill(tmp_path, "a.png")
    (tmp_path / "there.png").mkdir()
    output = None if output is None else f"{tmp_path}/{output}"
    (job,) = plan_jobs(tmp_path / "a.png", output=output).jobs
    assert job.target == tmp_path / expected


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("nothing.png", None, "no such picture or folder"),
        ("void", None, r"no pictures in .*void, but 1 other file \(notes.txt\)$"),
        ("in", "o.png", "is a file name, but the input"),
        ("in/a.png", "o.xyz", r"suffix must be one of .png, .*; for a folder, write .*o\.xyz/$"),
        ("in/a.png", "pipe", "is no folder, and ends in none of .png"),
        ("a" * 5000, None, "File name too long"),
        ("in/a.png", "a" * 5000, "File name too long"),
    ],
)
def test_impossible_inputs_and_outputs_are_refused(tmp_path, source, output, message):
    for folder in ("in", "void"):
        (tmp_path / folder).mkdir()
    fill(tmp_path / "in", "a.png")
    (tmp_path / "void/notes.txt").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=message) as refused:
        plan_jobs(tmp_path / source, output=output and tmp_path / output)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("arguments", [("",), ("a.png", "-o", "")])
def test_a_variable_without_a_value_is_no_folder(srq, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "a.png")
    code, out, err = srq("upscale", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the name is empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_one_bad_picture_does_not_stop_the_others(tmp_path, capsys):
    fill(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").write_text("no picture")
    write_rgb(tmp_path / "cut.png", picture(40, 40))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:900])
    results = run(plan_jobs(tmp_path, output=tmp_path / "out"))
    assert [r.status for r in results] == ["done", "failed", "done", "failed"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_x2.png", "c_x2.png"]
    with pytest.raises(FailedError, match=r"2 of 4 failed: b\.png, cut\.png"):
        UpscaleReport("bicubic", 2, tuple(results)).raise_failures()
    assert "b.png: failed" in capsys.readouterr().out


def test_odd_names_are_enlarged_or_named(tmp_path, srq):
    """The longest name that the file system takes, one byte more, and bytes that are not UTF-8."""
    longest, longer = "l" * (255 - len("_x2.png")), "m" * (256 - len("_x2.png"))
    folder = tmp_path / "in"
    folder.mkdir()
    fill(folder, f"{longest}.png", f"{longer}.png", UNDECODABLE, "z.png", "[1].png", "-o.png")
    command = ("upscale", folder, "--model", nearest_onnx(tmp_path / "n.onnx"))
    code, out, err = srq(*command, "-o", tmp_path / "out")
    assert code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["-o_x2.png", "[1]_x2.png", os.fsdecode(b"caf\xe9_x2.png"), f"{longest}_x2.png", "z_x2.png"]
    )
    assert read_rgb(tmp_path / "out" / os.fsdecode(b"caf\xe9_x2.png")).shape == (10, 10, 3)
    assert "caf\\udce9.png -> " in out
    assert "File name too long" in out
    assert err == f"srq: error: 1 of 6 failed: {longer}.png\n"
