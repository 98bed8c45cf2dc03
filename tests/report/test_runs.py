"""Run folders as ``srq runs list`` and ``srq runs show`` tell of them."""

import json
import os

import pytest
from typer.testing import CliRunner

from sr_quant_cli.cli.tree import app
from sr_quant_cli.commands.runs import read_run, read_runs
from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.named import MODEL, RECIPE
from sr_quant_cli.recipe.load import dump_recipe, load_recipe
from sr_quant_cli.training.run_folder import LOG, RunLog, locked

LOSSES = {100: 8.0, 200: 4.0, 300: 5.0}
PSNRS = {150: 30.0, 300: 31.5}


@pytest.fixture
def make_run(tmp_path):
    """Write a run folder with the files a training leaves."""

    def make(name, losses=LOSSES, psnrs=PSNRS, iters=300, saved=(), finished=False):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        recipe = load_recipe("pretrain-edsr", [f"train.iters={iters}", "network.scale=3"])
        (folder / RECIPE).write_text(dump_recipe(recipe))
        if losses or psnrs:
            log = RunLog(folder)
            for step in sorted({*losses, *psnrs}):
                if step in losses:
                    log.write(step, step / 2, loss=losses[step], lr=1e-4, loss_part=99.0)
                if step in psnrs:
                    log.write(step, step / 2, validation_psnr=psnrs[step])
        for step in saved:
            (folder / f"step-{step:08d}.ckpt").touch()
        if finished:
            (folder / MODEL).touch()
        return folder

    return make


