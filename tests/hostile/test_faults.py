"""Killed, interrupted and starved commands, and several at once: nothing is lost or left."""

import hashlib
import os
import signal
import time
from random import Random
from types import SimpleNamespace

import pytest
import torch

from sr_quant_cli.imaging.io import decodes
from tests.data.test_fetch import Server as Downloads
from tests.helpers import picture
from tests.hostile.jobs import JOBS, PICTURES, archive, supply
from tests.hostile.processes import Place, litter, sizes, state
from tests.modelfiles.released import msrresnet

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
NO_LIMIT = {"cpu": 600, "memory": None}


@pytest.fixture(scope="module")
def downloads():
    running = Downloads()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture(scope="module")
def bench(server, models, downloads, tmp_path_factory):
    """Makes a place with all that the jobs need, and runs them."""
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "net.pth"
    torch.save(msrresnet(4)[1], checkpoint)
    count = 0

    def make():
        nonlocal count
        count += 1
        place = Place(server, tmp_path_factory.mktemp("bench") / f"place{count}")
        supply(place, {**models, "checkpoint": checkpoint})
        content = archive(place)
        downloads.files["/pack.tar"] = content
        place.environment["TOY_URL"] = downloads.url("pack.tar")
        place.environment["TOY_MD5"] = hashlib.md5(content).hexdigest()
        return place

    known = {}

    def undisturbed(name):
        if name not in known:
            place = make()
            ended = run(place, name)
            assert ended.code == 0, ended
            assert not litter(place.folder)
            known[name] = SimpleNamespace(
                result=JOBS[name].result(place.made), seconds=ended.seconds, place=place
            )
        return known[name]

    return SimpleNamespace(make=make, undisturbed=undisturbed)


def start(place, name, **changes):
    job = JOBS[name]
    return place.start(*job.line.split(), **NO_LIMIT | job.changes | changes)


def run(place, name, **changes):
    return start(place, name, **changes).end(300)


def finished_like(place, name, reference):
    """Run a job to its end; its result is the undisturbed one, and nothing is left."""
    ended = run(place, name)
    assert ended.code == 0, (name, ended)
    assert JOBS[name].result(place.made) == reference.result, name
    assert not litter(place.folder), (name, litter(place.folder))
    assert not list((place.folder / "home").iterdir()), name


KILLS = {
    "upscale": (4, 50),
    "replace": (0, 30),
    "prepare": (0, 30),
    "pretrain": (2, 60),
    "quantize": (0, 40),
    "export": (0, 20),
    "import": (2, 20),
    "pack": (0, 20),
    "download": (2, 30),
}
"""Kills in every run of the tests, and with ``-m hostile``: 300."""


_AT_ONCE = 10
"""Kills of a test; it is stopped after ten minutes."""


@pytest.mark.parametrize(
    ("name", "kills", "series"),
    [pytest.param(name, part, 0, id=f"{name}-part") for name, (part, _) in KILLS.items() if part]
    + [
        pytest.param(name, _AT_ONCE, series, id=f"{name}-{series}", marks=pytest.mark.hostile)
        for name, (_, whole) in KILLS.items()
        for series in range(whole // _AT_ONCE)
    ],
)
def test_killed_commands_end_as_if_nothing_had_been(bench, name, kills, series):
    """One to four kills at random moments, and then a run to the end, in turns."""
    reference, draw = bench.undisturbed(name), Random(f"{name} {series}")
    while kills > 0:
        place = bench.make()
        for _ in range(min(kills, draw.randint(1, 4))):
            child = start(place, name)
            time.sleep(draw.uniform(0, 0.9 * reference.seconds))
            child.send(signal.SIGKILL)
            assert child.end().code in (-signal.SIGKILL, 0)
            kills -= 1
        finished_like(place, name, reference)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param(name, count, id=f"{name}-{size}", marks=marks)
        for size, count, marks in (("part", 1, ()), ("whole", 6, pytest.mark.hostile))
        for name in JOBS
        if size == "whole" or name in ("upscale", "pretrain")
    ],
)
def test_interrupted_commands_say_how_to_go_on(bench, name, number, count):
    reference, draw = bench.undisturbed(name), Random(f"{name} {number}")
    for _ in range(count):
        place = bench.make()
        child = start(place, name)
        time.sleep(draw.uniform(0.1, 1) * reference.seconds)
        child.send(number)
        ended = child.end()
        assert ended.code in (SIGNALS[number], 0), ended
        assert "Traceback" not in ended.err + ended.out, ended
        assert not litter(place.made) or name == "download", ended
        if ended.code:
            made = list(place.made.iterdir())
            assert all(map(decodes, (path for path in made if path.suffix == ".png")))
            told = ended.out + ended.err
            if made and JOBS[name].going_on and not (place.made / "run").is_dir():
                assert JOBS[name].going_on in told, ended
            if list(place.made.glob("run/step-*")):
                assert JOBS[name].going_on in told, ended
        finished_like(place, name, reference)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("upscale", "import") else pytest.mark.hostile)
        for name in JOBS
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing(bench, name):
    """No file may grow beyond a limit: the answer of the system is like that of a full disk.

    The limit is above what commands print, as that goes to files here.
    """
    reference = bench.undisturbed(name)
    largest = max(path.stat().st_size for path in reference.place.made.rglob("*") if path.is_file())
    for room in (2000, largest // 3, largest - 1):
        place = bench.make()
        ended = run(place, name, file=room)
        assert ended.code == 1, ended
        assert "Traceback" not in ended.err, ended
        assert ended.last.startswith("srq: error: "), ended
        assert not litter(place.made) or name == "download", (litter(place.made), ended)
        for path in place.made.rglob("*.png"):
            assert decodes(path)
        finished_like(place, name, reference)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("upscale", "pretrain") else pytest.mark.hostile)
        for name in JOBS
    ],
)
def test_a_folder_that_cannot_be_written_is_told(bench, name):
    place = bench.make()
    place.made.chmod(0o555)
    ended = run(place, name)
    assert ended.code in (1, 2), ended
    assert ended.last.startswith("srq: error: "), ended
    assert "ermission" in ended.last, ended
    assert "made" in ended.last, ended
    assert not list(place.made.iterdir())
    place.made.chmod(0o755)
    finished_like(place, name, bench.undisturbed(name))


