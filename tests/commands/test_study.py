"""Studies on tiny networks: what runs, what is shared, what goes on, what fails alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sr_quant_cli.commands import study as core
from sr_quant_cli.commands.gather import Column, gather
from sr_quant_cli.commands.study_records import read_rows
from sr_quant_cli.commands.study_work import work
from sr_quant_cli.commands.study_workers import Ended, _reason
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture

FILE = """
name = "small"
data = "{photographs}"

[grid]
model = ["{model}"]
method = ["minmax", "pams"]
bits = ["w4a4", "w3a3"]

[budget]
iters = 4
batch = 2
calibration_images = 4

[set]
data.patch_hr = 24
calibration = {{ patch_lr = 12, batch = 2 }}
train = {{ log_every = 2, checkpoint_every = 2, precision = "fp32" }}
validation = {{ every = 4, crop_hr = 32 }}

[evaluate]
bench = ["Set5"]
"""


class Here:
    """Workers that do their tasks in this process; ``done`` has the labels of all of them."""

    done: list[str]

    def __init__(self, count, out, _plugins):
        self.count, self.out, self.busy = count, out, []

    @property
    def free(self):
        return len(self.busy) < self.count

    def start(self, task, log):
        Here.done.append(f"{task.name} {' '.join(task.parts)}".strip())
        self.busy.append(Ended(task, _reason(lambda: work(task, self.out), log)))

    def next_ended(self):
        return self.busy.pop(0)

    def stop(self):
        pass


@pytest.fixture
def here(monkeypatch):
    """Let studies work in this process; returns a function for the tasks since its last call."""
    monkeypatch.setattr(core, "Workers", Here)
    Here.done = []

    def since():
        done, Here.done = Here.done, []
        return done

    return since


@pytest.fixture
def desk(tmp_path, tiny_model, photographs, monkeypatch):
    """A folder with a study file on the tiny model, and a benchmark set."""
    monkeypatch.setenv("SRQ_DATA", str(tmp_path / "data"))
    for index in range(2):
        write_rgb(tmp_path / f"data/benchmark/Set5/HR/{index}.png", picture(32, 36, seed=index))
    write(tmp_path)
    return tmp_path


def write(folder, old="", new="", more=""):
    """Write the study file, with a part of it replaced and another one appended."""
    text = FILE.format(
        photographs=(folder / "photographs").as_posix(),
        model=(folder / "tiny.safetensors").as_posix(),
    )
    assert old in text
    (folder / "a.toml").write_text(text.replace(old, new) + more)


def run(folder, **options):
    request = core.StudyRequest(
        **{"file": folder / "a.toml", "out": folder / "out", "threads": 1} | options
    )
    return core.study(request, core.plan(request))


def names(folder, **options):
    request = core.StudyRequest(file=folder / "a.toml", out=folder / "out", **options)
    return [cell.name for cell in core.plan(request).cells]


def lasting(rows):
    """Rows without what depends on the clock."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_all_cells_become_rows_once(desk, here):
    done = run(desk)
    cells = ["tiny", *(f"tiny-{m}-{b}" for m in ("minmax", "pams") for b in ("w4a4", "w3a3"))]
    assert [row["cell"] for row in done.rows] == cells
    gathered = gather([desk / "out"])
    assert [subject.name for subject in gathered] == cells
    assert gathered[1].score(Column("Set5", 2, "matlab")).psnr == done.rows[1]["scores"][0]["psnr"]
    assert (done.failed, done.pending) == ((), ())
    full, *cells = done.rows
    assert full["method"] is None
    assert full["bytes"] == (desk / "tiny.safetensors").stat().st_size
    assert full["file"] == "../tiny.safetensors"
    for row in cells:
        (score,) = row["scores"]
        assert (score["bench"], score["protocol"], score["images"]) == ("Set5", "matlab", 2)
        assert score["drop"] == pytest.approx(full["scores"][0]["psnr"] - score["psnr"], abs=1e-3)
        assert row["steps"] == (4 if row["method"] == "pams" else 0)
        assert row["bytes"] == (desk / "out" / row["file"]).stat().st_size
        assert row["bitops"] < full["bitops"]
    written = (desk / "out/rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == list(done.rows) == read_rows(desk / "out")
    assert len(here()) == 5
    again = run(desk)
    assert again.rows == done.rows
    assert here() == []


def test_a_change_of_the_file_redoes_what_it_concerns(desk, here, monkeypatch):
    first = run(desk)
    here()
    write(desk, 'bench = ["Set5"]', 'bench = ["Set5"]\nprotocol = "rgb"')
    scored = run(desk)
    assert here() == [f"{row['cell']} scores" for row in first.rows]
    assert [row["file"] for row in scored.rows] == [row["file"] for row in first.rows]
    write(desk, more="[methods.pams]\noptim.lr = 1e-3\n")
    run(desk)
    assert [each for each in here() if "model" in each] == [
        "tiny-pams-w4a4 model scores",
        "tiny-pams-w3a3 model scores",
    ]
    write(
        desk, more="[[cells]]\nmethod = 'dobi'\nscale = 2\nmodel = 'tiny.safetensors'\nbits = 2\n"
    )
    monkeypatch.chdir(desk)
    done = run(desk)
    # What the first file had made is still there; its calibrations are, too.
    assert [each for each in here() if each.endswith("model scores")] == [
        "tiny-dobi-w2a2 model scores",
        *(f"tiny-pams-{bits} model scores" for bits in ("w4a4", "w3a3")),
    ]
    assert done.rows[1]["cell"] == "tiny-minmax-w4a4"
    log = (desk / "out/cells/tiny-pams-w4a4.log").read_text()
    assert "done already" in log or "step 4 of 4" in log


def test_only_some_cells_run_and_the_others_wait(desk, here):
    done = run(desk, only="*-w3a3")
    assert [row["cell"] for row in done.rows] == ["tiny", "tiny-minmax-w3a3", "tiny-pams-w3a3"]
    assert done.pending == ("tiny-minmax-w4a4", "tiny-pams-w4a4")
    with pytest.raises(UsageError, match=r"`only` w9: no cell has such a name: tiny-minmax-w4a4"):
        run(desk, only="w9")


def test_the_order_is_that_of_the_file(desk):
    assert names(desk) == [f"tiny-{m}-{b}" for m in ("minmax", "pams") for b in ("w4a4", "w3a3")]
    write(desk, 'name = "small"', 'name = "small"\norder = ["bits"]')
    assert names(desk) == [f"tiny-{m}-{b}" for b in ("w4a4", "w3a3") for m in ("minmax", "pams")]
    write(desk, 'bits = ["w4a4", "w3a3"]', 'bits = ["w4a4"]\nseed = [1, 2]')
    assert names(desk) == [f"tiny-{m}-w4a4-s{s}" for s in (1, 2) for m in ("minmax", "pams")]


def test_a_stage_of_several_cells_is_made_once(desk, here):
    write(
        desk,
        'method = ["minmax", "pams"]\nbits = ["w4a4", "w3a3"]',
        'method = ["cadyq", "granular_dq"]\niters = [10, 20]',
        more="[methods.cadyq]\nloss = { feature_weight = 1.0, block_weight = 1.0 }\n",
    )
    request = core.StudyRequest(file=desk / "a.toml", out=desk / "out", threads=1)
    stages = core.plan(request).stages()
    done = run(desk)
    assert not done.failed, done.rows
    made = [each for each in here() if each.startswith("tiny-pams-w8a8")]
    assert len(made) == len(stages) < 4
    shared = [cells for _, cells in stages.values() if len(cells) > 1]
    assert shared
    assert len(list((desk / "out/stages").glob("edsr-x2-pams-w8a8-*"))) == len(stages)


def test_stages_have_steps_of_their_own_in_the_budget(desk):
    grid = 'method = ["minmax", "pams"]\nbits = ["w4a4", "w3a3"]'
    write(desk, grid, 'method = ["cadyq", "cabm", "granular_dq"]')
    request = core.StudyRequest(file=desk / "a.toml", out=desk / "out", threads=1)
    assert len(core.plan(request).stages()) > 2
    text = (desk / "a.toml").read_text()
    (desk / "a.toml").write_text(text.replace("[budget]", "[budget]\nstage_iters = 5"))
    stages = core.plan(request).stages()
    assert [(chain.title, chain.steps, len(cells)) for chain, cells in stages.values()] == [
        ("tiny-pams-w8a8", 5, 3),
        ("tiny-cadyq-w8a8", 5, 1),
    ]


def test_a_calibration_of_several_budgets_is_made_once(desk, here):
    write(desk, 'method = ["minmax", "pams"]', 'method = ["pams"]\niters = [2, 4]')
    done = run(desk)
    assert not done.failed
    assert len(list((desk / "out/calibrations").glob("*.safetensors"))) == 2
    # The same rows without what is shared.
    for name in ("i2", "i4"):
        alone = run(desk, only=f"*-w3a3-{name}", out=desk / f"alone-{name}")
        row = next(row for row in done.rows if row["cell"] == alone.rows[1]["cell"])
        assert lasting([row]) == lasting(alone.rows[1:])


def test_bad_cells_are_rows_with_their_reasons(desk, here, srq, monkeypatch):
    write(
        desk,
        'method = ["minmax", "pams"]',
        'method = ["minmax", "pams"]\nvariant = ["good", "wild"]',
        more="[variants.good]\n[variants.wild]\noptim = { lr = 1e30, lr_bounds = 1e30 }\n"
        "[[cells]]\nmethod = 'daq'\nbits = 'w29a6'\nmodel = 'tiny.safetensors'\n"
        "[[skip]]\nmethod = 'minmax'\nvariant = 'wild'\n",
    )
    monkeypatch.chdir(desk)
    code, _, err = srq("study", "a.toml", "--out", "out", "--threads", "1")
    assert code == 1
    rows = {row["cell"]: row for row in read_rows(desk / "out")}
    failed = [name for name, row in rows.items() if row["status"] == "failed"]
    assert len(failed) == 3
    assert err.splitlines()[-1] == (
        f"srq: error: 3 failed: {', '.join(failed)}; the same command tries again"
    )
    assert "the loss is nan" in rows["tiny-pams-w4a4-wild"]["reason"]
    assert "daq" in rows[failed[-1]]["reason"]
    assert rows["tiny-pams-w3a3-good"]["status"] == "done"
    assert "tiny-pams-w4a4-wild failed: " in (desk / "out/tables/all.md").read_text()
    here()
    srq("study", "a.toml", "--out", "out", "--threads", "1")
    assert here() == [f"tiny-pams-{bits}-wild model scores" for bits in ("w4a4", "w3a3")]
    write(desk, 'method = ["minmax", "pams"]', 'method = ["minmax", "pams"]')
    assert not run(desk).failed


def test_a_stage_that_fails_fails_what_begins_with_it(desk, here):
    write(
        desk,
        'method = ["minmax", "pams"]\nbits = ["w4a4", "w3a3"]',
        'method = ["minmax", "cadyq"]\nbits = ["w8a8"]',
        more="[methods.cadyq]\nvalidation.every = 2\n",
    )
    planned = core.plan(core.StudyRequest(file=desk / "a.toml", out=desk / "out", threads=1))
    ((chain, cells),) = planned.stages().values()
    place = desk / "out/stages"
    place.mkdir(parents=True)
    (desk / "out/.lock").touch()
    request = core.StudyRequest(file=desk / "a.toml", out=desk / "out", threads=1)
    original = work

    def failing(task, out):
        if not task.parts:
            raise FailedError("no luck")
        original(task, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.commands.test_study.work", failing)
        done = core.study(request, planned)
    assert cells == ["tiny-cadyq-w8a8"]
    assert done.failed == ("tiny-cadyq-w8a8", f"{chain.title}-{chain.key}")
    assert done.rows[-1]["reason"] == f"{chain.title}-{chain.key}: no luck"
    assert done.rows[1]["status"] == "done"


def test_times_are_taken_alone_and_once(desk, here):
    write(
        desk,
        'method = ["minmax", "pams"]\nbits = ["w4a4", "w3a3"]',
        'method = ["minmax"]\nplacement = ["full"]',
        more='[bench]\nsize = "16x12"\nruns = 1\nruntimes = ["srq", "onnxruntime"]\n',
    )
    done = run(desk, jobs=2)
    assert here() == [
        "tiny model scores",
        "tiny-minmax-w4a4-full model scores",
        "tiny times",
        "tiny-minmax-w4a4-full times",
    ]
    times = done.rows[1]["times"]
    assert (times["size"], times["threads"]) == ("16x12", 1)
    assert times["processor"]
    assert [each["runtime"] for each in times["runtimes"]] == ["srq", "onnxruntime"]
    assert done.rows[1]["ms"] == min(each["ms"] for each in times["runtimes"] if each["ms"])
    write(desk, more='[bench]\nsize = "16x12"\n')
    write(
        desk,
        'method = ["minmax", "pams"]\nbits = ["w4a4", "w3a3"]',
        'method = ["minmax"]\nplacement = ["full"]',
    )
    assert "ms" not in run(desk).rows[1]
    assert here() == []


def test_minutes_end_a_training_and_not_the_study(desk, here):
    write(desk, "iters = 4", "iters = 100000\nminutes = 0.01")
    done = run(desk, only="*-pams-w4a4")
    assert not done.failed
    row = done.rows[1]
    assert not row["complete"]
    assert 0 < row["steps"] < 100000
    here()
    run(desk, only="*-pams-w4a4")
    assert here() == []


def test_a_network_without_a_model_is_trained_first(desk, here):
    write(
        desk,
        f'model = ["{(desk / "tiny.safetensors").as_posix()}"]\nmethod = ["minmax", "pams"]',
        'network = ["edsr"]\nscale = [2]\nmethod = ["minmax"]',
        more="[pretrain]\niters = 2\n[pretrain.set]\nnetwork = { n_blocks = 1, n_feats = 8 }\n"
        "data.patch_hr = 24\ntrain.batch = 2\nvalidation.crop_hr = 32\n",
    )
    done = run(desk)
    assert [row["cell"] for row in done.rows] == [
        "edsr-x2",
        "edsr-x2-minmax-w4a4",
        "edsr-x2-minmax-w3a3",
    ]
    assert done.rows[0]["steps"] == 2
    assert not done.failed
    assert here() == [f"{row['cell']} model scores" for row in done.rows]


def test_a_folder_of_something_else_and_of_another_study_are_refused(desk, here):
    (desk / "out").mkdir()
    (desk / "out/mine.txt").touch()
    with pytest.raises(UsageError, match="holds other files and no study"):
        run(desk)
    (desk / "out/mine.txt").unlink()
    with core._locked(desk / "out"), pytest.raises(UsageError, match="another study is running in"):
        run(desk)


def test_damaged_records_are_made_again(desk, here):
    first = run(desk, only="*-minmax-w4a4")
    here()
    path = desk / "out/cells/tiny-minmax-w4a4.json"
    path.write_bytes(path.read_bytes()[:-20])
    for file in (desk / "out/calibrations").glob("*.safetensors"):
        file.write_bytes(b"damaged")
    again = run(desk, only="*-minmax-w4a4")
    assert here() == ["tiny-minmax-w4a4 model scores"]
    assert lasting(again.rows) == lasting(first.rows)


def test_a_missing_benchmark_set_is_refused_in_the_plan_as_well(desk, srq):
    refused = []
    for option in ([], ["--dry-run"]):
        arguments = ("--data-root", desk / "nowhere", *option)
        refused.append(srq("study", desk / "a.toml", "--out", desk / "out", *arguments))
    assert refused[0] == refused[1]
    code, out, err = refused[0]
    assert (code, out) == (2, "")
    assert "benchmark set Set5 not found" in err
    assert not (desk / "out").exists()


def test_the_plan_says_what_cannot_run_before_anything_runs(desk, srq):
    write(desk, 'bits = ["w4a4", "w3a3"]', 'bits = ["w4a4", "w3a3"]\nscale = [2, 3]')
    code, out, _ = srq("study", desk / "a.toml", "--out", desk / "out", "--dry-run")
    assert code == 0
    assert "tiny-pams-w3a3" in out
    assert out.count("cannot run: ") == 4
    assert not (desk / "out").exists()
    write(desk, 'bits = ["w4a4", "w3a3"]', "scale = [3]")
    code, out, err = srq("study", desk / "a.toml", "--out", desk / "out")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_tables_alone_need_rows(desk, srq):
    code, _, err = srq("study", desk / "a.toml", "--out", desk / "out", "--tables-only")
    assert code == 2
    assert "is no study folder: rows.jsonl is not there" in err


def command(desk, out, *more):
    return [
        *(sys.executable, "-m", "sr_quant_cli", *more, "study", str(desk / "a.toml")),
        *("--out", str(desk / out), "--threads", "1", "--device", "cpu"),
    ]


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_as_if_it_had_not_been(desk, here):
    write(desk, "iters = 4", "iters = 60", more="[[skip]]\nbits = 'w3a3'\n")
    whole = run(desk, out=desk / "whole")
    started = subprocess.Popen(
        command(desk, "out"), start_new_session=True, stdout=subprocess.DEVNULL
    )
    checkpoints = (desk / "out/stages").glob
    while not list(checkpoints("edsr-x2-pams-*/step-000000[2-9]*.ckpt")):
        assert started.poll() is None
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    rows = read_rows(desk / "out")
    assert "tiny-pams-w4a4" not in [row["cell"] for row in rows]
    subprocess.run(command(desk, "out"), check=True, stdout=subprocess.DEVNULL)
    assert lasting(read_rows(desk / "out")) == lasting(whole.rows)
    log = (desk / "out/cells/tiny-pams-w4a4.log").read_text()
    assert "step 0 of 60" in log
    assert log.count("validated on") == 2


PLUGIN = """
import os, signal
from sr_quant_cli import methods
from sr_quant_cli.methods.minmax import MinMax, MinMaxConfig
from sr_quant_cli.recipe import texts
from typing import Literal


class DeadlyConfig(MinMaxConfig):
    name: Literal["deadly"] = "deadly"


class Deadly(MinMax):
    def calibrate(self, network, batches):
        os.kill(os.getpid(), signal.SIGKILL)


methods.register(Deadly, DeadlyConfig)
texts.register(texts.recipe_text("minmax-edsr").replace("minmax", "deadly"))
"""


@pytest.mark.slow
def test_two_processes_and_a_cell_that_is_killed(desk):
    (desk / "deadly.py").write_text(PLUGIN)
    cells = '"minmax", "pams"]\nbits = ["w4a4", "w3a3"]'
    write(desk, cells, '"deadly", "minmax", "pams"]\nbits = ["w4a4"]')
    done = subprocess.run(
        [*command(desk, "out", "--plugin", str(desk / "deadly.py")), "--jobs", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    rows = read_rows(desk / "out")
    states = {row["cell"]: row["status"] for row in rows}
    assert states == {
        "tiny": "done",
        "tiny-deadly-w4a4": "failed",
        "tiny-minmax-w4a4": "done",
        "tiny-pams-w4a4": "done",
    }
    assert rows[1]["reason"].startswith("killed (SIGKILL)")
    assert "1 failed: tiny-deadly-w4a4; the same command" in done.stderr
    assert Path(desk / "out/tables/all.tex").is_file()


def test_whole_models_on_integers_are_scored_on_kernels(desk, here):
    model = (desk / "tiny.safetensors").as_posix()
    cell = f'[[cells]]\nmodel = "{model}"\nmethod = "minmax"\nbits = 4\nplacement = "full"\n'
    write(desk, more=cell)
    simulated = {row["cell"]: row["scores"][0] for row in run(desk).rows}
    here()
    write(desk, 'bench = ["Set5"]', 'bench = ["Set5"]\nkernels = true', more=cell)
    on_kernels = {row["cell"]: row["scores"][0] for row in run(desk).rows}
    assert here() == [f"{name} scores" for name in simulated]
    whole = {name for name in on_kernels if name.endswith("-full")}
    assert {score["runtime"] for score in simulated.values()} == {"torch"}
    assert {name for name, each in on_kernels.items() if each["runtime"] == "srq"} == whole != set()
    for name, score in on_kernels.items():
        assert score["psnr"] == pytest.approx(simulated[name]["psnr"], abs=0.05 * (name in whole))
