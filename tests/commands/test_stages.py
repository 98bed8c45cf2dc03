"""From a float network over 8 bits to bits that follow the picture, in one command or in three."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sr_quant_cli.commands.calibrate import choose_placement
from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.commands.runs import read_run, read_runs
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.modelfile import load_model, read_header
from sr_quant_cli.networks import build
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.dynamic import dynamic_quantizers
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.training.run_folder import locked
from tests.commands.test_quantize import request
from tests.training.runs import equal, signal_in, weights

SHORT = ("train.iters=6", "loss.feature_weight=1.0", "loss.block_weight=1.0")


def wanted(model, photographs, run, *overrides, **changes):
    settings = {"method": "cadyq", "w": None, "a": None} | changes
    return request(model, photographs, run, *SHORT, *overrides, **settings)


def stages(folder, name="*"):
    """Folders of the store beside the run folders."""
    return sorted((folder / "stages").glob(name))


def test_all_stages_from_one_command(tiny_model, photographs, tmp_path, capsys):
    ended = quantize(wanted(tiny_model, photographs, tmp_path / "run"))
    assert ended.complete
    assert ended.run.steps == 6
    (stage,) = stages(tmp_path)
    assert stage.name.startswith("edsr-x2-pams-w8a8-")
    told = capsys.readouterr().err
    assert "starts from " in told
    assert f"steps, in {stage}" in told
    before = read_header(stage / "model.safetensors")
    assert before.card.name == stage.name
    assert before.quantization.method["name"] == "pams"
    # 30 thousand steps come before 300 thousand.
    assert [(t.task, t.steps) for t in before.card.training] == [("quantize", 1)]
    network, header = load_model(tmp_path / "run/model.safetensors")
    assert header.quantization.method["name"] == "cadyq"
    assert [t.steps for t in header.card.training] == [1, 6]
    assert header.card.training[-1].started_from == stage.name
    recipe = load_recipe(str(tmp_path / "run/recipe.toml"))
    assert recipe.train.init == str(stage / "trainable.safetensors")
    with torch.no_grad():
        network(torch.rand(2, 3, 9, 7))
    assert network.bit_provider.chosen().shape == (2, 4)


def test_a_stage_serves_as_a_model(tiny_model, photographs, tmp_path):
    quantize(wanted(tiny_model, photographs, tmp_path / "run"))
    (stage,) = stages(tmp_path)
    quantize(wanted(stage, photographs, tmp_path / "elsewhere/other"))
    assert not stages(tmp_path / "elsewhere")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "elsewhere/other"))
    # A model file stands for its run.
    quantize(wanted(stage / "model.safetensors", photographs, tmp_path / "third"))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "third"))


@pytest.mark.slow
def test_methods_share_their_stages(tiny_model, photographs, tmp_path, capsys):
    cabm = wanted(tiny_model, photographs, tmp_path / "cabm", method="cabm")
    quantize(cabm)
    header = read_header(tmp_path / "cabm/model.safetensors")
    assert [t.steps for t in header.card.training] == [6, 60, 6]
    made = stages(tmp_path)
    assert [path.name.rpartition("-")[0] for path in made] == [
        "edsr-x2-cadyq-w8a8",
        "edsr-x2-pams-w8a8",
    ]
    times = [(path / "model.safetensors").stat().st_mtime_ns for path in made]
    assert capsys.readouterr().out.count("quantize edsr-x2-pams") == 1
    # As many steps of PAMS; how often something is logged and saved does not matter.
    iters = published("granular_dq-edsr") * 6 // published("pams-edsr")
    other = (f"train.iters={iters}", "train.log_every=1", "train.checkpoint_every=1")
    run = tmp_path / "granular"
    quantize(request(tiny_model, photographs, run, *other, method="granular_dq", w=None, a=None))
    assert stages(tmp_path) == made
    assert [(path / "model.safetensors").stat().st_mtime_ns for path in made] == times
    assert "quantize edsr-x2-pams" not in capsys.readouterr().out
    header = read_header(tmp_path / "granular/model.safetensors")
    assert header.card.training[-1].started_from == made[1].name
    network, _ = load_model(tmp_path / "cabm/model.safetensors")
    table = network.bit_provider
    with torch.no_grad():
        network(torch.rand(1, 3, 12, 12))
    assert network.bit_provider.chosen()[0].tolist() == table.rows()[table.row[0]].tolist()


def published(recipe):
    return load_recipe(recipe).train.iters


@pytest.mark.slow
def test_what_decides_the_weights_of_a_stage_decides_its_folder(tiny_model, photographs, tmp_path):
    def folders(*overrides, model=tiny_model, data=photographs, **changes):
        quantize(wanted(model, data, tmp_path / f"{time.monotonic_ns()}", *overrides, **changes))
        return stages(tmp_path)

    (first,) = folders()
    # The same network in another file, and photographs that were moved.
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(tiny_model.read_bytes())
    moved = photographs.rename(tmp_path / "moved")
    assert folders("loss.pixel=2.0", model=copy, data=moved) == [first]
    assert len(folders("recipe.seed=7", data=moved)) == 2
    assert len(folders("train.batch=1", data=moved)) == 3
    photo = sorted(moved.iterdir())[0]
    os.utime(photo, (1e9, 1e9))
    assert len(folders(data=moved)) == 4


@pytest.mark.slow
def test_interrupted_stages_go_on(tiny_model, photographs, tmp_path):
    long = "train.iters=20"
    quantize(wanted(tiny_model, photographs, tmp_path / "whole/run", long))
    results = []
    while not (results and results[-1].complete and results[-1].run.steps == 20):
        limited = wanted(tiny_model, photographs, tmp_path / "parts/run", long, max_time=1)
        results.append(quantize(limited))
    assert equal(weights(tmp_path / "whole/run"), weights(tmp_path / "parts/run"))


def test_a_stage_below_the_run_folder_is_used(tiny_model, photographs, tmp_path):
    """Earlier versions kept stages there."""
    run = tmp_path / "run"
    quantize(wanted(tiny_model, photographs, tmp_path / "new/run"))
    run.mkdir()
    stages(tmp_path / "new")[0].rename(run / "pams")
    quantize(wanted(tiny_model, photographs, run))
    assert not stages(tmp_path)
    assert load_recipe(str(run / "recipe.toml")).train.init == str(
        run / "pams/trainable.safetensors"
    )
    assert equal(weights(run), weights(tmp_path / "new/run"))
    with pytest.raises(UsageError, match=r"run/pams holds a run of another recipe: recipe\.seed"):
        quantize(wanted(tiny_model, photographs, run, "recipe.seed=3"))


def test_stages_are_listed_with_the_runs(tiny_model, photographs, tmp_path):
    quantize(wanted(tiny_model, photographs, tmp_path / "run"))
    (stage,) = stages(tmp_path)
    found = read_runs(tmp_path)
    assert list(found.runs) == ["run", f"stages/{stage.name}"]
    assert found.runs[f"stages/{stage.name}"].state == "complete"
    assert read_run(tmp_path / "run").started_from == stage / "trainable.safetensors"


def in_child(work: str, wanted, cache: str, output: str, kill_at: int | None = None) -> None:
    """Body of a child process: one quantization, killed in a step of its first training."""
    import sys

    os.environ["SRQ_CACHE"] = cache
    os.chdir(work)
    from sr_quant_cli.report.terminal import TerminalReporter
    from sr_quant_cli.system.reporting import reporting

    sys.stdout = sys.stderr = Path(output).open("w")  # noqa: SIM115 - for the whole process
    if kill_at is not None:
        signal_in(kill_at, signal.SIGKILL)
    with reporting(TerminalReporter()):
        quantize(wanted)
    sys.stdout.flush()


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.preload"])
    return context


@pytest.fixture
def start(processes, tmp_path):
    """Start a quantization in a process of its own; gives the process and its output file."""

    def start(wanted, kill_at=None):
        output = tmp_path / f"{wanted.run_dir.name}.txt"
        arguments = (str(tmp_path), wanted, os.environ["SRQ_CACHE"], str(output), kill_at)
        process = processes.Process(target=in_child, args=arguments)
        process.start()
        return process, output

    return start


@pytest.mark.slow
def test_a_killed_stage_is_gone_on_with_by_another_run(tiny_model, photographs, tmp_path, start):
    def cabm(run):
        return wanted(tiny_model, photographs, run, "train.checkpoint_every=2", method="cabm")

    killed, _ = start(cabm(tmp_path / "parts/a"), kill_at=5)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    (stage,) = stages(tmp_path / "parts")
    assert read_run(stage).state == "stopped"
    assert read_run(stage).saved_step == 4
    quantize(cabm(tmp_path / "parts/b"))
    assert len(stages(tmp_path / "parts", "*pams*")) == 1
    quantize(cabm(tmp_path / "whole/b"))
    assert equal(weights(tmp_path / "parts/b"), weights(tmp_path / "whole/b"))


@pytest.mark.slow
def test_two_runs_that_need_one_stage_at_once(tiny_model, photographs, tmp_path, start):
    quantize(wanted(tiny_model, photographs, tmp_path / "alone/run"))
    (name,) = [path.name for path in stages(tmp_path / "alone")]
    stage = tmp_path / "both/stages" / name
    # Until both have come as far as the stage.
    with locked(stage):
        children = [
            start(wanted(tiny_model, photographs, tmp_path / "both" / run)) for run in ("a", "b")
        ]
        for _, output in children:
            while not (output.is_file() and "waiting for it" in output.read_text()):
                time.sleep(0.05)
    for process, _ in children:
        process.join()
        assert process.exitcode == 0
    outputs = [output.read_text() for _, output in children]
    assert sorted(text.count(f"quantize {name} on") for text in outputs) == [0, 1]
    assert all(f"{stage} is being written by another run; waiting for it" in t for t in outputs)
    for run in ("a", "b"):
        assert equal(weights(tmp_path / "both" / run), weights(tmp_path / "alone/run"))


def test_a_wait_ends_with_the_time(tiny_model, photographs, tmp_path):
    quantize(wanted(tiny_model, photographs, tmp_path / "run"))
    (stage,) = stages(tmp_path)
    (stage / "model.safetensors").unlink()
    limited = replace(wanted(tiny_model, photographs, tmp_path / "other"), max_time=0.2)
    with locked(stage), pytest.raises(FailedError, match="still being written by another run"):
        quantize(limited)


def test_a_fixed_site_has_its_bits_in_every_stage(tiny_model, photographs, tmp_path):
    sites = ('sites."body.0.conv2".input=6', 'sites."body.1.conv1".input=8')
    quantize(wanted(tiny_model, photographs, tmp_path / "run", *sites))
    (stage,) = stages(tmp_path)
    before = read_header(stage / "model.safetensors").quantization.sites
    assert (before["body.0.conv2"].input, before["body.1.conv2"].input) == (6, 8)
    network, header = load_model(tmp_path / "run/model.safetensors")
    assert list(dynamic_quantizers(network)) == [
        *("body.0.block_in", "body.1.block_in", "body.1.conv2")
    ]
    found = header.quantization.sites
    assert (found["body.0.conv2"].input, found["body.0.conv2"].dynamic) == (6, False)
    assert (found["body.1.conv2"].input, found["body.1.conv2"].dynamic) == (8, True)


def test_a_network_that_is_not_embedded_is_trained_first(photographs, tmp_path):
    small = ("network.scale=2", "network.n_blocks=1", "network.n_feats=8", "data.patch_hr=24")
    recipe = "cadyq-srresnet"
    quantize(
        wanted(None, photographs, tmp_path / "run", *small, method=None, recipe=recipe, scale=2)
    )
    pretrained, quantized = stages(tmp_path, "srresnet-x2-[0-9a-f]*"), stages(tmp_path, "*pams*")
    assert (len(pretrained), len(quantized)) == (1, 1)
    found = load_recipe(str(pretrained[0] / "recipe.toml"))
    assert (found.network.name, found.network.activation) == ("srresnet", "shared")
    steps = [t.steps for t in read_header(tmp_path / "run/model.safetensors").card.training]
    assert steps == [10, 1, 6]


@pytest.mark.parametrize("recipe", ["cadyq-carn", "cadyq-idn", "cadyq-srresnet", "cadyq-edsr"])
def test_published_placements(recipe):
    found = load_recipe(recipe, ["network.scale=4"])
    network, method = build(found.network), build_method(found.method)
    quantize_network(network, method, choose_placement(found, method), Bits(8, 8))
    counts = {"cadyq-carn": 18, "cadyq-idn": 24, "cadyq-srresnet": 32, "cadyq-edsr": 32}
    assert len(dynamic_quantizers(network)) == counts[recipe]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("pams", "is quantized already, by pams; start from a full-precision model"),
        ("cabm", "by pams; start from a model quantized by cadyq"),
    ],
)
def test_a_model_that_a_method_does_not_start_from(
    tiny_model, photographs, tmp_path, method, message
):
    quantize(request(tiny_model, photographs, tmp_path / "a", *SHORT, method="pams", w=8, a=8))
    with pytest.raises(UsageError, match=message):
        quantize(wanted(tmp_path / "a", photographs, tmp_path / "b", method=method))


def test_packed_codes_alone_are_not_trained(tiny_model, photographs, tmp_path):
    quantize(request(tiny_model, photographs, tmp_path / "a", *SHORT, method="pams", w=8, a=8))
    (tmp_path / "a/trainable.safetensors").unlink()
    with pytest.raises(UsageError, match="holds packed codes"):
        quantize(wanted(tmp_path / "a", photographs, tmp_path / "b"))


def test_wrong_bits_are_one_line(tiny_model, photographs, tmp_path):
    with pytest.raises(UsageError, match=r"cadyq: .*a.* 5: selectors start at"):
        quantize(wanted(tiny_model, photographs, tmp_path / "a", a=5))
    assert not (tmp_path / "a").exists()
    assert not stages(tmp_path)


def test_a_stage_of_another_method_is_refused_before_it_runs(tiny_model, photographs, tmp_path):
    wrong = 'before.quantize="daq-edsr"'
    with pytest.raises(UsageError, match="daq-edsr: is for daq; cadyq starts from pams"):
        quantize(wanted(tiny_model, photographs, tmp_path / "a", wrong))
    assert not (tmp_path / "a").exists()
    assert not stages(tmp_path)