@pytest.mark.hostile
def test_a_cache_that_cannot_be_written_stops_nothing(bench):
    reference, place = bench.undisturbed("prepare"), bench.make()
    (place.folder / "cache").chmod(0o555)
    ended = run(place, "prepare")
    assert ended.code == 0, ended
    assert "not kept: set SRQ_CACHE" in ended.err
    assert state(place.made) == reference.result
    assert not list((place.folder / "cache").iterdir())
    assert not list((place.folder / "scratch").iterdir())


@pytest.mark.parametrize("name", ["upscale", "pretrain", "quantize", "import"])
def test_inputs_that_cannot_be_read_are_named(bench, name):
    place = bench.make()
    paths = [path for path in place.given.rglob("*") if path.is_file()]
    for path in paths:
        path.unlink()
    ended = run(place, name)
    assert ended.code in (1, 2), ended
    assert "given/" in ended.last, ended
    assert ended.last.startswith("srq: error: ")


@sizes(part=2, whole=12)
def test_inputs_that_vanish_meanwhile(bench, size):
    """Pictures that are there when the work begins, and not when their turn comes."""
    reference, draw = bench.undisturbed("upscale"), Random(0)
    for _ in range(size.count):
        place = bench.make()
        child = start(place, "upscale")
        time.sleep(draw.uniform(0, 1) * reference.seconds)
        for path in sorted((place.given / "photographs").iterdir())[1:]:
            path.unlink()
        ended = child.end()
        assert ended.code in (0, 1), ended
        assert "Traceback" not in ended.err
        assert not litter(place.made)
        whole = reference.result
        assert all(whole[name] == content for name, content in state(place.made).items())


@pytest.mark.parametrize(
    "megabytes", [pytest.param(m, marks=pytest.mark.hostile) for m in (4, 8, 16, 32, 128)] + [64]
)
def test_want_of_memory_is_told(bench, megabytes):
    """A picture that needs more memory than there is, by the address space that is left."""
    from sr_quant_cli.imaging.io import write_rgb

    place = bench.make()
    write_rgb(place.given / "large.png", picture(500, 900))
    ended = place.run(
        *("upscale", "given/large.png", "-o", "made/l.png", "--model", "given/program.safetensors"),
        memory=megabytes << 20,
        cpu=120,
    )
    assert ended.code in (0, 1), ended
    assert "Traceback" not in ended.err, ended
    if ended.code:
        assert "memory" in ended.last, ended
        assert not list(place.made.iterdir())


@pytest.mark.hostile
@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("name", JOBS)
def test_closed_streams_stop_nothing(bench, name, closed):
    place = bench.make()
    ended = run(place, name, closed=closed)
    assert ended.code == 0, ended
    assert JOBS[name].result(place.made) == bench.undisturbed(name).result


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param(name, count, id=f"{name}-{count}", marks=marks)
        for count, names, marks in (
            (2, ("upscale", "pretrain"), ()),
            (8, ("replace", "prepare", "pack", "import", "download"), pytest.mark.hostile),
            (4, ("quantize", "export"), pytest.mark.hostile),
        )
        for name in names
    ],
)
def test_several_at_once_share_outputs_runs_and_the_cache(bench, name, count):
    """Each succeeds, or says that another one is at work; the result is whole."""
    reference, place = bench.undisturbed(name), bench.make()
    children = [start(place, name) for _ in range(count)]
    ended = [child.end(300) for child in children]
    assert any(each.code == 0 for each in ended), ended
    for each in ended:
        assert each.code in (0, 1, 2), each
        assert "Traceback" not in each.err, each
        if each.code:
            assert each.last.startswith("srq: error: "), each
            assert name in ("upscale", "pretrain", "quantize"), each
    assert JOBS[name].result(place.made) == reference.result
    finished_like(place, name, reference)


@pytest.mark.hostile
def test_the_jobs_make_what_they_should(bench):
    """Else equal results would mean little."""
    assert len(bench.undisturbed("upscale").result) == PICTURES
    assert os.path.getsize(bench.undisturbed("prepare").place.made / "o.png") > 1000  # noqa: PTH202
    assert len(bench.undisturbed("pretrain").result["weights"]) > 8
    assert set(bench.undisturbed("import").result) == {"m.safetensors"}
    assert len(bench.undisturbed("download").result) == PICTURES + 2
