"""Several processes: unit tests with torchrun's variables, and runs of torchrun."""

import json
import os
import pty
import shutil
import subprocess
import sys
import termios

import onnxruntime
import pytest
import torch

from sr_quant_cli.cli.tree import app
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.modelfiles.modelfile import read_header
from sr_quant_cli.system.device import pick_device, set_threads
from sr_quant_cli.system.processes import (
    World,
    collect,
    from_first,
    process_group,
    share,
    thread_limit,
    world,
)
from tests.helpers import nearest_onnx, open_path, picture

CPU = torch.device("cpu")


@pytest.fixture
def place(monkeypatch):
    """Set torchrun's variables: the rank among all processes, and on this machine."""

    def put(rank, size, local_rank=None, local_size=None):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        local = (
            rank if local_rank is None else local_rank,
            size if local_size is None else local_size,
        )
        for name, value in zip(names, (rank, size, *local), strict=True):
            monkeypatch.setenv(name, str(value))

    return put


@pytest.fixture
def joined(monkeypatch):
    """Pretend that the other processes have joined; return the requested backends."""
    backends = []
    monkeypatch.setattr(
        "torch.distributed.init_process_group", lambda backend, **_: backends.append(backend)
    )
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    return backends


def torchrun(*arguments):
    """Run srq in two processes of this machine."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run(
        [sys.executable, *launcher, "-m", "sr_quant_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def errors(done):
    return [line for line in done.stderr.splitlines() if line.startswith("srq: ")]


def without_seconds(path, entries):
    report = json.loads(path.read_text())
    for entry in report[entries]:
        assert entry.pop("seconds") >= 0
    return report


def test_a_process_knows_its_place(place):
    assert world() == World(0, 1, 0, 1)
    place(5, 8, local_rank=1, local_size=4)
    assert world() == World(rank=5, size=8, local_rank=1, local_size=4)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
def test_what_is_shared_out_comes_back_in_order(place, monkeypatch, count):
    items = [f"item {index}" for index in range(count)]
    parts = []
    for rank in range(3):
        place(rank, 3)
        parts.append(share(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1

    def all_gather_object(out, _own):
        out[:] = parts

    monkeypatch.setattr("torch.distributed.all_gather_object", all_gather_object)
    assert collect(parts[-1]) == items


def test_alone_nothing_is_shared():
    assert share("abc") == ["a", "b", "c"]
    assert collect(("a", "b")) == ["a", "b"]
    assert from_first("a") == "a"
    with process_group(CPU) as here:
        assert here.size == 1
        assert not torch.distributed.is_initialized()


def test_an_error_in_one_process_is_told_by_that_one(place, joined):
    with pytest.raises(UsageError) as alone, process_group(CPU):
        raise UsageError("wrong")
    assert alone.value.shared
    place(0, 2)
    with pytest.raises(UsageError) as one_of_two, process_group(CPU):
        raise UsageError("wrong")
    assert not one_of_two.value.shared
    assert joined == ["gloo"]


def test_a_lost_process_is_one_line_and_a_defect_stays_one(place, joined):
    place(0, 2)
    with pytest.raises(FailedError, match="another process"), process_group(CPU):
        raise RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:43235")
    with pytest.raises(RuntimeError, match="shapes"), process_group(CPU):
        raise RuntimeError("shapes do not fit")


def test_cores_are_divided_among_the_processes_of_a_machine(place, monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    set_threads(None)
    assert taken == []
    for size, expected in ((2, 4), (3, 2), (16, 1)):
        place(0, 32, 0, size)
        set_threads(None)
        assert taken.pop() == expected
        assert thread_limit(5) == 5

    def session(_path, options, providers):
        taken.append(options.intra_op_num_threads)
        raise ValueError(providers)

    place(0, 4)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(UsageError):
        open_path(nearest_onnx(tmp_path / "n.onnx"), runtime="auto")
    assert taken == [2]


def test_each_process_takes_a_cuda_device_of_its_own(place, joined, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:3") == torch.device("cuda:3")
    place(6, 8, local_rank=2, local_size=4)
    assert pick_device("cpu") == CPU
    assert pick_device("cuda") == torch.device("cuda:2")
    with process_group(pick_device("auto")):
        assert chosen == [torch.device("cuda:2")]
    assert joined == ["nccl"]
    with pytest.raises(UsageError, match=r"`device` cuda:1: 4 processes.*cannot share"):
        pick_device("cuda:1")
    place(1, 2, local_rank=0, local_size=1)
    assert pick_device("auto") == torch.device("cuda:0")
    assert pick_device("cuda:3") == torch.device("cuda:3")


@pytest.mark.parametrize("rank", [0, 5])
def test_too_few_cuda_devices_are_refused_by_every_process(place, monkeypatch, rank):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    place(rank, 6)
    with pytest.raises(UsageError, match=r"`device` auto: 6 processes.* 4 are there"):
        pick_device("auto")


@pytest.mark.parametrize("rank", [0, 1])
def test_the_terminal_belongs_to_the_first_process(place, rank):
    code = (
        "from sr_quant_cli.cli import app, tree\n"
        "from tqdm import tqdm\n"
        "def work(*_, **__):\n"
        "    print('result')\n"
        "    tqdm(range(3), desc='bar', disable=None).close()\n"
        "    raise app.SrqError('wrong')\n"
        "tree.app, app.RANK0_HEAD_START_S = work, 0\n"
        "app.main()"
    )
    place(rank, 2)
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (24, 80))
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=inside, text=True, check=False
    )
    os.close(inside)
    shown = os.read(terminal, 10000).decode()
    os.close(terminal)
    assert done.returncode == 1
    assert done.stdout == ("result\n" if rank == 0 else "")
    assert ("bar:" in shown) is (rank == 0)
    assert f"srq: error: {'process 1 of 2: ' if rank else ''}wrong" in shown


@pytest.mark.slow
def test_eval_in_two_processes_gives_what_one_gives(tiny_model, tmp_path, capsys):
    for index in range(3):
        write_rgb(tmp_path / f"data/Set5/p{index}.png", picture(40, 45 + index, seed=index))
    write_rgb(tmp_path / "data/Set14/p.png", picture(41, 30, seed=9))  # the second process has none
    command = ("eval", tiny_model, "--bench", "Set5+Set14", "--data-root", tmp_path / "data")
    app([*map(str, command), "--json", str(tmp_path / "one.json")], standalone_mode=False)
    done = torchrun(*command, "--json", tmp_path / "two.json", "--record")
    assert done.returncode == 0, done.stderr
    assert done.stdout == capsys.readouterr().out
    assert without_seconds(tmp_path / "two.json", "rows") == without_seconds(
        tmp_path / "one.json", "rows"
    )
    assert [score.images for score in read_header(tiny_model).card.scores] == [3, 1]


@pytest.mark.slow
def test_upscale_in_two_processes_makes_what_one_makes(tiny_model, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for index in range(4):
        write_rgb(folder / f"p{index}.png", picture(12, 17 + index, seed=index))
    (folder / "p1.png").write_text("no picture")
    write_rgb(folder / "p3.webp", picture(12, 17))  # keeps its suffix, since p3.png exists
    command = ("upscale", folder, "--model", tiny_model, "-o", out, "--runtime", "torch")
    with pytest.raises(FailedError) as failed:
        app([*map(str, command), "--json", str(tmp_path / "one.json")], standalone_mode=False)
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(made) == ["p0_x2.png", "p2_x2.png", "p3.webp_x2.png", "p3_x2.png"]
    shutil.rmtree(out)
    done = torchrun(*command, "--json", tmp_path / "two.json")
    assert done.returncode == 1
    assert errors(done) == [f"srq: error: {failed.value}"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == made
    report = without_seconds(tmp_path / "two.json", "pictures")
    assert report == without_seconds(tmp_path / "one.json", "pictures")
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    for entry in report["pictures"]:
        told = entry["error"] or f"{entry['source']} -> {entry['target']}"
        assert sum(told in line for line in lines) == 1


@pytest.mark.slow
def test_an_error_that_one_process_meets_ends_all(tiny_model, tmp_path):
    for index in range(3):
        write_rgb(tmp_path / f"data/Set5/p{index}.png", picture(40, 40, seed=index))
        write_rgb(tmp_path / f"mine/p{index}.png", picture(40, 40, seed=index))
    (tmp_path / "mine/p1.png").unlink()
    done = torchrun(
        *("eval", "--sr-dir", tmp_path / "mine", "--scale", 2, "--bench", "Set5"),
        *("--data-root", tmp_path / "data", "--json", tmp_path / "e.json"),
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = [line for line in errors(done) if "another process" not in line]
    assert line.startswith("srq: error: process 1 of 2: --sr-dir: ")
    assert "no picture of p1" in line
    assert "RuntimeError" not in done.stderr
    assert not (tmp_path / "e.json").exists()


@pytest.mark.slow
def test_an_error_that_all_meet_is_told_once():
    done = torchrun("upscale")
    assert done.returncode == 1
    assert errors(done) == ["srq: error: IMAGE|FOLDER is missing (see --help)"]
