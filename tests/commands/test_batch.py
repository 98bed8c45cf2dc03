"""Batches from the command line: sizes, streams, what is skipped, refused or only planned."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
import torch

from sr_quant_cli.commands.batch import Batch, BatchOptions, _Step, run_jobs
from sr_quant_cli.commands.enlarge import PictureOptions
from sr_quant_cli.commands.jobs import Naming, UpscaleJob, plan_jobs
from sr_quant_cli.commands.outlook import BatchOutlook, look_at_batch
from sr_quant_cli.commands.scaled_models import ScaledModels
from sr_quant_cli.commands.upscale import UpscaleRequest, upscale
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.inference.upscaler import BicubicUpscaler
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from sr_quant_cli.system.reporting import reporting
from tests.helpers import nearest_onnx, picture, tiny_edsr
from tests.system.test_reporting import Listener

CPU = torch.device("cpu")


@pytest.fixture
def twice(srq, tmp_path, monkeypatch):
    """Run ``srq upscale`` in a folder of its own, by a x2 graph that repeats pixels."""
    monkeypatch.chdir(tmp_path)
    model = nearest_onnx(tmp_path / ".n.onnx")
    return lambda *arguments: srq("upscale", *arguments, "--model", model)


def fill(*names, height=12, width=17):
    for index, name in enumerate(names):
        write_rgb(Path(name), picture(height, width, seed=index))


def made(folder="out"):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.*"))


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (("--scale", "1.5"), (26, 18)),
        (("--scale", "3"), (51, 36)),
        (("--scale", "1x2"), (17, 24)),
        (("--width", "30"), (30, 21)),
        (("--height", "30"), (42, 30)),
        (("--width", "40", "--height", "20"), (40, 20)),
        (("--fit", "90x20"), (28, 20)),
        (("--max-side", "100"), (100, 71)),
    ],
)
def test_any_size_is_made_and_said(twice, arguments, size):
    fill("a.png")
    code, out, err = twice("a.png", *arguments, "-o", "b.png", "--json", "r.json")
    assert (code, err) == (0, "")
    width, height = size
    assert read_rgb(Path("b.png")).shape == (height, width, 3)
    assert out.startswith(f"a.png -> b.png  x2 network, then resampled to {width}x{height}  ")
    (entry,) = json.loads(Path("r.json").read_text())["pictures"]
    assert (entry["width"], entry["height"], entry["resampled"]) == (*size, True)
    assert entry["network_scale"] == 2


@pytest.mark.parametrize("arguments", [("--scale", "2"), ("--width", "34"), ("--fit", "34x24"), ()])
def test_the_size_of_the_network_is_not_resampled(twice, arguments):
    fill("a.png")
    code, out, _ = twice("a.png", *arguments, "-o", "b.png")
    assert code == 0
    assert "resampled" not in out
    assert np.array_equal(
        read_rgb(Path("b.png")), read_rgb(Path("a.png")).repeat(2, 0).repeat(2, 1)
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("size", [(), ("--scale", "3"), ("--scale", "1.6")])
def test_tiny_pictures_have_every_size(twice, height, width, size):
    fill("a.png", height=height, width=width)
    assert twice("a.png", *size, "-o", "b.png")[0] == 0
    factor = float(size[1]) if size else 2
    assert read_rgb(Path("b.png")).shape == (round(height * factor), round(width * factor), 3)


def test_a_region_is_enlarged_like_the_whole(twice):
    fill("a.png")
    assert twice("a.png", "-o", "whole.png")[0] == 0
    assert twice("a.png", "--region", "3,4,10,5", "-o", "part.png")[0] == 0
    whole, part = read_rgb(Path("whole.png")), read_rgb(Path("part.png"))
    assert np.array_equal(part, whole[8:18, 6:26])
    code, out, _ = twice("a.png", "--region", "3,4,10,5", "--width", "15", "-o", "small.png")
    assert (code, "resampled to 15x8" in out) == (0, True)


def test_a_tree_is_mirrored_in_another_format(twice):
    fill("in/a.png", "in/x/b.png", "in/x/y/b.png")
    code, _, err = twice(
        "in", "-r", "-o", "out", "--format", "jpg", "--quality", 50, "--suffix", ""
    )
    assert (code, err) == (0, "")
    assert made() == ["a.jpg", "x/b.jpg", "x/y/b.jpg"]
    assert Path("out/a.jpg").read_bytes().startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "b.webp", "--format", "png"), "--output: b.webp is no name of a PNG file"),
        (("--quality", "50"), "--quality 50: PNG is always lossless"),
        (("--suffix", ""), "the result of a.png would replace the input itself"),
        (("--suffix", "x/y"), "--suffix x/y: must be a part of a file name"),
    ],
)
def test_formats_and_names_that_do_not_fit_are_refused(twice, arguments, message):
    fill("a.png")
    before = made(".")
    code, out, err = twice("a.png", *arguments)
    assert (code, out) == (2, "")
    assert err == f"srq: error: {message}\n"
    assert made(".") == before


def test_a_batch_goes_on_where_it_was_stopped(twice):
    fill("in/a.png", "in/b.png", "in/c.png")
    assert twice("in/b.png", "-o", "out")[0] == 0
    before = Path("out/b_x2.png").stat()
    code, out, err = twice("in", "-o", "out", "--skip-existing", "--json", "r.json")
    assert (code, err) == (0, "1 of 3 results exist, and are skipped\n")
    assert [line.split()[0] for line in out.splitlines()] == ["in/a.png", "in/c.png"]
    assert Path("out/b_x2.png").stat() == before
    entries = json.loads(Path("r.json").read_text())["pictures"]
    assert sorted((entry["source"], entry["status"]) for entry in entries) == [
        ("in/a.png", "done"),
        ("in/b.png", "skipped"),
        ("in/c.png", "done"),
    ]
    code, out, err = twice("in", "-o", "out", "--skip-existing")
    assert (code, out, err) == (0, "", "3 of 3 results exist, and are skipped\n")
    code, out, err = twice("in", "-o", "out")
    assert code == 1
    assert out.count("exists; use --overwrite to replace it, or --skip-existing to keep it") == 3


def test_names_of_several_lines_are_shown_in_one(twice):
    fill("a\n1.png", "b.png")
    Path("c\n2.png").write_text("no picture")
    code, out, err = twice("a\n1.png", "b.png", "c\n2.png", "-o", "out")
    assert (code, err) == (1, "srq: error: 1 of 3 failed: c\\n2.png\n")
    first, second, third = out.splitlines()
    assert first.startswith(r"a\n1.png -> out/a\n1_x2.png  34x24  ")
    assert second.startswith("b.png -> ")
    assert third.startswith(r"c\n2.png: failed: cannot read c\n2.png: ")


def test_a_dry_run_writes_nothing(twice):
    fill("in/a.png", "in/b.png")
    Path("in/c.png").write_text("no picture")
    before = made(".")
    code, out, err = twice("in", "-o", "out", "--scale", "1.5", "--dry-run", "--json", "r.json")
    assert code == 1
    assert out.splitlines()[:2] == [
        "in/a.png -> out/a_x1.5.png  x2 network, then resampled to 26x18",
        "in/b.png -> out/b_x1.5.png  x2 network, then resampled to 26x18",
    ]
    assert out.splitlines()[2].startswith("c.png: failed: cannot read in/c.png")
    assert err.splitlines()[0].startswith("936 pixels of results")
    assert err.splitlines()[-1] == "srq: error: 1 of 3 failed: c.png"
    assert made(".") == sorted([*before, "r.json"])
    entries = json.loads(Path("r.json").read_text())["pictures"]
    assert [entry["status"] for entry in entries] == ["planned", "planned", "failed"]


def test_too_many_pixels_are_refused_for_each_picture(twice):
    fill("in/a.png", "in/b.png")
    fill("in/big.png", height=30, width=40)
    code, out, err = twice("in", "-o", "out", "--max-pixels", "4.7K")
    line = "the result would have 80x60 pixels, more than --max-pixels 4,700 allows"
    assert out.splitlines()[-1] == f"big.png: failed: {line}"
    assert (code, err) == (1, "srq: error: 1 of 3 failed: big.png\n")
    code, out, err = twice("in/big.png", "-o", "c.png", "--max-pixels", "4.7K")
    assert (code, out, err) == (2, "", f"srq: error: {line}\n")
    assert made() == ["a_x2.png", "b_x2.png"]


def test_a_giant_of_a_header_is_refused_without_memory(twice):
    """A PNG that claims 60000x60000 pixels, of which none is there."""
    pyvips.Image.black(60000, 60000).write_to_file("a.png", compression=1, bitdepth=1)
    code, out, err = twice("a.png", "-o", "b.png")
    assert (code, out) == (2, "")
    assert "the result would have 120000x120000 pixels, more than --max-pixels 1,000,000,000" in err


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_streams_take_the_place_of_files(twice, tmp_path, name):
    if name == "a.bmp":
        import PIL.Image

        PIL.Image.fromarray(picture(12, 17)).save(name)
    else:
        fill(name)
    command = [sys.executable, "-m", "sr_quant_cli", "upscale", "--model", ".n.onnx"]
    content = Path(name).read_bytes()
    done = subprocess.run([*command, "-"], input=content, capture_output=True, check=False)
    assert (done.returncode, done.stdout[:4]) == (0, b"\x89PNG")
    assert done.stderr.startswith(b"- -> -  34x24  ")
    assert twice(name, "-o", "b.png")[0] == 0
    streamed = pyvips.Image.new_from_buffer(done.stdout, "").numpy()
    assert np.array_equal(streamed, read_rgb(Path("b.png")))
    jpeg = [*command, name, "-o", "-", "--format", "jpg"]
    done = subprocess.run(jpeg, capture_output=True, check=True)
    assert done.stdout[:3] == b"\xff\xd8\xff"
    done = subprocess.run([*command, "-"], input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"srq: error: cannot read standard input")


def test_a_terminal_gets_no_picture(twice, monkeypatch):
    fill("a.png")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert twice("a.png", "-o", "-")[0] == 2


def test_one_progress_counts_all_pictures(tmp_path):
    """Parts of pictures count, too: a tile of three by two is a sixth; a failed picture is one."""
    fill(tmp_path / "a.png", tmp_path / "b.png", height=24, width=40)
    (tmp_path / "c.png").write_text("no picture")
    network = tiny_edsr()
    engine = TiledUpscaler(TorchRuntime(network, CPU), traits_of_network(network, "tiny"), tile=16)
    plan = plan_jobs([str(tmp_path)], Naming("_x2"), str(tmp_path / "out"))
    listener = Listener()
    with reporting(listener):
        outcomes = run_jobs(ScaledModels(engine), plan.jobs, BatchOptions())
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed"]
    assert ("upscaling", 0, 3, "picture") in listener.heard
    steps = [step for step in listener.heard if isinstance(step, float)]
    assert sorted(step for step in steps if step > 1e-9) == pytest.approx([1 / 6] * 12 + [1])
    assert sum(steps) == pytest.approx(3)


def test_more_tiles_than_planned_are_no_more_progress():
    listener = Listener()
    with reporting(listener), listener.progress(1, "picture") as bar:
        step = _Step(bar)
        for _ in range(5):
            step.update(0.3)
        step.finish()
    steps = [step for step in listener.heard if isinstance(step, float)]
    assert sum(steps) == pytest.approx(1)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_estimate_knows_the_region_and_the_bits(tmp_path, suffix):
    """Of a 16-bit picture 16 bits are enlarged only where the result holds them."""
    deep = np.zeros((24, 40, 3), np.uint16)
    write_rgb(tmp_path / "a.png", deep)
    job = UpscaleJob(tmp_path / "a.png", tmp_path / f"b{suffix}")
    network = tiny_edsr()
    engine = TiledUpscaler(TorchRuntime(network, CPU), traits_of_network(network, "tiny"))
    models = ScaledModels(engine)
    region = Region(2, 3, 4, 5)
    options = BatchOptions(picture=PictureOptions(region=region))
    outlook = look_at_batch([job], Batch(models, options).look, models)
    bits = 16 if suffix == ".png" else 8
    assert outlook.bytes == engine.estimate(24, 40, region, bits).bytes
    assert outlook.bytes < look_at_batch([job], Batch(models, BatchOptions()).look, models).bytes


def test_only_the_models_that_pictures_need_are_opened(tmp_path, monkeypatch):
    opened = []

    def open_model(source, _options, bits):
        opened.append((source.scale, bits))
        return BicubicUpscaler(source.scale)

    monkeypatch.setattr("sr_quant_cli.commands.scaled_models.open_model", open_model)
    write_rgb(tmp_path / "deep.png", np.zeros((9, 9, 3), np.uint16))
    upscale(UpscaleRequest((str(tmp_path / "deep.png"),)))
    assert opened == [(4, 16)]
    write_rgb(tmp_path / "plain.png", picture(9, 9))
    upscale(UpscaleRequest((str(tmp_path),), str(tmp_path / "out")))
    assert opened[1:] == [(4, 16), (4, 8)]


@pytest.mark.parametrize(("large", "line"), [(800, "816 pixels of results\n"), (900, "")])
def test_what_is_large_is_announced_before_it_runs(twice, monkeypatch, large, line):
    monkeypatch.setattr("sr_quant_cli.commands.outlook._LARGE", large)
    fill("in/a.png")
    assert twice("in", "-o", "out")[2] == line


def test_large_is_a_matter_of_pixels_or_time():
    small = BatchOutlook(9e7, 2**28, 9.0)
    assert not small.is_large
    assert not BatchOutlook(1e7, None, None).is_large
    assert BatchOutlook(1e7, None, 11.0).is_large
    assert BatchOutlook(2e8, None, None).is_large
    assert str(small) == (
        "90.0 megapixels of results, about 9 s, about 256 MiB of memory for the network"
    )
    assert str(BatchOutlook(2e8, None, None)) == "200.0 megapixels of results"
