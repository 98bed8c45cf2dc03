"""Real processes that are killed, and the runs that go on after them."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from sr_quant_cli.system.files import leftovers
from tests.training.runs import SMALL, entries, equal, request, train_in_child, weights

LONG = ("train.iters=60", "train.checkpoint_every=2", "validation.every=10", "train.log_every=7")


@pytest.fixture(scope="module")
def processes():
    """Processes that have imported everything when they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.preload"])
    return context


def child(processes, wanted, die_at="", interrupt_at=None):
    # One thread: several would wait for each other on a busy machine.
    arguments = (replace(wanted, threads=1), os.environ["SRQ_CACHE"], die_at, interrupt_at)
    process = processes.Process(target=train_in_child, args=arguments)
    process.start()
    return process


def assert_like(run, reference):
    assert equal(weights(run), weights(reference))
    assert entries(run) == entries(reference)
    assert leftovers(run) == []
    assert sorted(path.name for path in run.glob("*.ckpt")) == sorted(
        path.name for path in reference.glob("*.ckpt")
    )


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_same_weights(processes, photographs, tmp_path):
    begun = time.monotonic()
    whole = child(processes, request(photographs, tmp_path / "whole", *LONG))
    whole.join()
    assert whole.exitcode == 0
    longest = time.monotonic() - begun
    moments = random.Random(0)
    kills, run = 0, tmp_path / "run"
    while True:
        process = child(processes, request(photographs, run, *LONG))
        process.join(moments.uniform(0.02, longest) if kills < 8 else None)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            continue
        assert process.exitcode == 0
        assert_like(run, tmp_path / "whole")
        if kills == 8:
            break
        run = tmp_path / f"run after {kills} kills"


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["in save", "in fsync", "after fsync", "in rename", "after rename"]
)
def test_a_kill_while_a_file_is_written_loses_nothing(processes, photographs, tmp_path, moment):
    short = ("train.checkpoint_every=1",)
    for name, die_at in (("whole", ""), ("run", moment), ("run", "")):
        process = child(processes, request(photographs, tmp_path / name, *short), die_at)
        process.join()
        assert process.exitcode == (-signal.SIGKILL if die_at else 0)
    assert_like(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_an_interrupt_saves_and_the_run_goes_on(processes, photographs, tmp_path):
    for name, step in (("whole", None), ("run", 6)):
        process = child(processes, request(photographs, tmp_path / name), interrupt_at=step)
        process.join()
        assert process.exitcode == (0 if step is None else 1)  # KeyboardInterrupt
    assert (tmp_path / "run/step-00000007.ckpt").is_file()
    assert not (tmp_path / "run/model.safetensors").exists()
    process = child(processes, request(photographs, tmp_path / "run"))
    process.join()
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_second_interrupt_breaks_off_at_once():
    twice = (
        "import signal\n"
        "from sr_quant_cli.system.interrupt import DeferredInterrupts\n"
        "with DeferredInterrupts() as interrupts:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print(interrupts.received, flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('went on')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", twice], capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == [str(int(signal.SIGINT))]
    assert "KeyboardInterrupt" in ended.stderr


def command(photographs, run, *overrides):
    sets = [word for value in (*SMALL, *overrides) for word in ("--set", value)]
    return [
        *(sys.executable, "-m", "sr_quant_cli", "pretrain", "edsr", "--scale", "2"),
        *(
            "--data",
            str(photographs),
            "--run",
            str(run),
            "--device",
            "cpu",
            "--threads",
            "1",
            *sets,
        ),
    ]


@pytest.mark.slow
def test_a_second_run_is_kept_out_and_sigterm_saves(photographs, tmp_path):
    run = tmp_path / "run"
    long = command(photographs, run, "train.iters=1000000")
    with subprocess.Popen(long, stdout=subprocess.PIPE, text=True) as first:
        for line in first.stdout:
            if line.startswith("step"):
                break
        second = subprocess.run(long, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert second.stderr.splitlines() == [
            f"srq: error: {run} is in use by another run; wait for it or choose another folder "
            "with --run"
        ]
        first.send_signal(signal.SIGTERM)
        rest = first.stdout.read()
    assert first.returncode == 143
    assert "run the same command again to continue" in rest
    assert list(run.glob("step-*.ckpt"))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(photographs, tmp_path):
    run = tmp_path / "run"
    assert subprocess.run(command(photographs, run), check=False).returncode == 0
    good = (run / "step-00000012.ckpt").read_bytes()
    # No file may grow beyond this: the system's answer is like that of a full disk.
    limited = (
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(good) // 2},) * 2)\n"
        "runpy.run_module('sr_quant_cli', run_name='__main__')"
    )
    arguments = command(photographs, run, "train.iters=20")[3:]
    ended = subprocess.run(
        [sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"srq: error: cannot write {run}/")
    assert "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (run / "step-00000012.ckpt").read_bytes() == good
    assert leftovers(run) == []