@pytest.fixture
def srq(monkeypatch):
    """Run a command line; returns stdout. Errors of srq are raised."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments)])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return run


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return tuple(int.from_bytes(content[at : at + 4], "big") for at in (16, 20))


@pytest.mark.parametrize(
    ("expected", "files"),
    [
        ("not started", {"losses": {}, "psnrs": {}}),
        ("stopped", {"losses": {}, "psnrs": {}, "saved": [57]}),
        ("stopped", {"iters": 900, "saved": [200, 100]}),
        ("stopped", {"iters": 900, "finished": True}),  # --max-time, or iters raised
        ("stopped", {"saved": [300]}),  # killed before the model was written
        ("complete", {"finished": True, "saved": [300]}),
    ],
)
def test_state(make_run, expected, files):
    folder = make_run("a", **files)
    assert read_run(folder).state == expected
    with locked(folder):
        assert read_run(folder).state == "running"


@pytest.mark.slow
def test_a_stopped_run_continues_from_its_newest_checkpoint(make_run, srq):
    out = srq("runs", "show", make_run("a", iters=900, saved=[100, 200]))
    assert "300 of 900" in out
    assert "continue from step 200" in out


def test_a_saved_step_may_be_beyond_the_log(make_run):
    run = read_run(make_run("a", iters=900, saved=[357]))
    assert (run.step, run.saved_step) == (357, 357)


def test_list_finds_runs_down_to_three_levels(make_run, srq, tmp_path):
    for name in ("z", "b/c/d", "b/a", "one/two/three/four"):
        make_run(name)
    assert list(read_runs(tmp_path / "runs").runs) == ["b/a", "b/c/d", "z"]
    assert list(read_runs(tmp_path / "runs/z").runs) == ["."]
    out = srq("runs", "list", tmp_path / "runs", "--json", tmp_path / "r.json")
    assert out.index("b/a") < out.index("b/c/d") < out.index("z ")
    row = next(line for line in out.splitlines() if "b/a" in line)
    for cell in ("pretrain", "edsr x3", "300 / 300", " 5 ", "31.50", "stopped"):
        assert cell in row
    report = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [entry["run"] for entry in report] == [
        str(tmp_path / "runs" / name) for name in ("b/a", "b/c/d", "z")
    ]
    assert report[0]["best_psnr"] == 31.5


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (RECIPE, b"schema = \n", "not a readable TOML file"),
        (RECIPE, b"\xff\xfe", "not a readable TOML file"),
        (RECIPE, b"train = 3\n", "recipe.task is missing"),
        (LOG, b"\xff\xfe", "not a readable log"),
        (LOG, b'{"step": 1, "seconds": 1}\n{"loss": 1}\n', "line 2 is no log entry"),
        (LOG, b"17\n", "line 1 is no log entry"),
    ],
)
def test_a_damaged_run_is_told_and_leaves_the_others(
    make_run, srq, tmp_path, file, content, message
):
    damaged = make_run("[bold]damaged")
    (damaged / file).write_bytes(content)
    make_run("sound")
    out = srq("runs", "list", tmp_path / "runs", "--json", tmp_path / "r.json")
    assert "[bold]damaged" in out
    assert "31.50" in out
    wrong, sound = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert message in wrong["error"]
    assert "error" not in sound
    with pytest.raises(UsageError, match=message) as raised:
        srq("runs", "show", damaged)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_no_runs_is_an_error_of_one_line(srq, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    for arguments in (["list", folder], ["list"], ["show", folder]):
        with pytest.raises(UsageError) as raised:
            srq("runs", *arguments)
        assert "\n" not in str(raised.value)


def test_show_prints_summary_and_plain_curves(make_run, srq, tmp_path):
    folder = make_run("a", finished=True)
    out = srq("runs", "show", folder, "--json", tmp_path / "s.json")
    for line in ("complete", "300 of 300", "0:02:30", "0.0001", "31.50 dB at step 300"):
        assert line in out
    assert "\x1b" not in out
    assert "validation PSNR (dB, matlab)" in out
    assert "logarithmic" not in out
    assert 80 <= max(map(len, out.splitlines())) <= 100
    assert str(folder / "curves.png") in out
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["curves"] == {
        "loss": [[100, 8.0], [200, 4.0], [300, 5.0]],
        "validation_psnr": [[150, 30.0], [300, 31.5]],
    }
    assert (report["state"], report["seconds"], report["lr"]) == ("complete", 150.0, 1e-4)


def test_show_replaces_only_its_own_picture(make_run, srq, tmp_path):
    folder = make_run("$a_{$")  # no formula
    srq("runs", "show", folder)
    size = png_size(folder / "curves.png")
    (folder / "curves.png").write_bytes(b"")
    srq("runs", "show", folder)
    assert png_size(folder / "curves.png") == size

    other = tmp_path / "other.png"
    other.write_bytes(b"mine")
    with pytest.raises(UsageError, match="--overwrite"):
        srq("runs", "show", folder, "-o", other)
    assert other.read_bytes() == b"mine"
    srq("runs", "show", folder, "-o", other, "--overwrite")
    assert png_size(other) == size
    with pytest.raises(UsageError, match=r"ends in \.png"):
        srq("runs", "show", folder, "-o", tmp_path / "other.pdf")


def test_a_loss_over_more_than_a_decade_is_drawn_logarithmically(make_run, srq):
    out = srq("runs", "show", make_run("a", losses={100: 90.0, 200: 30.0, 300: 3.0}))
    assert out.count("logarithmic") == 1
    # Halfway in the logarithm, so the middle of the curve's range is near 16, not near 46.
    assert "16.4┤" in out


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["losses", "psnrs"])
def test_a_curve_without_values_is_told(make_run, srq, missing):
    folder = make_run("a", **{missing: {}})
    out = srq("runs", "show", folder)
    label = {"losses": "training loss", "psnrs": "validation PSNR (dB, matlab)"}[missing]
    assert f"no {label} in the log yet" in out
    both = make_run("b")
    srq("runs", "show", both)
    assert png_size(folder / "curves.png")[1] < png_size(both / "curves.png")[1]


def test_a_run_without_log_has_no_curves(make_run, srq, tmp_path):
    folder = make_run("a", losses={}, psnrs={})
    out = srq("runs", "show", folder, "--json", tmp_path / "s.json")
    assert "0 of 300" in out
    assert "no curves to draw" in out
    assert not (folder / "curves.png").exists()
    assert json.loads((tmp_path / "s.json").read_text())["curves"] == {}


def test_values_that_cannot_be_drawn_and_a_cut_line_are_left_out(make_run, srq):
    folder = make_run("a", psnrs={150: 30.0, 300: float("inf")})
    with (folder / LOG).open("a") as log:
        log.write('{"step": 400, "sec')
    run = read_run(folder)
    assert run.best == (150, 30.0)
    assert run.step == 300
    assert "30.00 dB at step 150" in srq("runs", "show", folder)


def test_a_run_was_last_written_when_its_log_was(make_run, srq):
    folder = make_run("a")
    os.utime(folder / LOG, (1e9, 1e9))
    srq("runs", "show", folder)
    assert read_run(folder).written.timestamp() == 1e9
